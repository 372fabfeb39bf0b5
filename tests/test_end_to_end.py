"""Train, evaluate and predict in processes with one device each, the way the demo runs."""

import json
import os
import pathlib
import subprocess
import sys

from PIL import Image

import ipg_jax

ROOT = pathlib.Path(__file__).parents[1]

# A narrow detector, two steps of four scenes: seconds, most of which compile.
TINY = {
    "num_steps": 2,
    "batch_size": 4,
    "image_size": (64, 64),
    "log_every": 1,
    "eval_every": 1,
    "data.scene_size": 64,
    "data.train_scenes": 8,
    "data.eval_scenes": 4,
    "model.backbone": "resnet10",
    "model.base_channels": 8,
    "model.fpn_channels": 16,
    "model.fusion_stages": (2,),
    "model.fpn_levels": (3, 4),
    "model.retinanet_head.convs": 1,
    "model.retinanet_head.channels": 32,
    "eval.score_threshold": 0.0,
    "eval.samples": 2,
}


def run(script: str, *arguments: str) -> str:
    """Runs a command line with one CPU device; returns what it logged."""
    flags = [flag for flag in os.environ["XLA_FLAGS"].split() if "device_count" not in flag]
    result = subprocess.run(
        [sys.executable, script, *arguments],
        cwd=ROOT,
        env=os.environ | {"XLA_FLAGS": " ".join(flags)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    return result.stderr


def size_of(picture: pathlib.Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        return image.size


def test_the_demo_on_one_device(tmp_path):
    workdir, out = tmp_path / "run", tmp_path / "out"
    overrides = [f"--config.{name}={value}" for name, value in TINY.items()]
    log = run("train.py", "--config=configs/digits_ipg.py", *overrides, f"--workdir={workdir}")
    assert "1 cpu device(s) in 1 process(es)" in log
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if "train/loss" in line] == [1, 2]
    assert [line["step"] for line in lines if "eval/coco_AP" in line] == [1, 2]
    during = json.loads((workdir / "eval" / "metrics.json").read_text())
    assert during["step"] == 2
    assert during["images"] == {"annotated": 4, "evaluated": 4, "unreadable": 0}
    assert during["coco"].keys() >= {"AP", "AP50", "AR100"}
    samples = sorted(path.name for path in (workdir / "samples").iterdir())
    assert samples == [f"sample{i}_{step:07d}.png" for i in range(2) for step in (1, 2)]

    (workdir / "eval" / "metrics.json").unlink()
    assert "evaluation at step 2: 4 images" in run(
        "eval.py", f"--workdir={workdir}", "--checkpoint=2"
    )
    after = json.loads((workdir / "eval" / "metrics.json").read_text())
    assert after["coco"] == during["coco"]
    detections = json.loads((workdir / "eval" / "detections.json").read_text())
    assert {detection["image_id"] for detection in detections} == {0, 1, 2, 3}

    picture = workdir / "samples" / samples[0]
    log = run(
        "predict.py",
        f"--workdir={workdir}",
        "--config.eval.max_detections=50",
        "--tiles",
        "--config.eval.tile=(160, 200)",
        f"--out={out}",
        str(picture),
    )
    assert "config.eval.max_detections=50, trained with None" in log
    document = json.loads((out / "detections.json").read_text())
    width, height = size_of(picture)
    assert [(x["width"], x["height"]) for x in document["images"]] == [(width, height)]
    # As low as the threshold is, each tile has 50, which are merged over the whole picture.
    assert len(document["annotations"]) > 50
    right, bottom = (
        max(x["bbox"][side] + x["bbox"][side + 2] for x in document["annotations"])
        for side in (0, 1)
    )
    assert width - 40 < right <= width + 1e-3
    assert height - 40 < bottom <= height + 1e-3
    assert [category["name"] for category in document["categories"]] == list("0123456789")
    assert size_of(out / f"{picture.stem}_detections.png") == (width, height)

    # Scores of two steps are nearly equal, and rounding reorders them: any difference will do.
    run("-m", "ipg_jax.cli.export", f"--workdir={workdir}", "--tolerance=1", "--platforms=cpu")
    exported = ipg_jax.Detector.load(workdir / "export" / "detector.zip")
    (box, *_) = exported.predict(picture, threshold=0.0).boxes
    assert box.max() <= max(width, height)
