"""Exported detectors: the same boxes, one file, what is refused, and JAX alone."""

import functools
import io
import json
import pathlib
import zipfile

import jax
import numpy as np
import pytest
from documented import assert_like, run_snippet
from tiny_detectors import SIZE, pictures, tiny_detector

from ipg_jax.images import ImageOptions
from ipg_jax.inference.detector import Detector
from ipg_jax.inference.export import compare, differences, export_detector
from ipg_jax.inference.exported import ExportedDetector
from ipg_jax.inference.views import Found

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> pathlib.Path:
    """An exported RetinaNet."""
    path = tmp_path_factory.mktemp("exported") / "detector.zip"
    export_detector(tiny_detector()).save(path)
    return path


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_file_finds_what_its_detector_does(file, batch_size):
    detector, loaded = tiny_detector(), Detector.load(file, batch_size=batch_size)
    assert loaded.class_names == detector.class_names
    assert loaded.category_ids == detector.category_ids
    assert loaded.image_size == SIZE
    np.testing.assert_array_equal(loaded.thresholds, detector.thresholds)
    for threshold in (0.0, None):
        found = loaded.predict(pictures(), threshold=threshold)
        for one, own in zip(found, detector.predict(pictures(), threshold=threshold), strict=True):
            assert len(own)
            np.testing.assert_array_equal(one.labels, own.labels)
            np.testing.assert_allclose(one.scores, own.scores, rtol=1e-4)
            np.testing.assert_allclose(one.boxes, own.boxes, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("kind", ["faster_rcnn", "cascade_rcnn"])
def test_two_stages(kind, tmp_path):
    detector = tiny_detector(kind)
    export_detector(detector, platforms=["cpu"]).save(tmp_path / "detector.zip")
    loaded = ExportedDetector.load(tmp_path / "detector.zip")
    assert loaded.platforms == ("cpu",)
    detect = functools.partial(jax.jit(loaded.predict), loaded.weights)
    found = differences(detector, detect, pictures()[0])
    assert found.objects == 20
    assert found.largest < 1e-3


def test_weights_of_bfloat16_are_kept_to_the_bit():
    detector = tiny_detector(param_dtype="bfloat16")
    exported = export_detector(detector, platforms=["cpu"])
    kernel = detector.variables["params"]["backbone"]["conv1"]["kernel"]
    assert kernel.dtype == "bfloat16"
    np.testing.assert_array_equal(
        exported.weights["params/backbone/conv1/kernel"], np.asarray(kernel, np.float32)
    )


def test_what_a_file_says(file):
    loaded = ExportedDetector.load(file)
    assert loaded.platforms == ("cpu", "cuda", "tpu")
    assert list(loaded.programs) == [(64, 96), (96, 64)]
    header = loaded.header()
    assert header["inputs"] == [{"height": 64, "width": 96}, {"height": 96, "width": 64}]
    assert (header["pyramid_levels"], header["max_detections"]) == (2, 20)
    assert loaded.image_options == ImageOptions()


def test_sizes_that_were_not_exported_are_named(file):
    message = r"takes images of 64 x 96 or 96 x 64 pixels with their padding, not of 32 x 32"
    with pytest.raises(ValueError, match=message):
        Detector.load(file, image_size=(32, 32)).predict(pictures()[0])
    with pytest.raises(ValueError, match="exported already"):
        export_detector(Detector.load(file))
    with pytest.raises(ValueError, match="platforms are cpu, cuda, rocm and tpu, not gpu"):
        export_detector(tiny_detector(), platforms=["gpu"])


def rewritten(file: pathlib.Path, path: pathlib.Path, **members: bytes) -> pathlib.Path:
    """Writes a copy in which members are others."""
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(path, "w") as new:
        for name in old.namelist():
            new.writestr(name, members.get(name, old.read(name)))
    return path


def test_other_files_are_refused_by_name(file, tmp_path):
    def refused(path: pathlib.Path, message: str) -> None:
        with pytest.raises(ValueError, match=message) as error:
            Detector.load(path)
        assert str(error.value).startswith(str(path))

    data = file.read_bytes()
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    (tmp_path / "picture.png").write_bytes(b"\x89PNG")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("cut.zip", "picture.png", "empty"):
        refused(tmp_path / name, "is no exported detector, or the end of one is missing")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("a.txt", "a")
    refused(tmp_path / "other.zip", "is no exported detector")
    with zipfile.ZipFile(file) as archive:
        header = json.loads(archive.read("detector.json"))
        program = archive.read("programs/64x96")
    for changed, message in (
        ({"format": "songs"}, "but a 'songs'"),
        ({"version": 2}, r"of version 2 of the format, and this ipg_jax .* reads version 1"),
        ({"thresholds": None}, "cannot be read"),
        ({"inputs": [{"height": 1, "width": 1}]}, "cannot be read"),
        ({"inputs": []}, "there are programs for no images"),
        ({"image_size": [64, 64]}, "there are programs for 64 x 96 or 96 x 64"),
        ({"pyramid_levels": "4"}, "cannot be read"),
        ({"category_ids": [1]}, "not as many ids and thresholds as its 10 classes"),
        ({"thresholds": [7.0] * len(header["thresholds"])}, "scores from 0 to 1, not"),
    ):
        new = json.dumps(header | changed).encode()
        refused(rewritten(file, tmp_path / "new.zip", **{"detector.json": new}), message)
    for part in (b"", program[: len(program) // 2]):
        damaged = rewritten(file, tmp_path / "damaged.zip", **{"programs/64x96": part})
        refused(damaged, "cannot be read")
    array = io.BytesIO()
    np.save(array, np.zeros(1, np.float32))
    with zipfile.ZipFile(file) as archive:
        name = next(name for name in archive.namelist() if name.endswith("kernel.npy"))
    other = rewritten(file, tmp_path / "other.zip", **{name: array.getvalue()})
    refused(other, "among its weights is not what programs/64x96 takes")
    (tmp_path / "flipped.zip").write_bytes(
        data.replace(program[:64], bytes(64))
    )  # the checksum of the member is not right any more
    refused(tmp_path / "flipped.zip", "cannot be read")


def test_jax_alone_runs_a_file_as_the_documentation_says(file, tmp_path):
    picture = pictures()[0]  # as large as the input: neither resized nor padded
    (tmp_path / "detector.zip").write_bytes(file.read_bytes())
    found, _ = run_snippet(
        "import json\nimport zipfile\n",
        tmp_path,
        hidden=("ml_collections", "orbax", "tensorflow"),
        picture=picture,
    )
    own = tiny_detector().predict(picture, threshold=0.0)
    assert found["valid"].sum() == len(own) == 20
    assert_like(found, own)


def found(*objects: tuple) -> Found:
    boxes = np.array([box for box, _, _ in objects], np.float64).reshape(-1, 4)
    scores = np.array([score for _, score, _ in objects], np.float32)
    return Found(boxes, scores, np.array([label for _, _, label in objects], np.int32))


def test_differences_by_hand():
    a = found(([0, 0, 10, 20], 0.75, 1), ([5, 5, 9, 9], 0.5, 0))
    # The first has moved by 2 pixels of its 20, the second has lost a quarter of its score.
    b = found(([0, 2, 10, 20], 0.75, 1), ([5, 5, 9, 9], 0.25, 0))
    assert compare(a, a) == (2, 0.0, 0.0, 0.0, 0)
    assert compare(a, b)[:2] == (2, 0.25)
    assert compare(a, b).box == pytest.approx(2 / 18)  # of the shorter one of both
    assert compare(a, b)[3:] == (2.0, 0)
    assert compare(a, b).largest == 0.25
    # In another class there is nothing like it: all of its score, and of its size of 4 pixels.
    other = found(([0, 0, 10, 20], 0.75, 1), ([5, 5, 9, 9], 0.5, 2))
    assert compare(a, other) == (2, 0.5, 1.0, 4.0, 2)
    assert compare(a, found()) == (2, 0.75, 1.0, 20.0, 2)
    assert compare(found(), found()) == (0, 0.0, 0.0, 0.0, 0)
    # Of more objects only the best of each are looked up, in all of the other.
    swapped = Found(*(x[::-1] for x in a))
    assert compare(a, swapped, best=1) == (1, 0.0, 0.0, 0.0, 0)
