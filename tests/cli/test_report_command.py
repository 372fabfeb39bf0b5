"""The program that writes the report of a run, on a workdir whose detections are written down."""

import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from ml_collections import ConfigDict

from configs import digits_ipg
from ipg_jax.evaluation import evaluate_coco
from ipg_jax.training.build_data import open_source
from ipg_jax.training.build_report import read_run
from ipg_jax.training.workdir import class_list

ROOT = pathlib.Path(__file__).parents[2]


def small_config() -> ConfigDict:
    config = digits_ipg.get_config().unlock()
    config.data.scene_size, config.data.eval_scenes = 64, 6
    config.model.backbone, config.model.base_channels = "resnet10", 16
    return config.lock()


def write_run(workdir: pathlib.Path, *, jitter: float) -> int:
    """Writes what a run leaves behind that finds all objects, more or less; returns how many."""
    config = small_config()
    source = open_source(config, train=False)
    rng = np.random.default_rng(0)
    records = source.records
    image = np.repeat(np.arange(len(records)), np.diff(records.offsets))
    corners = records.boxes + rng.normal(0, jitter, records.boxes.shape)
    results = [
        {
            "image_id": records.image_ids[k],
            "category_id": source.category_ids[label],
            "bbox": [x0, y0, max(x1 - x0, 1.0), max(y1 - y0, 1.0)],
            "score": float(rng.uniform(0.2, 1)),
        }
        for k, label, (x0, y0, x1, y1) in zip(image, records.labels, corners.tolist(), strict=True)
    ]
    (workdir / "eval").mkdir(parents=True)
    metrics = {
        "step": 40,
        "images": {"annotated": 6, "evaluated": 6, "unreadable": 0},
        "coco": evaluate_coco(source, results),
    }
    for name, value in {
        "config.json": json.loads(config.to_json_best_effort()),
        "classes.json": class_list(source),
        "eval/metrics.json": metrics,
        "eval/detections.json": results,
    }.items():
        (workdir / name).write_text(json.dumps(value))
    lines = [{"step": s, "train/loss": 1 / s, "train/images_per_second": 9.0} for s in (10, 20)]
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return len(results)


def test_the_program_writes_a_page_and_thresholds(tmp_path):
    objects = write_run(tmp_path / "good", jitter=0.1)
    write_run(tmp_path / "bad", jitter=4.0)
    command = [
        *(sys.executable, "-m", "ipg_jax.cli.report", f"--workdir={tmp_path / 'bad'}"),
        f"--compare={tmp_path / 'good'}",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "AP of good is above that of bad: the difference is +" in done.stdout
    page = (tmp_path / "bad" / "report" / "index.html").read_text()
    assert f"6 images, {objects:,} objects, {objects:,} detections" in page
    assert "data:image/jpeg" in page
    best = json.loads((tmp_path / "bad" / "report" / "thresholds.json").read_text())
    assert (best["step"], best["iou"], len(best["classes"])) == (40, 0.5, 10)


def test_what_a_run_lacks_is_named(tmp_path):
    write_run(tmp_path, jitter=0.1)
    run = read_run(tmp_path, small_config())
    assert (run.step, run.evaluated, run.max_detections) == (40, 6, 100)
    assert run.history["train/loss"] == ([10, 20], [0.1, 0.05])
    # The stem of ResNet-10 is 7 x 7 x 3 x 16, and the rest more.
    assert run.parameters["backbone"] > 7 * 7 * 3 * 16
    metrics = tmp_path / "eval" / "metrics.json"
    metrics.write_text('{"step": 3, "coco": null}')
    with pytest.raises(ValueError, match="has no figures"):
        read_run(tmp_path, small_config())
    metrics.write_text('{"step": 3')
    with pytest.raises(ValueError, match=r"metrics\.json is damaged"):
        read_run(tmp_path, small_config())
    metrics.unlink()
    with pytest.raises(FileNotFoundError, match=r"python eval\.py --workdir="):
        read_run(tmp_path, small_config())
