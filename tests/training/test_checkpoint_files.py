import re

import pytest
from etils import epath

from ipg_jax.training.checkpoint_files import find_damage, write_checksums


@pytest.fixture
def checkpoint(tmp_path):
    """A folder with the files of a checkpoint, as far as checksums are concerned."""
    state = epath.Path(tmp_path) / "7" / "default"
    (state / "d").mkdir(parents=True)
    (state / "_METADATA").write_text("{}")
    (state / "d" / "array").write_bytes(b"values")
    write_checksums(state)
    return state.parent


def test_a_whole_checkpoint_has_no_damage(checkpoint):
    assert find_damage(checkpoint) == ""


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: (x / "d" / "array").write_bytes(b"valves"), "d/array is not as it was written"),
        (lambda x: (x / "d" / "array").unlink(), "there is no .*d/array"),
        (lambda x: (x / "d" / "more").write_bytes(b""), "does not list d/more"),
        (lambda x: (x / "checksums.json").write_text("{}"), "does not list _METADATA"),
        (lambda x: (x / "_METADATA").unlink(), "there is no .*_METADATA"),
    ],
)
def test_damage_is_named(checkpoint, change, message):
    change(checkpoint / "default")
    assert re.search(message, find_damage(checkpoint))


def test_checksums_that_are_a_folder_are_damage(checkpoint):
    (checkpoint / "default" / "checksums.json").unlink()
    (checkpoint / "default" / "checksums.json").mkdir()
    assert "is not a regular file" in find_damage(checkpoint)


def test_a_checkpoint_without_checksums_is_warned_of(checkpoint, caplog):
    (checkpoint / "default" / "checksums.json").unlink()
    assert find_damage(checkpoint) == ""
    assert "has no checksums" in caplog.text
