"""Merging the boxes that several tiles of an image, or the tiles and the whole of it, have found.

An object at the border of a tile is found in part by one tile and in whole by its neighbour. The
intersection over the smaller box (IoS) tells that they are one, where their IoU is small; and
greedy non-maximum merging (GREEDYNMM) takes the box around both. The definitions are those of SAHI
(Akyon et al., Slicing Aided Hyper Inference, ICIP 2022), version 0.12.8, to whose results these are
equal; `tests/golden/make_sahi.py`.

Everything is on the host: an image has any number of boxes, and a compiled operator would need a
static one.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float, Float32, Float64, Int, Int32, Int64

from ipg_jax.images import TileGrid
from ipg_jax.types import Detections

MERGE_METHODS = ("nms", "greedy_nmm")
"""What `config.eval.merge` names."""

MERGE_OVERLAPS = ("iou", "ios")
"""What `config.eval.merge_metric` names."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BoxMerge:
    """How boxes of one class that match become one.

    The boxes are taken by decreasing score, equal scores by x0, then y0, x1, y1 and position. The
    first is kept, and takes out of the running all others of its class that match it: whose overlap
    with it is the threshold or more. So is the first of those that are left, and so on.

    With `nms` that is all. With `greedy_nmm` a box that is kept grows: of those that it took out,
    in the same order, each that matches what it has become so far extends it to the box around
    both. Its score stays, which is the best of them. So a doubtful box spoils a good one that it
    matches: that is for boxes above a threshold that one would draw, not for average precision,
    which also counts the doubtful ones.

    Attributes:
      method: `nms` or `greedy_nmm`.
      metric: overlap of two boxes, the intersection over the union (`iou`) or over the area of the
        smaller (`ios`).
      threshold: of the overlap, above 0 up to 1.

    Raises:
      ValueError: a value is none of these.
    """

    method: str = "nms"
    metric: str = "iou"
    threshold: float = 0.5

    def __post_init__(self) -> None:
        for name, known in (("method", MERGE_METHODS), ("metric", MERGE_OVERLAPS)):
            value = getattr(self, name)
            if value not in known:
                raise ValueError(f"{name} is one of {', '.join(known)}, not {value!r}")
        if not 0 < self.threshold <= 1:
            raise ValueError(f"threshold={self.threshold} is not above 0 and at most 1")

    def __call__(
        self,
        boxes: Float[np.ndarray, "n 4"],
        scores: Float[np.ndarray, " n"],
        labels: Int[np.ndarray, " n"],
    ) -> tuple[Float64[np.ndarray, "k 4"], Int64[np.ndarray, " k"]]:
        """Merges the boxes of one image.

        A box is compared with those alone that share a column of pixels with it: on a CPU core
        10,000 boxes take 0.2 s, and 0.9 s where all share columns and none match.

        Args:
          boxes: `xyxy` in pixels of the image, of all views together.
          scores: of the boxes.
          labels: of their classes; boxes of different classes do not match.

        Returns:
          The boxes that are kept, best first, as they have become; and their indices.

        Raises:
          ValueError: a box or a score is infinite or NaN.
        """
        if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
            raise ValueError("boxes and scores must be finite to be merged: one is infinite or NaN")
        boxes = boxes.astype(np.float64)
        x0, y0, x1, y1 = boxes.T
        order = np.lexsort((y1, x1, y0, x0, -scores))
        merged = boxes.copy()
        kept = np.zeros(len(boxes), bool)
        for label in np.unique(labels):
            rows = order[labels[order] == label]
            merged[rows], kept[rows] = self._merge_class(boxes[rows])
        index = order[kept[order]]
        return merged[index], index

    def select(
        self,
        boxes: Float32[np.ndarray, "n 4"],
        scores: Float32[np.ndarray, " n"],
        labels: Int32[np.ndarray, " n"],
        image_size: Int[np.ndarray, " 2"],
    ) -> Detections:
        """Does the same as a `detections.Select`: without padding, and without a limit.

        A box or a score that is not finite, as of a diverged model, counts as padding.
        """
        del image_size  # boxes within it merge to boxes within it
        real = np.isfinite(scores) & np.isfinite(boxes).all(axis=1)
        merged, index = self(boxes[real], scores[real], labels[real])
        return Detections(
            boxes=merged.astype(np.float32),
            scores=scores[real][index],
            labels=labels[real][index],
            valid=np.ones(len(index), bool),
        )

    def _merge_class(
        self, boxes: Float64[np.ndarray, "n 4"]
    ) -> tuple[Float64[np.ndarray, "n 4"], np.ndarray]:
        """What becomes of the boxes of one class, best first, and whether each is kept."""
        order = np.argsort(boxes[:, 0], kind="stable")  # by the left side
        columns = np.ascontiguousarray(boxes[order].T)
        x0, _, x1, _ = columns
        position = np.argsort(order)
        # Those that reach into the columns of pixels of a box lie from `first` to `last`.
        first = np.searchsorted(np.maximum.accumulate(x1), x0, "right")
        last = np.searchsorted(x0, x1, "left")
        alive = np.ones(len(boxes), bool)
        merged = boxes.copy()
        kept = np.zeros(len(boxes), bool)
        for rank, here in enumerate(position):
            if not alive[here]:
                continue
            kept[rank], alive[here] = True, False
            near = slice(first[here], last[here])
            overlap = self._overlaps(boxes[rank], columns[:, near])
            matches = first[here] + np.flatnonzero(alive[near] & (overlap >= self.threshold))
            alive[matches] = False
            if self.method == "greedy_nmm":
                merged[rank] = self._grown(boxes[rank], boxes[np.sort(order[matches])])
        return merged, kept

    def _grown(
        self, box: Float64[np.ndarray, " 4"], others: Float64[np.ndarray, "n 4"]
    ) -> Float64[np.ndarray, " 4"]:
        """The box around `box` and those of `others` that match it as it grows."""
        for other in others:
            if self._overlaps(box, other[:, None])[0] >= self.threshold:
                corners = np.minimum(box[:2], other[:2]), np.maximum(box[2:], other[2:])
                box = np.concatenate(corners)
        return box

    def _overlaps(
        self, box: Float64[np.ndarray, " 4"], others: Float64[np.ndarray, "4 n"]
    ) -> Float64[np.ndarray, " n"]:
        """Overlap of a box with others, which come as columns; 0 where either has no area."""
        x0, y0, x1, y1 = others
        width = np.minimum(x1, box[2]) - np.maximum(x0, box[0])
        height = np.minimum(y1, box[3]) - np.maximum(y0, box[1])
        intersection = np.maximum(width, 0) * np.maximum(height, 0)
        area, areas = (box[2] - box[0]) * (box[3] - box[1]), (x1 - x0) * (y1 - y0)
        union, smaller = area + areas - intersection, np.minimum(area, areas)
        divisor = union if self.metric == "iou" else smaller
        zeros = np.zeros_like(intersection)
        return np.divide(intersection, divisor, out=zeros, where=intersection > 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tiles:
    """How an image is looked at by tiles.

    Attributes:
      grid: how it is cut.
      merge: how what is found becomes the boxes of the image.
      whole: whether the whole image is looked at as well.
    """

    grid: TileGrid
    merge: BoxMerge = dataclasses.field(default_factory=BoxMerge)
    whole: bool = True
