"""What makes a platform fast stays in kernels and operators."""

import pathlib

import pytest

ROOT = pathlib.Path(__file__).parents[1]
ALLOWED = {  # word: where it may stand besides kernels and operators
    "platform_dependent": (),
    "optimization_barrier": (),
    "custom_vjp": (),
    "custom_jvp": (),
    "device_count(": ("ipg_jax/training/benchmark.py", "ipg_jax/training/loop.py"),  # to print it
    "with_sharding_constraint": ("ipg_jax/training/steps.py",),  # of parameters and gradients
}


def offenders(root: pathlib.Path, word: str, allowed: tuple[str, ...]) -> list[str]:
    """Returns the file, line and text of each place where the word may not stand."""
    found = []
    for path in sorted((root / "ipg_jax").rglob("*.py")):
        name = path.relative_to(root).as_posix()
        if not name.startswith(("ipg_jax/kernels/", "ipg_jax/ops/", *allowed)):
            lines = enumerate(path.read_text().splitlines(), start=1)
            found += [f"{name}:{number}: {line.strip()}" for number, line in lines if word in line]
    return found


@pytest.mark.parametrize("word", ALLOWED)
def test_what_may_stand_in_kernels_and_operators_alone(word: str):
    found = offenders(ROOT, word, ALLOWED[word])
    assert not found, "\n" + "\n".join(found)


def test_files_that_are_allowed_exist():
    assert all((ROOT / name).is_file() for names in ALLOWED.values() for name in names)


def test_offenders_are_named(tmp_path):
    for folder in ("kernels", "models/ipg"):
        file = tmp_path / "ipg_jax" / folder / "net.py"
        file.parent.mkdir(parents=True)
        file.write_text("import jax\n\n\n@jax.custom_vjp\ndef f(x): ...\n")
    assert offenders(tmp_path, "custom_vjp", ()) == ["ipg_jax/models/ipg/net.py:4: @jax.custom_vjp"]
    assert offenders(tmp_path, "custom_vjp", ("ipg_jax/models/ipg/net.py",)) == []
