"""Compiles a config's training or prediction step for chips that need not be there.

    python -m tools.xla_report --config=configs/retinanet_ipg.py --topology=v5e:2x4 \
        --batch_per_device=8 [--image_size=640x640] [--mode=predict] [--config.a.b=...]

The program is the one that `train.py` or `eval.py` would run, on the mesh of `config.mesh` over the
chips of the topology (`v4`, `v5e`, `v5p` or `v6e`: `v5e:2x4`, `v5p:2x2x4`, ...; GPUs: `h100:8`).
Prints tables for people and, as the last line, one JSON object for programs; exits with code 1 if
the program does not fit into the chips' memory. What the figures mean is in `docs/performance.md`.

TPUs need the extra `tpu-report`, GPUs `gpu-report`. A whole training step takes minutes to compile.
"""

from __future__ import annotations

import json
import sys

import jax
from absl import app, flags
from ml_collections import ConfigDict, config_flags

from tools.xla_report.report import compile_and_report
from tools.xla_report.step import landscape_size, lower_step
from tools.xla_report.tables import format_report
from tools.xla_report.topologies import TopologyError, topology_devices

CONFIG = config_flags.DEFINE_config_file("config", None, "What to compile.", lock_config=True)
TOPOLOGY = flags.DEFINE_string("topology", "v5e:2x4", "Kind and shape of the slice, or h100:N.")
BATCH = flags.DEFINE_integer(
    "batch_per_device", 8, "Images for each device along the mesh's data axis.", lower_bound=1
)
IMAGE_SIZE = flags.DEFINE_string(
    "image_size", "", "HEIGHTxWIDTH of the padded images; default: the config's landscape bucket."
)
MODE = flags.DEFINE_enum("mode", "train", ["train", "predict"], "Which program.")
FOLD = flags.DEFINE_bool("fold", False, "Predict with folded fusions.")
MAX_BOXES = flags.DEFINE_integer("max_boxes", 100, "Rows for objects; COCO needs 93.")
HLO = flags.DEFINE_string("hlo", "", "A file to write the optimised program to.")


def image_size(config: ConfigDict) -> tuple[int, int]:
    """Returns height and width of `--image_size`, or of the config's landscape bucket."""
    if not IMAGE_SIZE.value:
        return landscape_size(config)
    sides = IMAGE_SIZE.value.split("x")
    if len(sides) != 2 or not all(side.isdigit() for side in sides):
        raise app.UsageError(f"--image_size is HEIGHTxWIDTH, not {IMAGE_SIZE.value!r}")
    return int(sides[0]), int(sides[1])


def main(_: list[str]) -> None:
    """Compiles and reports."""
    if FOLD.value and MODE.value != "predict":
        raise app.UsageError("--fold is for --mode=predict: training needs the factors")
    jax.config.update("jax_platforms", "cpu")  # no look for chips that are not there
    try:
        chip, devices = topology_devices(TOPOLOGY.value)
    except TopologyError as error:
        sys.exit(str(error))
    height, width = image_size(CONFIG.value)
    lowered = lower_step(
        CONFIG.value,
        devices,
        mode=MODE.value,
        batch_per_device=BATCH.value,
        image_size=(height, width),
        max_boxes=MAX_BOXES.value,
        fold=FOLD.value,
    )
    report = {
        "mode": MODE.value,
        "topology": TOPOLOGY.value,
        "chips": len(devices),
        "batch_per_device": BATCH.value,
        "image_size": [height, width],
        **compile_and_report(lowered, chip, images=BATCH.value, hlo=HLO.value),
    }
    print(
        f"{MODE.value} step, {BATCH.value} images of {height}x{width} a device, "
        f"{len(devices)} chips of {TOPOLOGY.value}\n"
    )
    print(format_report(report, chip))
    print(json.dumps(report))
    if not report["fits"]:
        sys.exit(1)


if __name__ == "__main__":
    flags.mark_flags_as_required(["config"])
    app.run(main)
