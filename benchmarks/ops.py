"""Speed of NMS and ROI align, beside torchvision's on the same boxes and machine.

    python benchmarks/ops.py [--torch-python=PATH]

The sides take turns, so that whatever else the machine does slows both alike; the median of all
timed calls counts, and a ratio below 1 means faster than torchvision. torchvision's NMS has no
limit on the boxes it keeps, so `keep all` compares like with like; 100 is what a detector asks for.
ROI align pools 512 boxes (a training step's) or 1,000 (an inference's) from the four FPN levels of
a 640x640 image, 256 channels, 7x7 bins, as `MultiScaleRoIAlign` does.

Where the extra `tpu-report` is installed, each operator is also compiled for one v5e chip: million
cycles by XLA:TPU's estimate, and what that leaves out: kernels that it gives no cycles, and loops
that count once because their length depends on the boxes (see `docs/operators.md`).
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import pathlib
import statistics
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
from torch_process import Timings, run_only_torch, time_calls

IOU_THRESHOLD = 0.5
NUM_CLASSES = 80
SIDE, CHANNELS, BINS = 640, 256, 7
STRIDES = (4, 8, 16, 32)
Arrays = dict[str, np.ndarray]


def clustered_boxes(n: int) -> Arrays:
    """Detector-like boxes: twenty guesses around each object, and scores without ties."""
    rng = np.random.default_rng(n)
    objects = max(1, n // 20)
    center, size = rng.uniform(0, 1000, (objects, 2)), rng.uniform(20, 200, (objects, 2))
    chosen = rng.integers(0, objects, n)
    center = center[chosen] + rng.normal(0, 0.1, (n, 2)) * size[chosen]
    half = size[chosen] * np.exp(rng.normal(0, 0.2, (n, 2))) / 2
    return {
        "boxes": np.concatenate([center - half, center + half], axis=1).astype(np.float32),
        "scores": (rng.permutation(n) / n).astype(np.float32),
        "labels": (chosen % NUM_CLASSES).astype(np.int32),
    }


def pooling_inputs(n: int) -> Arrays:
    """Feature maps (NHWC), boxes of 16 to 500 pixels, and the gradient of what is pooled."""
    rng = np.random.default_rng(n)
    sides = [SIDE // stride for stride in STRIDES]
    size = np.exp(rng.uniform(np.log(16), np.log(500), (n, 1)) + rng.normal(0, 0.3, (n, 2)))
    center = rng.uniform(0, SIDE, (n, 2))
    boxes = np.concatenate([center - size / 2, center + size / 2], axis=1).clip(0, SIDE)
    arrays = {f"p{i}": rng.normal(size=(1, s, s, CHANNELS)) for i, s in enumerate(sides, 2)}
    arrays |= {"boxes": boxes, "gradient": rng.normal(size=(n, BINS, BINS, CHANNELS))}
    return {name: array.astype(np.float32) for name, array in arrays.items()}


def torch_calls() -> dict[str, Callable[[], Any]]:
    """Returns torchvision's operators, by the names of `jax_calls`."""
    import torch
    import torchvision

    calls: dict[str, Callable[[], Any]] = {}

    def add_nms(n: int) -> None:
        arrays = {key: torch.tensor(value) for key, value in clustered_boxes(n).items()}
        boxes, scores, labels = arrays["boxes"], arrays["scores"], arrays["labels"].long()
        calls[f"nms {n}"] = lambda: torchvision.ops.nms(boxes, scores, IOU_THRESHOLD)
        calls[f"batched_nms {n}"] = lambda: torchvision.ops.batched_nms(
            boxes, scores, labels, IOU_THRESHOLD
        )

    def add_roi_align(n: int) -> None:
        arrays = {key: torch.tensor(value) for key, value in pooling_inputs(n).items()}
        maps = {k: v.permute(0, 3, 1, 2).contiguous() for k, v in arrays.items() if k[0] == "p"}
        gradient = arrays["gradient"].permute(0, 3, 1, 2).contiguous()
        pool = torchvision.ops.MultiScaleRoIAlign(list(maps), BINS, 2)

        def forward() -> Any:
            with torch.inference_mode():
                return pool(maps, [arrays["boxes"]], [(SIDE, SIDE)])

        def both() -> None:
            leaves = {key: value.clone().requires_grad_() for key, value in maps.items()}
            pool(leaves, [arrays["boxes"]], [(SIDE, SIDE)]).backward(gradient)

        calls[f"roi_align {n}"] = forward
        calls[f"roi_align {n} with gradient"] = both

    for n in (1000, 5000):
        add_nms(n)
    for n in (512, 1000):
        add_roi_align(n)
    return calls


