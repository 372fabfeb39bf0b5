"""Detectors as a SavedModel: the same boxes, what it says, and TensorFlow alone."""

import json
import pathlib
import shutil

import pytest
from documented import assert_like, run_snippet
from tiny_detectors import pictures, tiny_detector

from ipg_jax.inference.detector import Detector
from ipg_jax.inference.export import differences, export_detector
from ipg_jax.inference.saved_model import (
    check_replaceable,
    save_saved_model,
    saved_model_detect,
)

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("exported") / "savedmodel"
    save_saved_model(tiny_detector(), path)
    return path


def test_landscape_and_portrait_find_what_their_detector_does(folder):
    detect = saved_model_detect(folder)
    for picture in pictures():
        found = differences(tiny_detector(), detect, picture)
        assert (found.objects, found.unmatched) == (20, 0)
        assert found.largest < 1e-3


def test_two_stages(tmp_path):
    save_saved_model(tiny_detector("cascade_rcnn"), tmp_path)
    found = differences(tiny_detector("cascade_rcnn"), saved_model_detect(tmp_path), pictures()[0])
    assert (found.objects, found.unmatched) == (20, 0)
    assert found.largest < 1e-3


def test_what_a_folder_says(folder):
    about = json.loads((folder / "assets.extra" / "detector.json").read_text())
    assert about["class_names"] == [f"digit {i}" for i in range(10)]
    assert about["thresholds"] == [i / 20 for i in range(10)]
    assert about["inputs"] == [{"height": 64, "width": 96}, {"height": 96, "width": 64}]


def test_an_exported_detector_is_not_exported_again(tmp_path):
    export_detector(tiny_detector(), platforms=["cpu"]).save(tmp_path / "detector.zip")
    with pytest.raises(ValueError, match="exported already: name the run that it is of"):
        save_saved_model(Detector.load(tmp_path / "detector.zip"), tmp_path / "savedmodel")


def test_only_an_earlier_export_is_replaced_and_whole(folder, tmp_path):
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "saved_model.pb").write_bytes(b"of somebody else")
    with pytest.raises(FileExistsError, match="something else than a SavedModel of ipg-jax"):
        save_saved_model(tiny_detector(), theirs)
    assert (theirs / "saved_model.pb").read_bytes() == b"of somebody else"

    ours = tmp_path / "ours"
    shutil.copytree(folder, ours)
    (ours / "variables" / "left_over").write_bytes(b"")
    save_saved_model(tiny_detector(), ours)
    names = {str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()}
    assert {str(file.relative_to(ours)) for file in ours.rglob("*") if file.is_file()} == names
    (ours / "saved_model.pb").unlink()  # as if the writing had been interrupted
    with pytest.raises(OSError, match="SavedModel file does not exist"):
        saved_model_detect(ours)
    check_replaceable(ours)


def test_tensorflow_alone_runs_it_as_the_documentation_says(folder):
    picture = pictures()[0]  # as large as the input: neither resized nor padded
    found, _ = run_snippet(
        "import json\n\nimport numpy as np\nimport tensorflow as tf\n",
        folder.parent,
        hidden=("jax",),
        picture=picture,
    )
    own = tiny_detector().predict(picture, threshold=0.0)
    assert found["valid"].sum() == len(own) == 20
    assert_like(found, own)
