"""Detectors by name: from the package, and from a server."""

import functools
import hashlib
import http.server
import json
import threading

import pytest

from ipg_jax.weights import known_models, load_detector, locate

DATA = b"the bytes of a file"
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def server(tmp_path):
    """The address of a server of the folder `published`, on this machine."""
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "people.safetensors").write_bytes(DATA)

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments):
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Writes a registry with one model, `people`, and returns its path."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("IPG_JAX_CACHE", str(tmp_path / "cache"))

    def write(**entry) -> str:
        path = tmp_path / "models.json"
        path.write_text(json.dumps({"people": {"about": "People.", "sha256": SHA256} | entry}))
        return str(path)

    return write


def test_what_ships_is_whole():
    for name, model in known_models().items():
        if model.file is not None:
            _, detector = load_detector(locate(name))
            assert detector["about"] == model.about
            assert model.file.stat().length < 8e6


def test_a_file_is_downloaded_once_and_compared(server, registry, tmp_path):
    models = registry(url=f"{server}/people.safetensors")
    path = locate("people", models)
    assert path.read_bytes() == DATA
    assert path.parent == tmp_path / "cache"
    (tmp_path / "published" / "people.safetensors").unlink()
    assert locate("people", models) == path
    path.write_bytes(DATA[:-1])
    with pytest.raises(ValueError, match=r"18 bytes.*remove it, and it is downloaded again"):
        locate("people", models)


def test_what_cannot_be_downloaded_is_an_error_that_leaves_nothing(server, registry, tmp_path):
    with pytest.raises(OSError, match=r"people cannot be downloaded from .*404.* may be put at"):
        locate("people", registry(url=f"{server}/none.safetensors"))
    with pytest.raises(ValueError, match=r"people.safetensors is not the file that was published"):
        locate("people", registry(url=f"{server}/people.safetensors", sha256="0" * 64))
    assert not list(tmp_path.glob("cache/*"))


def test_files_and_folders_go_before_names(registry, tmp_path):
    (tmp_path / "people.safetensors").write_bytes(DATA)
    models = registry(file="people.safetensors")
    assert locate("people", models).read_bytes() == DATA
    (tmp_path / "people").mkdir()
    assert str(locate("people", models)) == "people"
    assert str(locate("runs/people", models)) == "runs/people"
    assert str(locate("elsewhere", models)) == "elsewhere"
    for typo in ("peoples", "PEOPLE"):
        with pytest.raises(FileNotFoundError, match="did you mean the detector 'people'"):
            locate(typo, models)


@pytest.mark.parametrize(
    "entry", [{}, {"file": "a", "url": "b"}, {"file": "a", "about": None, "sha256": None}]
)
def test_a_damaged_registry_is_named(registry, entry):
    with pytest.raises(ValueError, match=r"models.json is damaged at 'people'"):
        known_models(registry(**entry))
