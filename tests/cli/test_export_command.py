"""The program that exports a detector: what it says, when it fails. The demo's test runs it."""

import subprocess
import sys

import numpy as np
import pytest
from absl import flags
from etils import epath
from PIL import Image

from ipg_jax.cli.export import check_out, judged, named_images, spread
from ipg_jax.images import DEFAULT_OPTIONS
from ipg_jax.inference.export import Difference


def test_what_is_not_offered_says_why_and_what_is(tmp_path):
    result = subprocess.run(
        [
            *(sys.executable, "-m", "ipg_jax.cli.export"),
            *(f"--workdir={tmp_path}", "--format=litert"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "error: --format=litert is not offered: " in result.stderr
    assert "--format=stablehlo and --format=onnx and --format=savedmodel" in result.stderr


def test_nothing_of_another_kind_is_replaced(tmp_path):
    file, folder = tmp_path / "photo.jpg", tmp_path / "model"
    for kind in ("stablehlo", "onnx", "savedmodel"):
        assert check_out(str(file), kind) == epath.Path(file)  # there is nothing yet
        with pytest.raises(flags.Error, match=r"^--out=s3://a/b is neither a local path nor gs://"):
            check_out("s3://a/b", kind)
    file.write_text("a picture")
    folder.mkdir()
    check_out(str(file), "onnx")
    check_out(str(folder), "savedmodel")
    for kind, name in (("stablehlo", "detector.zip"), ("onnx", "detector.onnx")):
        with pytest.raises(flags.Error, match=f"is a folder: .* such as {folder}/{name}"):
            check_out(str(folder), kind)
        with pytest.raises(flags.Error, match=f"such as {tmp_path}/new/{name}"):
            check_out(f"{tmp_path}/new/", kind)
    with pytest.raises(NotADirectoryError, match="is a file: a SavedModel is a folder"):
        check_out(str(file), "savedmodel")


def test_a_run_that_is_not_there_is_said_and_gets_no_folder(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "ipg_jax.cli.export", f"--workdir={tmp_path}/nowhere"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert f"error: no {tmp_path}/nowhere/config.json: was this run trained?" in result.stderr
    assert not any(tmp_path.iterdir())


def test_too_large_a_difference_ends_in_a_failure():
    near, far = Difference(20, 1e-6, 2e-5, 3e-4, 0), Difference(20, 1e-6, 0.02, 0.5, 2)
    assert judged([near, near], 0.01) == (
        "scores differ by up to 1.0e-06, boxes by 3.0e-04 pixels and 2.0e-05 of their side, "
        "labels of 0 objects; --tolerance is 0.01"
    )
    for differences in ([near, far], [near, Difference(1, float("nan"), 0.0, 0.0, 0)]):
        with pytest.raises(SystemExit, match=r"more than --tolerance=0\.01") as stopped:
            judged(differences, 0.01)
        assert isinstance(stopped.value.code, str)  # printed, with the exit code 1
    assert "nothing could be compared" in judged([Difference(0, 0.0, 0.0, 0.0, 0)], 0.01)


def test_a_detector_that_is_a_file_is_compared_on_the_images_that_are_named(tmp_path):
    out = tmp_path / "new" / "detector.zip"
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 80, 3), np.uint8)
    photos = tmp_path / "photos"
    photos.mkdir()
    for name, pixels in zip("ab", noise, strict=True):
        Image.fromarray(pixels).save(photos / f"{name}.png")

    command = [sys.executable, "-m", "ipg_jax.cli.export", "--workdir=hit_uav_small"]
    settings = ("--config.image_size=(64, 96)", "--config.eval.score_threshold=0.0")
    done = subprocess.run(
        [*command, f"--out={out}", f"--images={photos}", "--platforms=cpu", *settings],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    head, *rows, verdict = done.stdout.splitlines()[1:]
    assert head.split() == ["objects", "scores", "boxes", "pixels", "unmatched", "image"]
    assert [row.split()[0] for row in rows] == ["20", "20"]
    assert [row.split()[-1] for row in rows] == [f"{photos}/{name}.png" for name in "ab"]
    assert verdict.endswith("labels of 0 objects; --tolerance is 0.01")


def test_images_that_are_none_are_refused_before_anything_is_written(tmp_path):
    (tmp_path / "flight.mp4").write_bytes(b"")
    for name, reason in (
        ("missing*", "no file matches this pattern"),
        ("flight.mp4", "there are videos, and no images"),
    ):
        with pytest.raises(flags.Error) as error:
            named_images([f"{tmp_path}/{name}"], DEFAULT_OPTIONS)
        assert str(error.value) == f"--images={tmp_path}/{name}: {reason}"
    (tmp_path / "text.jpg").write_text("text")
    with pytest.raises(ValueError, match=f"^{tmp_path}/text.jpg: not a readable image"):
        named_images([str(tmp_path)], DEFAULT_OPTIONS)
    with pytest.raises(FileNotFoundError, match=f"cannot read {tmp_path}/gone.jpg"):
        named_images([f"{tmp_path}/gone.jpg"], DEFAULT_OPTIONS)


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--out={}", "error: --out={0} is a folder: name a file in it, such as {0}/detector.zip"),
        ("--out={}/file/detector.zip", "error: there can be no folder {0}/file, "),
        ("--tolerance=nan", "--tolerance is a number: NaN compares nothing"),
    ],
)
def test_wrong_flags_are_refused_before_anything_is_read(flag, message, tmp_path):
    (tmp_path / "file").write_text("")
    command = [sys.executable, "-m", "ipg_jax.cli.export", f"--workdir={tmp_path}/gone.zip"]
    out = f"--out={tmp_path}/a.zip"
    done = subprocess.run(
        [*command, out, flag.format(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode != 0
    assert message.format(tmp_path) in done.stderr


def test_up_to_twenty_images_are_compared_evenly_spread():
    assert spread(3) == [0, 1, 2]
    assert spread(0) == []
    assert (len(spread(200)), spread(200)[0], spread(200)[-1]) == (20, 0, 199)
