"""What bfloat16 costs a trained detector: the same weights evaluated in both types.

    python benchmarks/bfloat16.py [--workdir=DIR] [--retinanet=WORKDIR] [--faster_rcnn=WORKDIR]

Trains the RetinaNet of `configs/digits_ipg.py` and a Faster R-CNN of its size, in float32, or takes
runs that are there, of any data. Prints AP in both types, in percent, and ends with code 1 if they
differ by more than 0.5 for one of them. Start it again to go on where it was stopped. It trains for
10 to 20 minutes of two CPU cores, and evaluates for some minutes.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).parents[1]
STEPS = 750
LARGEST = 0.5
"""Difference in AP, in percent."""

FASTER_RCNN = {  # of `config.model`, beyond the demo's
    "detector": "faster_rcnn",
    "fpn_levels": (2, 4),
    "fpn_extra": "pool",
    "anchor_scale": 4.0,
    "anchor_octaves": 1,
    "rpn.candidates": (300, 200),
    "rpn.proposals": (300, 200),
    "box_head.fc_channels": 128,
    "box_head.rois_per_image": 64,
}


def call(script: str, **flags: object) -> None:
    """Runs a command line of this project; what it logs goes to the terminal."""
    options = [f"--{name}={value}" for name, value in flags.items()]
    subprocess.run([sys.executable, ROOT / script, *options], check=True, stdout=sys.stderr)


def metrics(workdir: pathlib.Path) -> dict | None:
    """Returns what the last evaluation of a run found."""
    path = workdir / "eval" / "metrics.json"
    return json.loads(path.read_text()) if path.exists() else None


def trained(detector: str, workdir: pathlib.Path, steps: int) -> pathlib.Path:
    """Returns the run of a detector of digits, which is trained unless it is there."""
    found = metrics(workdir)
    if found is None or found["step"] < steps:
        fields = FASTER_RCNN if detector == "faster_rcnn" else {}
        call(
            "train.py",
            config=ROOT / "configs" / "digits_ipg.py",
            workdir=workdir,
            **{"config.num_steps": steps, "config.eval_only_at_end": True},
            **{"config.eval.samples": 0},
            **{f"config.model.{field}": value for field, value in fields.items()},
        )
    return workdir


def main() -> None:
    """Prints a table for people and one JSON line for programs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", default="runs/bfloat16", help="folder of what is trained")
    parser.add_argument("--steps", type=int, default=STEPS, help="of the training")
    for detector in ("retinanet", "faster_rcnn"):
        parser.add_argument(f"--{detector}", default="", help="a trained run, to be evaluated")
    flags = parser.parse_args()
    found: dict[str, dict[str, float]] = {}
    for detector in ("retinanet", "faster_rcnn"):
        given = getattr(flags, detector)
        workdir = pathlib.Path(given or pathlib.Path(flags.workdir) / detector)
        if not given:
            trained(detector, workdir, flags.steps)
        found[detector] = {}
        for dtype in ("bfloat16", "float32"):  # float32 last: it is what the run's figures stay
            call(
                "eval.py",
                workdir=workdir,
                checkpoint="latest",
                **{"config.model.dtype": dtype, "config.eval.samples": 0},
            )
            found[detector][dtype] = 100 * metrics(workdir)["coco"]["AP"]
    print(f"{'AP':14}{'float32':>10}{'bfloat16':>10}{'difference':>12}")
    failed = False
    for detector, ap in found.items():
        difference = ap["bfloat16"] - ap["float32"]
        failed |= not abs(difference) <= LARGEST
        print(f"{detector:14}{ap['float32']:10.2f}{ap['bfloat16']:10.2f}{difference:12.2f}")
    print(json.dumps(found))
    sys.exit(failed)


if __name__ == "__main__":
    main()
