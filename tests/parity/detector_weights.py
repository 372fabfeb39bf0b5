"""Weights and pictures to compare whole detectors with, made by NumPy alone from a fixed seed.

Both sides of a comparison import this file, so that neither weights nor pictures are stored. The
weights are random but not degenerate: activations keep their scale through all layers, batch norms
have statistics and scales of their own, and several classes score above the threshold.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence

import numpy as np

NAMELESS_IDS = (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)  # no category of COCO
HEIGHT, WIDTH = 128, 160

# Standard deviation of a logit or delta for inputs of mean square 1.
LAST_LAYERS = {"cls_logits": 1.0, "bbox_reg": 0.15, "cls_score": 1.5, "bbox_pred": 0.3}


def make_state(shapes: Mapping[str, Sequence[int]], seed: int = 0) -> dict[str, np.ndarray]:
    """Returns values for a torch `state_dict` of these names and shapes."""
    return {name: _make(name, shapes, seed) for name in shapes}


def _make(name: str, shapes: Mapping[str, Sequence[int]], seed: int) -> np.ndarray:
    module, _, leaf = name.rpartition(".")
    layer = module.rpartition(".")[2]
    shape = tuple(shapes[name])
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])

    def uniform(low: float, high: float) -> np.ndarray:
        return low + (high - low) * rng.random(shape, np.float32)

    if leaf == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if layer in LAST_LAYERS and leaf == "weight":
        limit = LAST_LAYERS[layer] * np.sqrt(3 / np.prod(shape[1:]))
        return uniform(-limit, limit)
    if layer in ("cls_logits", "cls_score") and shape[0] % 91 == 0:
        values = uniform(-0.1, 0.1)
        rows = values.reshape(-1, 91)  # by category id
        rows[:, NAMELESS_IDS] = -100  # trained detectors never predict these either
        if layer == "cls_score":
            rows[:, 0] += 3  # the background
        else:
            rows -= 4.5
            rows[:, 0] = -100
        return values
    if leaf == "layer_scale":
        return uniform(0.1, 0.5)
    if leaf == "running_mean":
        return uniform(-0.3, 0.3)
    if leaf == "running_var":
        return uniform(0.5, 1.5)
    is_norm = len(shapes[f"{module}.weight"]) == 1
    if leaf == "bias":
        return uniform(-0.2, 0.2)
    if is_norm:
        # The last norms of a residual block are small, so that the sum grows slowly.
        return uniform(0.1, 0.5) if layer == "bn3" or "downsample" in module else uniform(0.7, 1.3)
    limit = np.sqrt(2 * 3 / np.prod(shape[1:]))  # He: keeps the mean square through a ReLU
    return uniform(-limit, limit)


def make_batch() -> dict[str, np.ndarray]:
    """Returns two pictures of blobs and rectangles, with the rectangles as ground truth.

    `images` uint8 `[2, 128, 160, 3]`, `image_size` `[2, 2]`, `boxes` float32 `[2, 5, 4]` and their
    `category_ids` `[2, 5]`, those of COCO. A category id of 0 would stand for padding.
    """
    rng = np.random.default_rng(7)
    corner = rng.uniform(0, 90, (2, 5, 2))
    other = np.minimum(corner + rng.uniform(12, 70, (2, 5, 2)), [WIDTH - 1, HEIGHT - 1])
    boxes = np.concatenate([corner, other], axis=-1).astype(np.float32)
    images = np.zeros((2, HEIGHT, WIDTH, 3))
    for side in (4, 8, 16, 32):
        grid = rng.uniform(-1, 1, (2, HEIGHT // side, WIDTH // side, 3))
        images += grid.repeat(side, axis=1).repeat(side, axis=2)
    for image, rectangles in zip(images, boxes.astype(int), strict=True):
        for x1, y1, x2, y2 in rectangles:
            image[y1:y2, x1:x2] = rng.uniform(-2, 2, 3)
    return {
        "images": np.clip(127 + 55 * images, 0, 255).astype(np.uint8),
        "image_size": np.full((2, 2), (HEIGHT, WIDTH), np.int32),
        "boxes": boxes,
        "category_ids": rng.choice(np.delete(np.arange(1, 91), np.array(NAMELESS_IDS) - 1), (2, 5)),
    }
