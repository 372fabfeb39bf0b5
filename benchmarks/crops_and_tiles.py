"""What training on crops and on tiles brings, and looking at tiles: the same steps and seed.

    python benchmarks/crops_and_tiles.py --root=hit_uav --workdir=runs/crops_and_tiles

Trains a narrow variant of the model of `configs/hit_uav_ipg.py` on HIT-UAV, with the same number of
images in each step: on whole images, for as many steps and for a quarter of them, on their tiles,
and on crops as the config has them. The model of tiles is evaluated on the tiles of the test
split's images, the others on whole images, at the scale of the training. Prints a Markdown table:
COCO's AP50, AP and AP of small objects in percent, and the pixels of a step over those on crops.
Start it again to go on where it was stopped: finished runs are read from `--workdir`.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import subprocess
import sys
from typing import Any

ROOT = pathlib.Path(__file__).parents[1]
FIGURES = ("AP50", "AP", "AP_small")
WHOLE = (512, 640)
TILE = (192, 192)
"""Of the crops, too."""
NARROW = {
    "model.base_channels": 16,
    "model.fpn_channels": 32,
    "model.retinanet_head.channels": 32,
    "model.retinanet_head.convs": 1,
    "eval.samples": 0,
    "eval.tile": TILE,
    "eval_only_at_end": True,
    "log_every": 50,
}
PIXELS = (("color_jitter", {"saturation": 0.0, "hue": 0.0}),)
VARIANTS: dict[str, dict[str, Any]] = {
    "whole images": {"data.augmentations": PIXELS},
    "whole images, a quarter of the steps": {"data.augmentations": PIXELS},
    "tiles": {
        "data.augmentations": PIXELS,
        "data.tile": TILE,
        "data.empty_tiles": 0.1,
        "image_size": TILE,
        "eval.detected": ("tiled",),
    },
    "crops": {"eval.detected": ("whole",)},
}


def run(program: str, workdir: pathlib.Path, fields: dict[str, Any], *flags: str) -> None:
    """Runs `train.py` or `eval.py`; ends the process with its last line where it failed."""
    log = workdir.with_name(f"{workdir.name}_{program}.log")
    command = [sys.executable, f"{program}.py", f"--workdir={workdir}", *flags]
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    with log.open("wb") as output:
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
    if done.returncode:
        last = log.read_text(errors="replace").splitlines()[-1:]
        sys.exit(f"{program}.py ended with {done.returncode}: {' '.join(last)}; see {log}")


def measured(name: str, root: str, steps: int, folder: pathlib.Path) -> dict[str, float]:
    """Trains and evaluates a variant unless `folder` holds it; returns its figures."""
    workdir = folder / name.replace(",", "").replace(" ", "_")
    result = folder / f"{workdir.name}.json"
    if result.exists() and json.loads(result.read_text())["steps"] == steps:
        return json.loads(result.read_text())
    fields = NARROW | {"data.root": root, "num_steps": steps} | VARIANTS[name]
    run("train", workdir, fields, "--config=configs/hit_uav_ipg.py")
    metrics = json.loads((workdir / "eval" / "metrics.json").read_text())
    found = {
        "steps": steps,
        **{figure: metrics["coco"][figure] for figure in FIGURES},
    }
    result.write_text(json.dumps(found))
    return found


def main() -> None:
    """Runs the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder of HIT-UAV in VOC's format")
    parser.add_argument("--workdir", required=True, type=pathlib.Path)
    parser.add_argument("--steps", type=int, default=500)
    flags = parser.parse_args()
    folder = flags.workdir.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    root = os.path.abspath(flags.root)
    steps = {name: flags.steps // 4 if "quarter" in name else flags.steps for name in VARIANTS}
    rows = {name: measured(name, root, steps[name], folder) for name in reversed(VARIANTS)}
    print(f"| trained {flags.steps} steps on | AP50 | AP | AP small | pixels of a step |")
    print("| --- | --- | --- | --- | --- |")
    for name in VARIANTS:
        row = rows[name]
        figures = " | ".join(f"{100 * row[figure]:.1f}" for figure in FIGURES)
        height, width = WHOLE if name.startswith("whole") else TILE
        print(f"| {name} | {figures} | {height * width / (TILE[0] * TILE[1]):.1f} |")


if __name__ == "__main__":
    main()
