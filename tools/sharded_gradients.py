"""Compares a training step on images whose height is divided with the same on one device.

    python -m tools.sharded_gradients --detector=faster_rcnn --height=832 --width=64 --space=2

On eight virtual CPU devices one step of plain SGD is taken, whose learning rate of 1 makes the
update of each parameter its gradient, and compared parameter by parameter. The detectors are narrow
but have the layers of the real ones. They sample all anchors and proposals, so that no random
choice differs. `--kernels=reference` takes the forms that accelerators have.

The input pipeline pads heights to multiples of `32 * space`; others have odd rows at more levels.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Sequence

if __name__ == "__main__":
    os.environ["XLA_FLAGS"] = (
        os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
    )
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from configs.common import default_config, two_stage
from ipg_jax import Batch, build_task, ops
from ipg_jax.tasks import DetectionTask, Proposals, TwoStageTask
from ipg_jax.training.sharding import make_mesh, shard_batch
from ipg_jax.training.state import TrainState
from ipg_jax.training.steps import Policy, make_train_step
from ipg_jax.types import PyTree
from ipg_jax.weights import by_path

DETECTORS = ("retinanet", "faster_rcnn", "cascade_rcnn")
CLASSES, OBJECTS = 3, 4


def narrow_task(
    detector: str,
    height: int,
    width: int,
    *,
    stages: Sequence[int] = (),
    norm: str = "batch_norm",
    kernels: str | None = None,
    fpn_levels: tuple[int, int] | None = None,
) -> DetectionTask:
    """Returns a detector on a ResNet-18 of eight channels that samples all there is.

    Args:
      detector: `config.model.detector`.
      height: of the images, which all anchors are counted for.
      width: of the same.
      stages: which are guided.
      norm: kind of norm of the backbone.
      kernels: `config.model.kernels`.
      fpn_levels: `config.model.fpn_levels`.
    """
    config = default_config()
    with config.unlocked():
        if detector != "retinanet":
            two_stage(config, detector)
        config.model.update(
            num_classes=CLASSES,
            backbone="resnet18",
            base_channels=8,
            fusion_stages=tuple(stages),
            norm=norm,
            fpn_levels=fpn_levels,
            fpn_channels=8,
            anchor_octaves=1,
            anchor_ratios=(1.0,),
            kernels=kernels,
            dtype="float32",
        )
        config.model.retinanet_head.update(convs=1, channels=8)
        config.model.box_head.update(fcs=1, fc_channels=16)
    task = build_task(config)
    if not isinstance(task, TwoStageTask):
        return task
    # Without suppression, which rounding could change.
    anchors = sum(-(-height // stride) * -(-width // stride) for stride in task.model.strides)
    return dataclasses.replace(
        task,
        proposals=Proposals(
            anchors_per_image=anchors,
            positive_fraction=1.0,
            candidates_per_level=(anchors, anchors),
            per_image=(anchors, anchors),
            nms_iou=1.0,
        ),
        roi_heads=dataclasses.replace(
            task.roi_heads, rois_per_image=anchors + OBJECTS, positive_fraction=1.0
        ),
    )


def make_batch(images: int, height: int, width: int, levels: int = 1) -> Batch:
    """Returns noise with a few objects in each image."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (images, height, width, 3), np.uint8)
    size = np.array([width, height], np.float32)
    corner = rng.uniform(0, 0.6, (images, OBJECTS, 2)) * size
    boxes = np.concatenate([corner, corner + rng.uniform(0.1, 0.4, corner.shape) * size], axis=-1)
    return Batch(
        pyramid=tuple(np.asarray(level) for level in ops.image_pyramid(pixels, levels)),
        boxes=boxes.astype(np.float32),
        labels=rng.integers(0, CLASSES, (images, OBJECTS)).astype(np.int32),
        valid=np.ones((images, OBJECTS), np.bool_),
        ignore=np.zeros((images, OBJECTS), np.bool_),
        image_size=np.full((images, 2), (height, width), np.int32),
        scale=np.ones((images, 2), np.float32),
        image_id=np.arange(images, dtype=np.int32),
        weight=np.ones(images, np.float32),
    )


def mesh_of(data: int, space: int) -> Mesh:
    """Returns the mesh of the first devices."""
    return make_mesh(data=data, space=space, devices=jax.devices()[: data * space])


def step_changes(
    task: DetectionTask, mesh: Mesh, variables: PyTree, batch: Batch
) -> dict[str, np.ndarray]:
    """Returns by path what a step of SGD subtracts from each variable; of parameters, gradients."""
    optimizer = optax.sgd(1.0)
    step = make_train_step(task.loss_and_updates, optimizer, mesh, policy=Policy(task.dtype))
    state = jax.device_get(TrainState.create(variables, optimizer, ema=False))
    after, _ = step(state, shard_batch(mesh, batch), jax.random.key(0))
    return by_path(jax.tree.map(np.subtract, state.variables, jax.device_get(after.variables)))


def relative_errors(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> dict[str, float]:
    """Returns the largest error of each array relative to its largest value, worst first."""

    def error(path: str) -> float:
        scale = np.abs(want[path]).max()
        difference = np.abs(got[path] - want[path]).max()
        return float(difference / scale) if scale else float(difference)

    return dict(sorted(((path, error(path)) for path in want), key=lambda item: -item[1]))


def main() -> None:
    """Prints the worst errors of each mesh."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detector", nargs="+", choices=DETECTORS, default=DETECTORS)
    parser.add_argument("--height", nargs="+", type=int, default=[68, 192])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--data", type=int, default=1)
    parser.add_argument("--space", nargs="+", type=int, default=[2, 4])
    parser.add_argument("--stages", nargs="*", type=int, default=[])
    parser.add_argument("--norm", default="batch_norm")
    parser.add_argument("--kernels", choices=["reference", "fast"])
    parser.add_argument("--show", type=int, default=3, help="how many of the worst")
    args = parser.parse_args()
    for detector in args.detector:
        for height in args.height:
            task = narrow_task(
                detector,
                height,
                args.width,
                stages=args.stages,
                norm=args.norm,
                kernels=args.kernels,
            )
            variables = jax.device_get(task.init(jax.random.key(0)))
            batch = make_batch(2 * args.data, height, args.width, task.pyramid_levels)
            want = step_changes(task, mesh_of(1, 1), variables, batch)
            for space in args.space:
                got = step_changes(task, mesh_of(args.data, space), variables, batch)
                worst = list(relative_errors(got, want).items())[: args.show]
                shown = ", ".join(f"{path} {error:.1e}" for path, error in worst)
                where = f"{detector}, {height} rows, data={args.data}, space={space}"
                print(f"{where}: {shown}", flush=True)


if __name__ == "__main__":
    main()
