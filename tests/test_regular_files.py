import os
import socket

import pytest

from ipg_jax.files import check_regular, exists, list_folder, read_regular


def test_regular_files_and_links_to_them_are_read(tmp_path):
    path = tmp_path / "a name.json"
    path.write_bytes(b"\x00\xffdata")
    (tmp_path / "link").symlink_to(path)
    assert read_regular(path) == read_regular(tmp_path / "link") == b"\x00\xffdata"
    with pytest.raises(FileNotFoundError, match=r"cannot read .*gone\.json: No such file"):
        read_regular(tmp_path / "gone.json")


def test_what_is_no_regular_file_is_refused_without_being_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the name of a socket has at most 107 characters
    os.mkfifo("pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    for name, kind in (
        ("pipe", "named pipe"),
        ("link", "named pipe"),
        (f"file://{tmp_path}/pipe", "named pipe"),
        ("folder", "folder"),
        ("/dev/zero", "character device"),
    ):
        with pytest.raises(OSError, match=f"cannot read .*{name}: it is a {kind}"):
            read_regular(name)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("server")
        with pytest.raises(OSError, match="server: it is a socket"):
            check_regular("server")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("gone.json", "gone.json: No such file"),
        ("a\x00b", r"a\\x00b: embedded null"),
        ("lone\ud800surrogate", r"lone\\ud800surrogate: "),
        ("line\nbreak\x1b[31m", r"line\\nbreak\\x1b\[31m: No such file"),
        ("long" * 200, r"\.\.\..*long: File name too long"),
    ],
)
def test_names_of_no_file_are_errors_of_one_printable_line(tmp_path, name, shown):
    with pytest.raises(OSError, match=shown) as caught:
        read_regular(f"{tmp_path}/{name}")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("ask", [read_regular, exists, list_folder])
@pytest.mark.parametrize("scheme", ["http", "s3"])
def test_stores_that_there_are_not_are_errors_that_name_the_path(ask, scheme):
    with pytest.raises(OSError, match=rf"cannot [a-z ]+ {scheme}://host/x: .*'?{scheme}"):
        ask(f"{scheme}://host/x")


def test_an_address_that_its_store_refuses_is_an_error_that_names_it():
    with pytest.raises(OSError, match="cannot read gs://: "):
        read_regular("gs://")
