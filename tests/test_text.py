from ipg_jax.text import shown


def test_printable_names_of_any_script_stay():
    for name in ("IMG (1).jpg", "Fußgänger", "歩行者", ""):
        assert shown(name) == name


def test_control_characters_are_escaped():
    assert shown("a\nb\x1b[2Jc\u202ed\ud800\r\t") == "a\\nb\\x1b[2Jc\\u202ed\\ud800\\r\\t"


def test_long_names_are_cut_in_the_middle():
    text = shown("a" * 1000 + "b" * 1000, limit=20)
    assert text == "a" * 10 + "..." + "b" * 10
