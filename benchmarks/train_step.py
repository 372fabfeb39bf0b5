"""Seconds of a training step and of inference, beside torchvision's in the same run.

    python benchmarks/train_step.py [--detector=faster_rcnn] [--torch-python=PATH]

RetinaNet or Faster R-CNN, ResNet-50 FPN, 91 classes, batch norm, SGD, one image of 640x640,
float32, plain and with sum guidance at stages 2-4; inference includes NMS. The sides take turns, so
that whatever else the machine does slows both alike; the median of all timed calls counts. Torch
runs on the CPU, JAX on its default device. Both get huge pages for large arrays, for which glibc
has to be asked when a process starts.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import statistics
import sys
from collections.abc import Callable

from torch_process import Timings, run_only_torch, time_calls

SIDE = 640
HUGE_PAGES = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}


def torch_calls(detector: str) -> dict[str, Callable[[], object]]:
    """Returns one training step and one inference of torchvision's detector."""
    import torch
    from torchvision.models.detection import fasterrcnn_resnet50_fpn, retinanet_resnet50_fpn

    torch.manual_seed(0)
    make = fasterrcnn_resnet50_fpn if detector == "faster_rcnn" else retinanet_resnet50_fpn
    model = make(
        weights=None, weights_backbone=None, num_classes=91, min_size=SIDE, max_size=SIDE
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    image = torch.rand(3, SIDE, SIDE)
    corners = torch.rand(8, 2) * 400
    target = {"boxes": torch.cat([corners, corners + 100], 1), "labels": torch.arange(1, 9)}

    def train() -> None:
        model.train()
        loss = sum(model([image], [target]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def predict() -> None:
        model.eval()
        with torch.inference_mode():
            model([image])

    return {"torchvision train": train, "torchvision predict": predict}


def jax_calls(detector: str, label: str, stages: str) -> dict[str, Callable[[], object]]:
    """Returns one training step and one inference of our detector, guided at `stages`."""
    import jax
    import numpy as np

    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # configs lie beside benchmarks
    from configs import faster_rcnn_ipg, retinanet_ipg
    from ipg_jax import Batch, build_task
    from ipg_jax.training.build import build_optimizer
    from ipg_jax.training.sharding import make_mesh, replicated, shard_batch
    from ipg_jax.training.state import TrainState
    from ipg_jax.training.steps import make_train_step

    # Torchvision's numbers of classes, with and without the background, and of detections.
    two_stage = detector == "faster_rcnn"
    module = faster_rcnn_ipg if two_stage else retinanet_ipg
    config = module.get_config(f"dtype=float32,stages={stages}").unlock()
    config.model.num_classes = 90 if two_stage else 91
    config.eval.max_detections = 100 if two_stage else 300
    task = build_task(config)
    optimizer, schedule = build_optimizer(config, num_steps=1000, steps_per_epoch=100.0)
    mesh = make_mesh()
    state = jax.jit(
        lambda key: TrainState.create(task.init(key), optimizer, ema=False),
        out_shardings=replicated(mesh),
    )(jax.random.key(0))
    variables = jax.tree.map(lambda x: x.copy(), state.variables)  # the step donates the state
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 400, (1, 8, 2)).astype(np.float32)
    batch = Batch(
        pyramid=tuple(
            rng.integers(0, 256, (1, SIDE >> i, SIDE >> i, 3), np.uint8)
            for i in range(task.pyramid_levels)
        ),
        boxes=np.concatenate([corners, corners + 100], axis=-1),
        labels=np.arange(8, dtype=np.int32)[None],
        valid=np.ones((1, 8), bool),
        ignore=np.zeros((1, 8), bool),
        image_size=np.full((1, 2), SIDE, np.int32),
        scale=np.ones((1, 2), np.float32),
        image_id=np.zeros(1, np.int32),
        weight=np.ones(1, np.float32),
    )
    batch = shard_batch(mesh, batch)
    step = make_train_step(task.loss_and_updates, optimizer, mesh, schedule=schedule)
    run = jax.jit(task.predict)

    def train() -> None:
        nonlocal state
        state, metrics = step(state, batch, jax.random.key(0))
        jax.block_until_ready((state, metrics))

    def predict() -> None:
        jax.block_until_ready(run(variables, batch.pyramid, batch.image_size))

    return {f"{label} train": train, f"{label} predict": predict}


def main() -> None:
    """Prints a table for people and one JSON line for programs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--detector", choices=("retinanet", "faster_rcnn"), default="retinanet")
    parser.add_argument("--torch-python", default="", help="an interpreter that has torch")
    parser.add_argument("--rounds", type=int, default=2, help="how often the sides take turns")
    parser.add_argument("--repeats", type=int, default=4, help="timed calls in each turn")
    parser.add_argument("--only-torch", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_torch:
        print(json.dumps(time_calls(torch_calls(arguments.detector), arguments.repeats)))
        return

    if not HUGE_PAGES.items() <= os.environ.items():
        os.execve(sys.executable, [sys.executable, *sys.argv], {**os.environ, **HUGE_PAGES})

    calls = jax_calls(arguments.detector, "plain", "")
    calls |= jax_calls(arguments.detector, "guided", "234")
    timings: Timings = {}
    for _ in range(arguments.rounds):
        for turn in (
            run_only_torch(__file__, arguments.torch_python),
            time_calls(calls, arguments.repeats),
        ):
            for name, seconds in turn.items():
                timings.setdefault(name, []).extend(seconds)
    medians = {name: statistics.median(seconds) for name, seconds in timings.items()}
    ratios = {
        side: {name: medians[name] / medians[f"{side} {name.split()[1]}"] for name in medians}
        for side in ("torchvision", "plain")
    }
    print(f"{'':22}{'seconds':>9}" + "".join(f"{f'x {side}':>15}" for side in ratios))
    for name, value in medians.items():
        print(f"{name:22}{value:9.3f}" + "".join(f"{of[name]:15.2f}" for of in ratios.values()))
    print(json.dumps({"seconds": medians, "ratios": ratios}))


if __name__ == "__main__":
    main()
