"""What becomes of objects when a window is cut out of their image: one rule for crops and tiles."""

from __future__ import annotations

import dataclasses

import numpy as np

from ipg_jax.data.sources.base import Objects

Window = tuple[int, int, int, int]
"""`(x0, y0, x1, y1)` in pixels of an image; it holds the columns x0 to x1 - 1."""


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
    shifted = objects.boxes - np.array([x0, y0, x0, y0], np.float32)
    clipped = np.clip(shifted, 0, np.array([x1 - x0, y1 - y0] * 2, np.float32))
    inside = (clipped[:, 2:] > clipped[:, :2]).all(axis=1)
    whole = np.prod(shifted[inside, 2:] - shifted[inside, :2], axis=1)
    boxes = clipped[inside]
    visible = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) / whole
    return dataclasses.replace(
        objects,
        boxes=boxes,
        labels=objects.labels[inside],
        ignore=objects.ignore[inside] | (visible < min_visible),
        area=objects.area[inside] * visible.astype(np.float32),
    )
