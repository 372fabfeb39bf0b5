"""The objects of a data set as the network will see them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int32, Int64

from ipg_jax.data import Records
from ipg_jax.images import Geometry


class NetworkObjects(NamedTuple):
    """Objects that training learns from, in pixels of the network's input.

    Attributes:
      row: int64 `[n]`, of each in the records.
      image: int64 `[n]`, index of its image.
      label: int32 `[n]`.
      boxes: float64 `[n, 4]`, `xyxy`.
      canvas: int64 `[n, 2]`, height and width of the padded image.
      original_side: float64 `[n]`, square root of the box's area in pixels of the original image.
    """

    row: Int64[np.ndarray, " n"]
    image: Int64[np.ndarray, " n"]
    label: Int32[np.ndarray, " n"]
    boxes: Float64[np.ndarray, "n 4"]
    canvas: Int64[np.ndarray, "n 2"]
    original_side: Float64[np.ndarray, " n"]

    @property
    def side(self) -> Float64[np.ndarray, " n"]:
        """Square root of each box's area, in pixels of the network's input."""
        return np.sqrt(np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1))

    def of(self, rows: Int64[np.ndarray, " m"] | Bool[np.ndarray, " n"]) -> NetworkObjects:
        """Returns some of the objects, by a mask or by indices."""
        return NetworkObjects(*(column[rows] for column in self))

    def sample(self, size: int) -> NetworkObjects:
        """Returns so many objects at random, always the same, or all if there are no more."""
        count = len(self.row)
        if count <= size:
            return self
        return self.of(np.sort(np.random.default_rng(0).choice(count, size, replace=False)))


def network_objects(records: Records, geometry: Geometry) -> NetworkObjects:
    """Resizes the boxes of a data set; crowds and regions to ignore are left out.

    Args:
      records: the annotations.
      geometry: how images are resized and padded.
    """
    sizes, which = np.unique(records.sizes, axis=0, return_inverse=True)
    resized = np.array([geometry.resized((int(h), int(w))) for h, w in sizes])
    scales = (resized / sizes)[which.reshape(-1)]
    canvases = np.array(geometry.canvases)[geometry.buckets(records.sizes)]
    row = np.flatnonzero(~records.ignore)
    image = np.repeat(np.arange(len(records)), np.diff(records.offsets))[row]
    boxes = records.boxes[row].astype(np.float64)
    sides = boxes[:, 2:] - boxes[:, :2]
    return NetworkObjects(
        row=row,
        image=image,
        label=records.labels[row],
        boxes=boxes * np.tile(scales[image][:, ::-1], 2),
        canvas=canvases[image],
        original_side=np.sqrt(np.prod(sides, axis=1)),
    )
