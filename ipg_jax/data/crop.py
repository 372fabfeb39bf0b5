"""What becomes of objects when a window is cut out of their image: one rule for crops and tiles."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float32

from ipg_jax.data.sources.base import Objects

Window = tuple[int, int, int, int]
"""`(x0, y0, x1, y1)` in pixels of an image; it holds the columns x0 to x1 - 1."""

MIN_VISIBLE = 0.5
"""Default of `min_visible` wherever an image is cut: tiles, crops and mosaics."""


def visible_shares(boxes: Float32[np.ndarray, "n 4"], window: Window) -> Float32[np.ndarray, " n"]:
    """Returns the share of each box's area that is inside a window; 0 of a box without area."""
    x0, y0, x1, y1 = window
    shifted = boxes - np.array([x0, y0, x0, y0], np.float32)
    clipped = np.clip(shifted, 0, np.array([x1 - x0, y1 - y0] * 2, np.float32))
    whole = np.prod(shifted[:, 2:] - shifted[:, :2], axis=1)
    inside = np.prod(clipped[:, 2:] - clipped[:, :2], axis=1)
    return np.divide(inside, whole, out=np.zeros_like(whole), where=whole > 0)


def crop_objects(objects: Objects, window: Window, *, min_visible: float) -> Objects:
    """Returns the objects of a window, in pixels of the window.

    Boxes are clipped to the window, and an object of which nothing is inside is left out. What
    the border cuts to less than `min_visible` of its box becomes a region to ignore: a detector
    is neither asked to find a wheel and call it a car, nor punished for it.

    Args:
      objects: those of the image.
      window: what is cut out; it may reach beyond the image.
      min_visible: least share of a box's area that makes its rest an object still, in [0, 1].

    Raises:
      ValueError: `min_visible` is out of range, or the window is empty.
    """
    x0, y0, x1, y1 = window
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"the window {window} (x0, y0, x1, y1) is empty")
    if not 0 <= min_visible <= 1:
        raise ValueError(f"min_visible={min_visible} is not a share from 0 to 1")
    visible = visible_shares(objects.boxes, window)
    objects, visible = objects.of(visible > 0), visible[visible > 0]
    shifted = objects.boxes - np.array([x0, y0, x0, y0], np.float32)
    return dataclasses.replace(
        objects,
        boxes=np.clip(shifted, 0, np.array([x1 - x0, y1 - y0] * 2, np.float32)),
        ignore=objects.ignore | (visible < min_visible),
        area=objects.area * visible,
    )
