"""SavedModels of exported detectors: the same boxes, and what is not overwritten."""

import json

import pytest
from tiny_detectors import pictures, tiny_detector

from ipg_jax.inference.export import differences, export_detector
from ipg_jax.inference.saved_model import load_saved_model, write_saved_model


def test_a_saved_model_finds_what_its_detector_does(tmp_path):
    detector = tiny_detector()
    exported = export_detector(detector)
    write_saved_model(exported, tmp_path / "deep" / "model")
    detect = load_saved_model(tmp_path / "deep" / "model")
    for image in pictures():
        found = differences(detector, detect, image)
        assert found.objects == 20
        assert found.largest < 1e-3
    header = json.loads((tmp_path / "deep/model/assets.extra/detector.json").read_text())
    assert header["class_names"] == list(detector.class_names)


def test_nothing_but_a_saved_model_is_replaced(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(b"")
    with pytest.raises(FileExistsError, match="is no SavedModel"):
        write_saved_model(export_detector(tiny_detector(), platforms=["cpu"]), tmp_path)
