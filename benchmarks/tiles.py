"""Memory and time of a large image that is looked at by tiles, and of merging what is found.

    python benchmarks/tiles.py [--side=10000] [--tile=512] [--batch_size=4]

A narrow RetinaNet (guided ResNet-10, of random weights, whose scores say nothing) looks at a JPEG
of `side` x `side` pixels, as `predict.py --tiles` does, on one device. After each step the largest
memory that the process has had so far is printed. Then 10,000 boxes of several kinds are merged,
and once 62,500.
"""

from __future__ import annotations

import argparse
import functools
import io
import json
import pathlib
import resource
import sys
import time

import jax
import numpy as np
from PIL import Image

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))  # configs lie beside benchmarks
from configs import digits_ipg
from ipg_jax import build_task
from ipg_jax.evaluation import BoxMerge, Tiles
from ipg_jax.images import ImageOptions, TileGrid, decode_image, prepare_image
from ipg_jax.inference.tiles import detect_tiles
from ipg_jax.types import Detections, Pyramid
from ipg_jax.visualize import draw_boxes, encode_png

DRAWN = 1000
"""How many of the boxes are drawn."""


def made_jpeg(side: int) -> bytes:
    """Returns the file of a picture of noise in blocks of 8 x 8 pixels."""
    blocks = np.random.default_rng(0).integers(0, 256, (-(-side // 8), -(-side // 8), 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(blocks).resize((side, side), Image.Resampling.NEAREST).save(file, "JPEG")
    return file.getvalue()


def peak_gib() -> float:
    """Returns the largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def look(file: bytes, tile: int, batch_size: int) -> dict[str, dict[str, float]]:
    """Returns seconds and peak memory of each step from the file to the picture with boxes."""
    config = digits_ipg.get_config("stages=2").unlock()
    config.model.backbone = "resnet10"
    config.model.base_channels = 16
    task = build_task(config)
    variables = task.init(jax.random.key(0))
    program = jax.jit(task.predict)

    def detect(pyramid: Pyramid, size: np.ndarray) -> Detections:
        return program(variables, pyramid, size)

    figures = {"start": {"seconds": 0.0, "peak_gib": peak_gib()}}
    begin = time.perf_counter()

    def done(step: str) -> None:
        nonlocal begin
        figures[step] = {"seconds": time.perf_counter() - begin, "peak_gib": peak_gib()}
        begin = time.perf_counter()

    image = decode_image(file, options=ImageOptions(max_pixels=2**62))
    done("decode")
    prepare = functools.partial(prepare_image, image_size=(tile, tile), levels=task.pyramid_levels)
    tiles = Tiles(grid=TileGrid((tile, tile)))
    found = detect_tiles(detect, prepare, image, tiles, batch_size=batch_size)
    done("detect")
    boxes, labels, scores = (x[:DRAWN] for x in (found.boxes, found.labels, found.scores))
    names = [str(i) for i in range(task.num_classes)]
    encode_png(draw_boxes(image, boxes.astype(np.float32), labels, names, scores))
    done("draw and encode")
    return figures


def merge_seconds(count: int = 10_000) -> dict[str, float]:
    """Returns the CPU time of merging so many boxes of one class, or of ten."""
    rng = np.random.default_rng(0)

    def boxes(side: float, n: int = count) -> np.ndarray:
        corners = rng.uniform(0, side, (n, 2))
        return np.concatenate([corners, corners + rng.uniform(10, 60, (n, 2))], axis=1)

    one, ten = np.zeros(count, np.int32), rng.integers(0, 10, count)
    many = 100 * 625  # of each tile of a picture of 10,000 x 10,000 pixels
    rows = 2.0 * np.arange(count)
    column = np.stack([0 * rows, rows, 0 * rows + 10, rows + 1], axis=1)
    seconds = {}
    for name, made, labels in (
        ("small objects in 10,000 x 10,000 pixels", boxes(10_000), one),
        ("the same, of ten classes", boxes(10_000), ten),
        ("the same in 500 x 500 pixels", boxes(500), one),
        ("in one column, of which none match", column, one),
        ("62,500 in 10,000 x 10,000 pixels", boxes(10_000, many), np.zeros(many, np.int32)),
    ):
        scores = rng.random(len(made)).astype(np.float32)
        begin = time.process_time()
        BoxMerge()(made, scores, labels)
        seconds[name] = time.process_time() - begin
    return seconds


def main() -> None:
    """Prints the figures, and all of them as one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=10_000)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--batch_size", type=int, default=4)
    options = parser.parse_args()
    steps = look(made_jpeg(options.side), options.tile, options.batch_size)
    for step, values in steps.items():
        print(f"{step:16} {values['seconds']:8.1f} s  peak {values['peak_gib']:.2f} GiB")
    merging = merge_seconds()
    for name, seconds in merging.items():
        print(f"{name:40} {seconds:6.2f} s")
    print(json.dumps({"steps": steps, "merging": merging}))


if __name__ == "__main__":
    main()