def jax_functions() -> dict[str, tuple[Callable[..., Any], tuple[Any, ...]]]:
    """Returns our operators and their arguments, by name; a name begins with torchvision's."""
    import jax

    from ipg_jax import ops

    functions: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {}

    def add_nms(n: int, limit: int, name: str) -> None:
        arrays = clustered_boxes(n)
        boxes, scores, labels = arrays["boxes"], arrays["scores"], arrays["labels"]
        functions[f"nms {n}, keep {name}"] = (
            lambda boxes, scores: ops.nms(boxes, scores, IOU_THRESHOLD, limit),
            (boxes, scores),
        )
        functions[f"batched_nms {n}, keep {name}"] = (
            lambda boxes, scores, labels: ops.batched_nms(
                boxes, scores, labels, IOU_THRESHOLD, limit
            ),
            (boxes, scores, labels),
        )

    def add_roi_align(n: int) -> None:
        arrays = pooling_inputs(n)
        maps = [arrays[f"p{i}"][0] for i in range(2, 2 + len(STRIDES))]

        def pool(maps: Any, boxes: Any) -> Any:
            return ops.multilevel_roi_align(maps, boxes, BINS, STRIDES)

        def both(maps: Any, boxes: Any, gradient: Any) -> Any:
            pooled, vjp = jax.vjp(lambda maps: pool(maps, boxes), maps)
            return pooled, vjp(gradient)

        functions[f"roi_align {n}"] = (pool, (maps, arrays["boxes"]))
        functions[f"roi_align {n} with gradient"] = (
            both,
            (maps, arrays["boxes"], arrays["gradient"]),
        )

    for n in (1000, 5000):
        add_nms(n, 100, "100")
        add_nms(n, n, "all")
    for n in (512, 1000):
        add_roi_align(n)
    return functions


def jax_calls() -> dict[str, Callable[[], Any]]:
    """Returns our operators, compiled for the default device, with their arguments on it."""
    import jax

    def bind(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Callable[[], Any]:
        run, placed = jax.jit(function), jax.device_put(arguments)
        return lambda: jax.block_until_ready(run(*placed))

    return {name: bind(*value) for name, value in jax_functions().items()}


def tpu_estimates() -> dict[str, str]:
    """Returns what XLA:TPU expects of each operator on one v5e chip; empty without libtpu."""
    if importlib.util.find_spec("libtpu") is None:
        return {}
    import jax

    sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # tools lie beside benchmarks
    from tools.xla_report.report import compile_and_report
    from tools.xla_report.topologies import topology_devices

    chip, devices = topology_devices("v5e:1x1")
    sharding = jax.sharding.SingleDeviceSharding(devices[0])
    estimates = {}
    for name, (function, arguments) in jax_functions().items():
        abstract = jax.tree.map(
            lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), arguments
        )
        report = compile_and_report(jax.jit(function).lower(*abstract), chip, images=1)
        cycles = report["estimated_cycles"] + report["loop_cycles"]
        rest = [f"{count} {kind}" for kind, count in report["without_estimate"].items()]
        if report["unknown_loops"]:
            rest.append(f"{report['unknown_loops']} loops")
        estimates[name] = " + ".join([f"{cycles / 1e6:.2f}", *rest])
    return estimates


def main() -> None:
    """Prints a table for people and one JSON line for programs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--torch-python", default="", help="an interpreter that has torch")
    parser.add_argument("--rounds", type=int, default=3, help="how often the sides take turns")
    parser.add_argument("--repeats", type=int, default=10, help="timed calls in each turn")
    parser.add_argument("--only-torch", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.only_torch:
        print(json.dumps(time_calls(torch_calls(), arguments.repeats)))
        return

    import jax

    # The default backend first: with libtpu installed but no chip, JAX must not look for one.
    if importlib.util.find_spec("libtpu") and "JAX_PLATFORMS" not in os.environ:
        jax.config.update("jax_platforms", "cpu")
    calls = jax_calls()
    ours: Timings = {}
    theirs: Timings = {}
    for _ in range(arguments.rounds):
        for name, values in run_only_torch(__file__, arguments.torch_python).items():
            theirs.setdefault(name, []).extend(values)
        for name, values in time_calls(calls, arguments.repeats).items():
            ours.setdefault(name, []).extend(values)
    estimates = tpu_estimates()
    platform = jax.devices()[0].platform
    print(f"{'milliseconds':30}{platform:>9}{'torchvision':>13}{'ratio':>7}  v5e: million cycles")
    records = {}
    for name, values in ours.items():
        median = 1e3 * statistics.median(values)
        reference = 1e3 * statistics.median(theirs[name.split(",")[0]])
        estimate = estimates.get(name, "")
        ratio = median / reference
        print(f"{name:30}{median:9.2f}{reference:13.2f}{ratio:7.2f}  {estimate}")
        records[name] = {
            "milliseconds": median,
            "torchvision": reference,
            "ratio": ratio,
            "tpu": estimate,
        }
    print(json.dumps(records))


if __name__ == "__main__":
    main()
