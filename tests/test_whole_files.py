import os

import pytest
from small_files import small_files_only

from ipg_jax.files import check_folder, make_folder, read_json, write_whole


def test_a_file_that_cannot_be_written_stays_as_it_was(tmp_path):
    path = tmp_path / "config.json"
    write_whole(path, "{}")
    with (
        small_files_only(2**16),
        pytest.raises(OSError, match=r"cannot write .*config\.json: File too large"),
    ):
        write_whole(path, b" " * 2**17)
    assert path.read_text() == "{}"
    assert os.listdir(tmp_path) == ["config.json"]
    write_whole(path, "[\u00e9]")
    assert path.read_bytes() == b"[\xc3\xa9]"


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (b"", "not JSON"),
        (b'{"a": 1', "not JSON"),
        (b'{"a": "\xff"}', "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[1]", "a list and not a dict"),
    ],
)
def test_a_damaged_file_is_named_with_the_way_out(tmp_path, written, reason):
    path = tmp_path / "config.json"
    path.write_bytes(written)
    with pytest.raises(ValueError, match=rf"config\.json is damaged, .*{reason}.*: remove it"):
        read_json(path, dict, "remove it")


def test_a_file_in_the_way_of_a_folder_is_named(tmp_path):
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    check_folder(tmp_path / "not" / "yet")
    assert not (tmp_path / "not").exists()
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link", "file/below"):
        for refuse in (check_folder, make_folder):
            with pytest.raises(NotADirectoryError, match=rf"no folder .*{name}, for .* move it"):
                refuse(tmp_path / name)
    assert not (tmp_path / "nowhere").exists()
