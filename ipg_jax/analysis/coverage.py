"""How well the anchors of a feature pyramid overlap objects, without making the anchors.

Anchors of one kind stand on a grid. The overlap of such an anchor with a box is the product of an
overlap along x and one along y, each of which shrinks with the distance of the two centres: the
anchor nearest to the box along both axes is the best of its kind, whatever else there is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from ipg_jax.ops import base_anchors

_CHUNK = 2**15
"""Objects at a time, so that memory does not grow with the data set."""


class AnchorLayout(NamedTuple):
    """The anchors of a feature pyramid, as `DetectionTask` makes them.

    Attributes:
      strides: nominal pixels between neighbouring positions, of each level.
      sizes: sides of the square anchors in pixels, of each level.
      ratios: heights over widths.
    """

    strides: tuple[int, ...]
    sizes: tuple[tuple[float, ...], ...]
    ratios: tuple[float, ...]

    def count(self, canvas: tuple[int, int]) -> int:
        """Number of anchors on a padded image of this height and width."""
        return sum(
            -(-canvas[0] // stride) * -(-canvas[1] // stride) * len(sizes) * len(self.ratios)
            for stride, sizes in zip(self.strides, self.sizes, strict=True)
        )


def best_overlaps(
    boxes: Float64[np.ndarray, "n 4"], canvas: Int64[np.ndarray, "n 2"], layout: AnchorLayout
) -> Float32[np.ndarray, "n levels"]:
    """The largest IoU of each box with the anchors of each level.

    Args:
      boxes: `xyxy` in pixels of the network's input, each inside its canvas.
      canvas: height and width of the padded image of each box.
      layout: the anchors.
    """
    best = np.zeros((len(boxes), len(layout.strides)), np.float32)
    for start in range(0, len(boxes), _CHUNK):
        rows = slice(start, start + _CHUNK)
        for level, (stride, sizes) in enumerate(zip(layout.strides, layout.sizes, strict=True)):
            base = base_anchors(sizes, layout.ratios).astype(np.float64)
            best[rows, level] = _best_of_level(boxes[rows], canvas[rows], stride, base)
    return best


def _best_of_level(
    boxes: Float64[np.ndarray, "n 4"],
    canvas: Int64[np.ndarray, "n 2"],
    stride: int,
    base: Float64[np.ndarray, "k 4"],
) -> Float64[np.ndarray, " n"]:
    positions = -(-canvas // stride)
    pitch = canvas // positions  # as torchvision has it: less than the stride on some canvases
    center = (boxes[:, [1, 0]] + boxes[:, [3, 2]]) / 2
    y, x = (np.clip(np.round(center / pitch), 0, positions - 1) * pitch).T[:, :, None]
    x0, y0, x1, y1 = boxes.T[:, :, None]
    left, top, right, bottom = base.T[:, None]
    width = np.minimum(x + right, x1) - np.maximum(x + left, x0)
    height = np.minimum(y + bottom, y1) - np.maximum(y + top, y0)
    common = np.maximum(width, 0.0) * np.maximum(height, 0.0)
    union = (x1 - x0) * (y1 - y0) + (right - left) * (bottom - top) - common
    return (common / union).max(axis=1)
