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
from ipg_jax.training.build_report import check_evaluated_on, open_evaluated, read_run
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
        "data": source.name,
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


def report(*flags: str, cwd: pathlib.Path) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "ipg_jax.cli.report", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


def test_the_program_writes_a_page_and_thresholds(tmp_path):
    objects = write_run(tmp_path / "good", jitter=0.1)
    write_run(tmp_path / "bad", jitter=4.0)
    workdir, other = tmp_path / "bad", tmp_path / "good"
    done = report(f"--workdir={workdir}", f"--compare={other}", cwd=tmp_path)
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
    assert run.score_threshold == 0.05  # of the config: older evaluations do not say
    assert run.history["train/loss"] == ([10, 20], [0.1, 0.05])
    # The stem of ResNet-10 is 7 x 7 x 3 x 16, and the rest more.
    assert run.parameters["backbone"] > 7 * 7 * 3 * 16
    metrics = tmp_path / "eval" / "metrics.json"
    written = json.loads(metrics.read_text())
    metrics.write_text(json.dumps(written | {"score_threshold": 0.3}))
    assert read_run(tmp_path, small_config()).score_threshold == 0.3
    metrics.write_text('{"step": 3, "coco": null}')
    with pytest.raises(ValueError, match="has no figures"):
        read_run(tmp_path, small_config())
    metrics.write_text('{"step": 3')
    with pytest.raises(ValueError, match=r"metrics\.json is damaged"):
        read_run(tmp_path, small_config())
    metrics.unlink()
    with pytest.raises(FileNotFoundError, match=r"python eval\.py --workdir="):
        read_run(tmp_path, small_config())


def test_a_report_of_other_data_than_the_evaluation_is_refused(tmp_path):
    write_run(tmp_path, jitter=0.1)
    done = report(f"--workdir={tmp_path}", "--config.data.eval_scenes=5", cwd=tmp_path)
    assert done.returncode == 2
    assert (
        f"{tmp_path}/eval/metrics.json is of digits eval (6 images), and the report would read "
        "digits eval (5 images): give ipg-jax report the --config.data... flags of that "
        f"evaluation, or run ipg-jax eval --workdir={tmp_path} again"
    ) in done.stderr
    assert not (tmp_path / "report").exists()


def test_the_data_of_an_evaluation_are_compared_as_far_as_it_names_them(tmp_path):
    write_run(tmp_path, jitter=0.1)
    source, path = open_evaluated(tmp_path, small_config()), tmp_path / "eval" / "metrics.json"
    written = json.loads(path.read_text())

    def check(**changes) -> None:
        kept = {k: v for k, v in (written | changes).items() if v is not None}
        path.write_text(json.dumps(kept))
        check_evaluated_on(tmp_path, read_run(tmp_path, small_config()), source)

    check()
    with pytest.raises(ValueError, match=r"is of hit_uav/val \(6 images\), and the report would"):
        check(data="hit_uav/val")
    with pytest.raises(ValueError, match=r"is of hit_uav/val, and the report would"):
        check(data="hit_uav/val", images=None)
    # As older versions wrote it.
    check(data=None)
    check(data=None, images=None)
    with pytest.raises(ValueError, match=r"is of other data \(7 images\), and the report would"):
        check(data=None, images={"annotated": 7, "evaluated": 6, "unreadable": 1})
    detections = tmp_path / "eval" / "detections.json"
    results = json.loads(detections.read_text())
    detections.write_text(json.dumps([*results, results[0] | {"image_id": "a.png"}]))
    with pytest.raises(
        ValueError,
        match=r"1 values of image_id in the results .*: 'a\.png'\. It is of other data: give ipg-",
    ):
        check(data=None, images=None)
