"""Compares whole detectors with torchvision's: the same weights and pictures, what comes out.

    python tests/parity/whole_detectors.py --images=coco/val2017 \
        --annotations=coco/annotations/instances_val2017.json [--count=4] [--torch-python=PYTHON]

prints a table of the differences in losses and detections on pictures of a COCO data set, and fails
if one is beyond the tolerance. torchvision runs in a process of its own, by default of this
interpreter with the `parity` extra. The weights are random (`detector_weights.py`).
`test_whole_detectors.py` makes the same comparison with stored values.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from typing import NamedTuple

import jax
import numpy as np
from detector_weights import make_state
from PIL import Image

from ipg_jax import Batch
from ipg_jax.tasks import DetectionTask, TwoStageTask
from ipg_jax.types import PyTree
from ipg_jax.weights import COCO_CLASSES, convert, initialize

HERE = pathlib.Path(__file__).parent
DETECTORS = (
    "retinanet_resnet50_fpn",
    "retinanet_resnet50_fpn_v2",
    "fasterrcnn_resnet50_fpn",
    "fasterrcnn_resnet50_fpn_v2",
)
LOSSES = {  # torchvision's name: ours
    "classification": "loss_class",
    "bbox_regression": "loss_box",
    "loss_objectness": "loss_objectness",
    "loss_rpn_box_reg": "loss_proposal",
    "loss_classifier": "loss_class",
    "loss_box_reg": "loss_box",
}
CATEGORY_IDS = np.array([i for i, name in enumerate(COCO_CLASSES) if name])  # by label
BOX_TOLERANCE = 0.01  # pixels
SCORE_TOLERANCE = 1e-4
LOSS_TOLERANCE = 1e-4  # relative


def make_task(name: str) -> DetectionTask:
    """Returns the task of a detector of torchvision, as `make_detectors.py` runs it."""
    from configs.common import default_config, two_stage  # the command has put it on the path
    from ipg_jax import build_task  # with ml_collections, which a machine for timings may lack

    config = default_config()
    config.model.fusion_stages = ()
    config.model.dtype = "float32"
    config.model.norm = "batch_norm" if name.endswith("v2") else "frozen_batch_norm"
    config.model.kernels = "reference" if name.endswith("v2") else None  # both are compared
    if name.startswith("fasterrcnn"):
        two_stage(config, "faster_rcnn")
        config.model.rpn.proposals = (100, 100)
    else:
        config.eval.max_detections = 300
    if name == "retinanet_resnet50_fpn":
        config.model.fpn_extra = "p"
    if name == "retinanet_resnet50_fpn_v2":
        config.model.retinanet_head.norm = "group_norm"
        config.model.retinanet_head.box_loss = "giou"
    if name == "fasterrcnn_resnet50_fpn_v2":
        config.model.fpn_norm = config.model.box_head.norm = "batch_norm"
        config.model.rpn.convs = 2
        config.model.box_head.convs = 4
        config.model.box_head.fcs = 1
    return build_task(config)


def take_all(task: DetectionTask, batch: Batch) -> DetectionTask:
    """Returns a two-stage task whose samples are all anchors and all rois."""
    if not isinstance(task, TwoStageTask):
        return task
    height, width = batch.pyramid[0].shape[1:3]
    positions = sum(-(-height // stride) * -(-width // stride) for stride in task.model.strides)
    proposals = dataclasses.replace(
        task.proposals,
        anchors_per_image=positions * task.model.rpn.num_anchors,
        positive_fraction=1.0,
    )
    roi_heads = dataclasses.replace(
        task.roi_heads,
        rois_per_image=proposals.per_image[0] + batch.valid.shape[1],
        positive_fraction=1.0,
    )
    return dataclasses.replace(task, proposals=proposals, roi_heads=roi_heads)


def make_variables(task: DetectionTask, shapes: Mapping[str, list[int]]) -> PyTree:
    """Returns a task's variables with the made weights of a torch model."""
    abstract = jax.eval_shape(task.init, jax.random.key(0))
    fresh = jax.device_put(jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), abstract))
    return initialize(fresh, convert(make_state(shapes)))


def make_batch(arrays: Mapping[str, np.ndarray]) -> Batch:
    """Returns a batch of `images`, `image_size`, `boxes` and `category_ids` (0: padding)."""
    images, ids = arrays["images"], arrays["category_ids"]
    return Batch(
        pyramid=(images,),
        boxes=arrays["boxes"],
        labels=np.where(ids > 0, np.searchsorted(CATEGORY_IDS, ids), 0).astype(np.int32),
        valid=ids > 0,
        ignore=np.zeros(ids.shape, bool),
        image_size=arrays["image_size"],
        scale=np.ones((len(images), 2), np.float32),
        image_id=np.arange(len(images), dtype=np.int32),
        weight=np.ones(len(images), np.float32),
    )


def run(task: DetectionTask, variables: PyTree, batch: Batch) -> dict[str, np.ndarray]:
    """Returns losses and detections under torchvision's names."""
    task = take_all(task, batch)

    def both(variables: PyTree, batch: Batch):
        _, metrics = task.loss(variables, batch, rng=jax.random.key(0))
        return metrics, task.predict(variables, batch.pyramid, batch.image_size)

    # It runs once: on a CPU it compiles in half the time without XLA's optimizations.
    fewer = {"xla_backend_optimization_level": 0} if jax.default_backend() == "cpu" else {}
    program = jax.jit(both, compiler_options=fewer)
    metrics, found = jax.device_get(program(variables, batch))
    return {name: metrics[ours] for name, ours in LOSSES.items() if ours in metrics} | {
        "boxes": found.boxes,
        "scores": found.scores,
        "category_ids": np.where(found.valid, CATEGORY_IDS[found.labels], 0),
    }


