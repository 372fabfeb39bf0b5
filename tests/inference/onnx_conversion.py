"""Detectors as ONNX: the same boxes in onnxruntime, the command, and NumPy alone.

jax2onnx, which converts them, pins an older orbax-checkpoint than this package has, and is
installed besides: `pip install --no-deps -c constraints.txt jax2onnx`. Hence these tests run by
`pytest tests/inference/onnx_conversion.py`, as `.ci/run` does, and not with the others.
"""

import json
import pathlib
import subprocess
import sys

import numpy as np
import onnx
import pytest
from documented import assert_like, run_snippet
from PIL import Image
from tiny_detectors import SIZE, pictures, tiny_detector

from ipg_jax.inference.detector import Detector
from ipg_jax.inference.export import differences, export_detector, whole_sizes
from ipg_jax.inference.onnx_export import export_onnx, onnx_detect

ROOT = pathlib.Path(__file__).parents[2]


@pytest.fixture(scope="module")
def programs() -> dict[tuple[int, int], bytes]:
    """A RetinaNet for both sizes of images."""
    detector = tiny_detector()
    return {size: export_onnx(detector, size) for size in whole_sizes(detector)}


def test_landscape_and_portrait_find_what_their_detector_does(programs):
    assert list(programs) == [(64, 96), (96, 64)]
    detect = onnx_detect(programs)
    for picture in pictures():
        found = differences(tiny_detector(), detect, picture)
        assert (found.objects, found.unmatched) == (20, 0)
        assert found.largest < 1e-3


@pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("faster_rcnn", {}),
        ("cascade_rcnn", {"param_dtype": "bfloat16"}),
        ("retinanet", {"backbone": "convnext_tiny", "fusion": "product"}),
        ("retinanet", {"fusion": "attention", "norm": "group_norm", "base_channels": 32}),
        ("retinanet", {"fusion": "concat", "num_stages": 5}),
    ],
)
def test_other_detectors(kind, model):
    detector = tiny_detector(kind, **model)
    detect = onnx_detect({SIZE: export_onnx(detector, SIZE)})
    found = differences(detector, detect, pictures()[0])
    assert (found.objects, found.unmatched) == (20, 0)
    assert found.largest < 1e-3


def test_what_a_program_says(programs):
    model = onnx.load_from_string(programs[SIZE])
    onnx.checker.check_model(model, full_check=True)
    (about,) = model.metadata_props
    header = json.loads(about.value)
    assert about.key == "ipg_jax"
    assert header["class_names"] == [f"digit {i}" for i in range(10)]
    assert header["thresholds"] == [i / 20 for i in range(10)]
    assert (header["image_size"], header["inputs"]) == ([64, 96], [{"height": 64, "width": 96}])


def test_what_cannot_be_converted_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"bfloat16.*: set --config\.model\.dtype=float32"):
        export_onnx(tiny_detector(dtype="bfloat16"), SIZE)
    export_detector(tiny_detector(), platforms=["cpu"]).save(tmp_path / "detector.zip")
    with pytest.raises(ValueError, match="exported already: name the run that it is of"):
        export_onnx(Detector.load(tmp_path / "detector.zip"), SIZE)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> subprocess.CompletedProcess:
    """What the command prints; its folder holds the files and a picture as large as the input."""
    folder = tmp_path_factory.mktemp("exported")
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    Image.fromarray(pixels).save(folder / "street.png")
    command = [sys.executable, "-m", "ipg_jax.cli.export", "--workdir=hit_uav_small"]
    settings = ["--config.image_size=(64, 96)", "--config.eval.score_threshold=0.0"]
    files = ["--format=onnx", f"--out={folder}/new/detector.onnx", f"--images={folder}"]
    return subprocess.run(
        [*command, *settings, *files], cwd=folder, capture_output=True, text=True, check=False
    )


def test_the_command_writes_and_compares_a_file_for_each_size(exported):
    assert exported.returncode == 0, exported.stderr
    assert "not known" not in exported.stderr  # of the converter, of each shape in a loop
    folder = pathlib.Path(exported.args[-1].partition("=")[2])
    *wrote, _, row, verdict = exported.stdout.splitlines()
    assert wrote[-2:] == [
        f"wrote {folder}/new/detector-{height}x{width}.onnx: images of {height} x {width} pixels"
        for height, width in ((64, 96), (96, 64))
    ]
    assert row.split()[::5] == ["20", f"{folder}/street.png"]
    assert verdict.endswith("labels of 0 objects; --tolerance is 0.01")


def test_numpy_and_onnxruntime_run_it_as_the_documentation_says(exported):
    folder = pathlib.Path(exported.args[-1].partition("=")[2])
    found, printed = run_snippet(
        "import json\n\nimport numpy as np\nimport onnxruntime\n",
        folder,
        hidden=("jax", "tensorflow"),
        names={"detector-576x736.onnx": "new/detector-64x96.onnx", "street.jpg": "street.png"},
    )
    detector = Detector.load("hit_uav_small", image_size=(64, 96))
    own = detector.predict(str(folder / "street.png"), threshold=0.0)
    assert len(own) > 20  # as many of the 100 as the detector's own least score leaves
    assert found["valid"].all()
    assert_like(found, own)
    shown = [line.split()[0] for line in printed.splitlines()]
    assert shown == detector.predict(str(folder / "street.png")).names
