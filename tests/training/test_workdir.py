"""What a start finds in its workdir, and what it refuses before it writes anything."""

import json

import pytest
from etils import epath

from ipg_jax import data
from ipg_jax.training.trained import read_classes, read_thresholds
from ipg_jax.training.workdir import check_workdir, write_run_files

CONFIG = {"seed": 0, "optimizer": {"learning_rate": 0.1}}


@pytest.fixture(scope="module")
def source() -> data.Source:
    return data.DigitsSource(split="train", num_scenes=1, scene_size=64)


@pytest.fixture
def workdir(tmp_path, source) -> epath.Path:
    """A workdir of a run that has been started."""
    workdir = epath.Path(tmp_path)
    check_workdir(workdir, CONFIG, source)
    write_run_files(workdir, CONFIG, source)
    return workdir


def contents(workdir: epath.Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in workdir.iterdir() if not path.is_dir()}


def test_a_start_with_another_config_lists_the_changes_and_writes_nothing(workdir, source, caplog):
    before = contents(workdir)
    check_workdir(workdir, CONFIG | {"seed": 1}, source)
    assert '-  "seed": 0\n+  "seed": 1' in caplog.text
    assert contents(workdir) == before
    write_run_files(workdir, CONFIG | {"seed": 1}, source)
    assert json.loads((workdir / "config.json").read_text())["seed"] == 1


def test_a_start_with_other_classes_is_refused(workdir, source):
    (workdir / "classes.json").write_text('[{"id": 3, "name": "cat"}]')
    before = contents(workdir)
    with pytest.raises(ValueError, match=r"has other classes .*(.|\n)*cat(.|\n)*another workdir"):
        check_workdir(workdir, CONFIG | {"seed": 1}, source)
    assert contents(workdir) == before


@pytest.mark.parametrize(
    ("name", "written"),
    [
        ("config.json", '{"seed": 0, "optim'),
        ("config.json", "[]"),
        ("classes.json", ""),
        ("classes.json", '{"id": 1, "name": "cat"}'),
        ("classes.json", '[{"id": 1}]'),
        ("classes.json", '[{"id": 1, "name": ["cat"]}]'),
        ("classes.json", '["cat"]'),
    ],
)
def test_damaged_files_are_named_with_the_way_out(workdir, source, name, written):
    (workdir / name).write_text(written)
    with pytest.raises(ValueError, match=rf"{name} is damaged, .*: remove this file"):
        check_workdir(workdir, CONFIG, source)


def test_metrics_without_checkpoints_are_not_erased(workdir, source):
    metrics = workdir / "metrics.jsonl"
    metrics.write_text('{"step": 7}\n')
    with pytest.raises(ValueError, match=r"no folder of checkpoints .* move .*metrics\.jsonl away"):
        check_workdir(workdir, CONFIG, source)
    (workdir / "checkpoints").mkdir()  # as a run has it that was killed before its first one
    check_workdir(workdir, CONFIG, source)


@pytest.mark.parametrize("name", ["checkpoints", "eval", "samples"])
def test_a_file_in_the_place_of_a_folder_is_refused_at_the_start(workdir, source, name):
    (workdir / name).touch()
    with pytest.raises(NotADirectoryError, match=rf"{name} is not a folder: move it away"):
        check_workdir(workdir, CONFIG, source)


def test_metrics_that_are_no_file_are_refused(workdir, source):
    (workdir / "metrics.jsonl").mkdir()
    with pytest.raises(OSError, match=r"metrics\.jsonl is not a regular file: move it away"):
        check_workdir(workdir, CONFIG, source)


def test_classes_come_back(workdir, source):
    assert [entry["name"] for entry in read_classes(workdir)] == list(source.class_names)
    with pytest.raises(FileNotFoundError, match="was this run trained"):
        read_classes(workdir / "none")


def test_thresholds_are_those_of_the_checkpoints_report(workdir, caplog):
    names = ["cat", "dog"]
    assert read_thresholds(workdir, 40, names) is None
    path = workdir / "report" / "thresholds.json"
    path.parent.mkdir()
    classes = {"dog": {"threshold": 0.25, "f1": 0.9}, "cat": {"threshold": None, "f1": None}}
    path.write_text(json.dumps({"step": 40, "iou": 0.5, "classes": classes}))
    assert read_thresholds(workdir, 40, names) == (None, 0.25)
    assert not caplog.text
    assert read_thresholds(workdir, 50, names) is None
    assert "is of step 40, not of checkpoint 50: its thresholds are not used" in caplog.text
    with pytest.raises(ValueError, match=r"thresholds\.json is damaged .*ipg-jax report"):
        read_thresholds(workdir, 40, ["cat", "cow"])
    classes["dog"]["threshold"] = 7
    path.write_text(json.dumps({"step": 40, "classes": classes}))
    with pytest.raises(ValueError, match=r"thresholds\.json is damaged .*scores from 0 to 1"):
        read_thresholds(workdir, 40, names)