class Difference(NamedTuple):
    """How far a quantity is from torchvision's, and how far it may be."""

    quantity: str
    value: float
    tolerance: float

    @property
    def ok(self) -> bool:
        return self.value <= self.tolerance


def compare(want: Mapping[str, np.ndarray], have: Mapping[str, np.ndarray]) -> list[Difference]:
    """Returns the differences between two results of `run`.

    Detections are paired by category and score, so that the order of equal scores is no matter;
    those that have no partner count as `labels`. A detection whose score is that of the last one
    that was kept, up to rounding, need not have one: which of them is kept is a matter of rounding.
    """
    losses = [
        Difference(name, abs(float(have[name] / want[name]) - 1), LOSS_TOLERANCE)
        for name in want
        if name in LOSSES
    ]
    boxes, scores, alone = [0.0], [0.0], 0
    for row in range(len(want["scores"])):
        a, b = ({k: x[k][row] for k in ("boxes", "scores", "category_ids")} for x in (want, have))
        cut = max(x["scores"][-1] for x in (a, b)) + SCORE_TOLERANCE
        free = b["category_ids"] > 0
        for i in np.flatnonzero(a["category_ids"]):
            score = np.abs(b["scores"] - a["scores"][i])
            box = np.abs(b["boxes"] - a["boxes"][i]).max(axis=1)
            partners = free & (b["category_ids"] == a["category_ids"][i])
            partners &= score < 10 * SCORE_TOLERANCE
            if partners.any():
                partner = np.where(partners, box, np.inf).argmin()
                free[partner] = False
                boxes.append(box[partner])
                scores.append(score[partner])
            else:
                alone += a["scores"][i] > cut
        alone += (b["scores"][free] > cut).sum()
    return [
        *losses,
        Difference("boxes", float(max(boxes)), BOX_TOLERANCE),
        Difference("scores", float(max(scores)), SCORE_TOLERANCE),
        Difference("labels", float(alone), 0.0),
    ]


def read_batches(
    images: pathlib.Path, annotations: pathlib.Path, count: int
) -> list[dict[str, np.ndarray]]:
    """Returns the first pictures that have objects, in batches of equal padded size."""
    content = json.loads(annotations.read_text())
    objects = collections.defaultdict(list)
    for item in content["annotations"]:
        x, y, width, height = item["bbox"]
        if not item["iscrowd"] and width > 0 and height > 0:
            objects[item["image_id"]].append((x, y, x + width, y + height, item["category_id"]))
    groups = collections.defaultdict(list)
    for record in [record for record in content["images"] if objects[record["id"]]][:count]:
        picture = np.asarray(Image.open(images / record["file_name"]).convert("RGB"))
        height, width = picture.shape[:2]
        # As torchvision pads: to a multiple of 32.
        padded = np.pad(picture, ((0, -height % 32), (0, -width % 32), (0, 0)))
        groups[padded.shape].append((padded, (height, width), objects[record["id"]]))
    batches = []
    for group in groups.values():
        pictures, sizes, rows = zip(*group, strict=True)
        table = np.zeros((len(rows), max(map(len, rows)), 5), np.float32)
        for i, row in enumerate(rows):
            table[i, : len(row)] = row
        batches.append(
            {
                "images": np.stack(pictures),
                "image_size": np.array(sizes, np.int32),
                "boxes": table[..., :4],
                "category_ids": table[..., 4].astype(np.int32),
            }
        )
    return batches


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=pathlib.Path, required=True, help="folder of pictures")
    parser.add_argument("--annotations", type=pathlib.Path, required=True, help="COCO's JSON file")
    parser.add_argument("--count", type=int, default=4, help="how many pictures")
    parser.add_argument("--torch-python", default=sys.executable, help="interpreter with torch")
    arguments = parser.parse_args()
    sys.path.insert(0, str(HERE.parents[1]))

    batches = read_batches(arguments.images, arguments.annotations, arguments.count)
    with tempfile.TemporaryDirectory() as folder:
        given, made = pathlib.Path(folder, "batches.npz"), pathlib.Path(folder, "results.npz")
        np.savez(
            given,
            **{f"{i}/{key}": x for i, batch in enumerate(batches) for key, x in batch.items()},
        )
        command = [arguments.torch_python, HERE / "make_detectors.py", "--batches", given]
        subprocess.run([*command, "--out", made], stdout=subprocess.DEVNULL, check=True)
        reference = dict(np.load(made))
    shapes = json.loads(str(reference["shapes"]))

    print(f"{'detector':28}{'picture':14}{'quantity':20}{'difference':>12}{'at most':>10}")
    failed = False
    for name in DETECTORS:
        task = make_task(name)
        variables = make_variables(task, shapes[name])
        for i, arrays in enumerate(batches):
            prefix = f"{name}/{i}/"
            want = {k.removeprefix(prefix): x for k, x in reference.items() if prefix in k}
            size = "x".join(map(str, arrays["images"].shape[:3]))
            for difference in compare(want, run(task, variables, make_batch(arrays))):
                quantity, value, tolerance = difference
                failed |= not difference.ok
                mark = "" if difference.ok else "  FAILED"
                print(f"{name:28}{size:14}{quantity:20}{value:12.1e}{tolerance:10.0e}{mark}")
    sys.exit(failed)


if __name__ == "__main__":
    main()
