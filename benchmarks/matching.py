"""Time and memory of matching one image's anchors with its objects, by each matcher.

    python benchmarks/matching.py

Rows of ground truth are padded to a data set's fullest image, so a scene is given by its objects,
its rows and the size of the image. Matchers take turns, and the median of all timed calls counts.
Memory is that of XLA's temporaries.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ipg_jax import ops
from ipg_jax.tasks.matchers import MATCHERS, Matcher, anchors_by_kind, receptive_field

SCENES = {
    "800x800, 100 objects": (100, 100, (100, 100), 3),
    "800x800, 25 objects of 100 rows": (25, 100, (100, 100), 3),
    "800x1344 from P2, 25 objects of 2,667 rows": (25, 2667, (200, 336), 2),
    "800x1344 from P2, 2,667 objects": (2667, 2667, (200, 336), 2),
}
"""Objects, rows, positions of the first level, and that level; five levels of nine anchors."""


def scene(objects: int, rows: int, shape: tuple[int, int], first: int) -> tuple[Any, ...]:
    """Returns anchors, boxes of 4 to 40 pixels, and the masks of the rows."""
    shapes = [(-(-shape[0] // 2**i), -(-shape[1] // 2**i)) for i in range(5)]
    levels = range(first, first + 5)
    strides = [(2**level, 2**level) for level in levels]
    sizes = [tuple(4.0 * 2**level * 2 ** (i / 3) for i in range(3)) for level in levels]
    anchors = anchors_by_kind(ops.pyramid_anchors(shapes, strides, sizes), 9)
    rng = np.random.default_rng(0)
    side = 2**first * np.array(shape[::-1])
    corner, size = rng.uniform(0, side - 40, (rows, 2)), rng.uniform(4, 40, (rows, 2))
    boxes = jnp.asarray(np.concatenate([corner, corner + size], axis=1), jnp.float32)
    return anchors, boxes, jnp.arange(rows) < objects, jnp.zeros(rows, bool), boxes


def matchers(first: int) -> dict[str, Matcher]:
    """Returns the matchers by name, for five levels from the first on."""
    options: dict[str, dict[str, Any]] = {
        "iou": {"foreground_iou": 0.5, "background_iou": 0.4},
        "rfla": {"receptive_fields": tuple(map(receptive_field, range(first, first + 5)))},
    }
    return {name: make(**options.get(name, {})) for name, make in MATCHERS.items()}


def main() -> None:
    """Prints a table for people and one JSON line for programs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7, help="timed calls of each")
    parser.add_argument("--scenes", type=int, default=len(SCENES), help="only the first so many")
    arguments = parser.parse_args()
    records: dict[str, dict[str, dict[str, float]]] = {}
    for title, (objects, rows, shape, first) in list(SCENES.items())[: arguments.scenes]:
        inputs = scene(objects, rows, shape, first)
        anchors = sum(level.shape[0] * level.shape[1] for level in inputs[0])
        compiled: dict[str, Any] = {}
        times: dict[str, list[float]] = {}
        for name, matcher in matchers(first).items():
            compiled[name] = jax.jit(matcher).lower(*inputs).compile()
            jax.block_until_ready(compiled[name](*inputs))
            times[name] = []
        for _ in range(arguments.repeats):
            for name, run in compiled.items():
                start = time.perf_counter()
                jax.block_until_ready(run(*inputs))
                times[name].append(1e3 * (time.perf_counter() - start))
        print(f"{title}: {anchors:,} anchors\n{'':12}{'milliseconds':>14}{'MiB':>8}")
        records[title] = {}
        for name, values in times.items():
            memory = compiled[name].memory_analysis().temp_size_in_bytes / 2**20
            record = {"milliseconds": statistics.median(values), "MiB": memory}
            print(f"{name:12}{record['milliseconds']:14.1f}{memory:8.0f}")
            records[title][name] = record
    print(json.dumps(records))


if __name__ == "__main__":
    main()
