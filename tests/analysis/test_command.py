"""The program that looks at a data set, and the lines at the start of a training."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from configs.common import default_config
from ipg_jax.training.build import build_task
from ipg_jax.training.build_analysis import build_detector_settings, log_hints
from ipg_jax.training.build_data import open_source

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"fpn_levels": (2, 5), "anchor_scale": 3.0, "anchor_ratios": (1, 2)},
        {"num_stages": 5, "keep": True},
        {"detector": "faster_rcnn", "anchor_octaves": 1},
    ],
)
def test_anchors_are_those_of_the_task(fields):
    config = default_config()
    config.model.update(fields)
    task, settings = build_task(config), build_detector_settings(config)
    layout = settings.anchors.layout
    assert layout.strides == task.model.strides
    assert layout.sizes == task.anchor_sizes
    assert layout.ratios == task.anchor_ratios
    # Guidance at stages 2 to 4 reads four levels: sides are multiples of 32.
    assert settings.geometry.canvases[0] == (800, 1344)
    rcnn = config.model.detector == "faster_rcnn"
    assert (settings.foreground_iou, settings.background_iou) == (
        (0.7, 0.3) if rcnn else (0.5, 0.4)
    )


def test_limits_are_those_of_the_config():
    config = default_config()
    config.data.max_boxes = 40
    config.eval.metric = "aitod"
    assert build_detector_settings(config).limits == {
        "config.eval.max_detections": 1500,
        "config.model.retinanet_head.candidates_per_level": 1000,
        "config.data.max_boxes": 40,
    }


def test_a_training_begins_with_what_matters(caplog):
    caplog.set_level("INFO")
    config = default_config()
    config.data.source = "digits"
    config.data.train_scenes, config.data.train_split = 20, "train"
    config.image_size = (192, 192)
    config.eval.max_detections = 5
    source = open_source(config, train=True)
    log_hints(config, source)
    line, limit, anchors = caplog.records
    assert (line.levelname, limit.levelname, anchors.levelname) == ("INFO", "WARNING", "WARNING")
    assert line.message.startswith("objects after the resize: 5 % ")
    assert "config.eval.max_detections: 5, and " in limit.message
    assert "try config.model.fpn_levels=(2,5)" in anchors.message


def test_the_program_writes_numbers_and_a_page(tmp_path):
    command = [
        *(sys.executable, "-m", "ipg_jax.analysis.dataset", "--config=configs/digits_ipg.py"),
        *("--config.data.train_scenes=20", "--config.model.num_classes=3"),
        *(f"--json={tmp_path / 'report.json'}", f"--html={tmp_path / 'page.html'}"),
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("digits train\n20 images, ")
    assert "config.model.num_classes=3: set 10 to train" in done.stdout
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["images"], len(report["classes"])) == (20, 10)
    assert "data:image/jpeg" in (tmp_path / "page.html").read_text()
