"""What `fold_fusion` saves: FLOPs and seconds of inference, and how far the outputs agree.

    python benchmarks/folding.py [--repeats=N]

RetinaNet ResNet-50 FPN, 80 classes, guided at stages 2-4, one image of 640x640, float32, NMS
included. FLOPs are XLA's own count of the compiled program. Both programs are timed in turns; the
median counts.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import statistics
import sys
import time

import jax
import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # configs lie beside benchmarks
from configs import retinanet_ipg
from ipg_jax import build_task, ops
from ipg_jax.models import fold_fusion

SIDE = 640


def measure(fusion: str, repeats: int) -> dict[str, dict[str, float]]:
    """Returns what as trained and folded comes to.

    GFLOPs, seconds, and the largest difference from the outputs as trained, by their largest value.
    """
    task = build_task(retinanet_ipg.get_config(f"dtype=float32,fusion={fusion}"))
    variables = task.init(jax.random.key(0))
    trees = {
        "as trained": variables,
        "folded": fold_fusion(variables),
    }
    rng = np.random.default_rng(0)
    pyramid = ops.image_pyramid(
        rng.integers(0, 256, (SIDE, SIDE, 3)).astype(np.float32), task.pyramid_levels
    )
    pyramid = tuple(np.round(level).astype(np.uint8)[None] for level in pyramid)
    inputs = (pyramid, np.full((1, 2), SIDE, np.int32))

    run = jax.jit(task.predict)
    programs = {name: run.lower(tree, *inputs).compile() for name, tree in trees.items()}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for turn in range(repeats + 1):
        for name, program in programs.items():
            begin = time.perf_counter()
            jax.block_until_ready(program(trees[name], *inputs))
            if turn:  # the first one warms up
                seconds[name].append(time.perf_counter() - begin)

    images = ops.normalize_pyramid(
        *inputs, mean=task.image_mean, std=task.image_std, dtype=np.float32
    )
    outputs = jax.jit(lambda variables: task.model.apply(variables, images))
    want = jax.tree.leaves(outputs(variables))
    return {
        name: {
            "gflops": programs[name].cost_analysis()["flops"] / 1e9,
            "seconds": statistics.median(seconds[name]),
            "largest_difference": max(
                float(abs(a - b).max() / abs(a).max())
                for a, b in zip(want, jax.tree.leaves(outputs(tree)), strict=True)
            ),
        }
        for name, tree in trees.items()
    }


def main() -> None:
    """Prints one JSON object for each fusion that folds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="timed calls of each program")
    arguments = parser.parse_args()
    for fusion in ("sum", "concat"):
        print(json.dumps({"fusion": fusion} | measure(fusion, arguments.repeats)))


if __name__ == "__main__":
    main()
