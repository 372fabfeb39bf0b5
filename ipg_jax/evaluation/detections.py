"""Collecting detections of a data set, in pixels of its original images."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from etils import epath
from jaxtyping import Float, Float32, Float64, Int, Int32

from ipg_jax.evaluation.ground_truth import GroundTruth, Result
from ipg_jax.files import make_folder, write_whole
from ipg_jax.types import Array, Detections, ImageId

Select: TypeAlias = Callable[[np.ndarray, np.ndarray, np.ndarray, np.ndarray], Detections]
"""What chooses among the boxes of one image: from boxes float32 `[n, 4]`, scores float32 `[n]`
(minus infinity for padding), labels int32 `[n]` and the image's height and width, int32 `[2]`, to
detections without a batch axis."""


def boxes_to_original(
    boxes: Float[np.ndarray, "n 4"],
    scale: Float[np.ndarray, " 2"],
    size: Int[np.ndarray, " 2"],
    *,
    flipped: bool = False,
) -> Float64[np.ndarray, "n 4"]:
    """Maps boxes from the network's input to the original image and clips them to it.

    Args:
      boxes: `xyxy` in pixels of the network input.
      scale: input pixels per original pixel, (y, x).
      size: height and width of the original image.
      flipped: whether the network saw the image mirrored.
    """
    y_scale, x_scale = scale.astype(np.float64)
    height, width = size
    original = boxes / np.array([x_scale, y_scale, x_scale, y_scale])
    if flipped:
        x0, y0, x1, y1 = original.T
        original = np.stack([width - x1, y0, width - x0, y1], axis=1)
    return np.clip(original, 0.0, np.array([width, height, width, height], np.float64))


class _ImageDetections(NamedTuple):
    boxes: np.ndarray  # float64 [k, 4], xyxy in pixels of the original image
    scores: np.ndarray  # float32 [k]
    labels: np.ndarray  # int32 [k]


class DetectionCollector:
    """Gathers the detections of a data set batch by batch.

    A collector holds plain NumPy arrays, so it can be pickled and sent to another host.

    Args:
      ground_truth: the data set that is evaluated.
    """

    def __init__(self, ground_truth: GroundTruth):
        self._image_ids: list[ImageId] = list(ground_truth.records.image_ids)
        self._category_ids: list[int | str] = list(ground_truth.category_ids)
        self._sizes = ground_truth.records.sizes
        self._images: dict[int, _ImageDetections] = {}

    @classmethod
    def from_views(
        cls, ground_truth: GroundTruth, views: Sequence[DetectionCollector], select: Select
    ) -> DetectionCollector:
        """Joins collectors that have seen the same images in different ways.

        This is the end of test-time augmentation and of detection on tiles: the boxes of an image,
        those of the first view first, go through one more suppression or are merged.

        Args:
          ground_truth: the data set that is evaluated.
          views: a collector for each view.
          select: what chooses among the boxes of all views of an image. The arrays that it is
            given have the same shapes for all images.

        Raises:
          ValueError: if a view belongs to another data set.
        """
        merged = cls(ground_truth)
        for view in views:
            merged._check_same_data(view)
        counts = [len(found.scores) for view in views for found in view._images.values()]
        rows = max(1, len(views) * max(counts, default=0))
        for image in sorted(set().union(*(view._images for view in views))):
            found = [view._images[image] for view in views if image in view._images]
            boxes, scores, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
            padding = (0, rows - len(scores))
            best = select(
                np.pad(boxes.astype(np.float32), (padding, (0, 0))),
                np.pad(scores, padding, constant_values=-np.inf),
                np.pad(labels, padding),
                merged._sizes[image],
            )
            keep = np.asarray(best.valid)
            merged._images[image] = _ImageDetections(
                boxes=np.asarray(best.boxes, np.float64)[keep],
                scores=np.asarray(best.scores)[keep],
                labels=np.asarray(best.labels)[keep],
            )
        return merged

    @classmethod
    def from_tiles(
        cls,
        ground_truth: GroundTruth,
        tiles: DetectionCollector,
        image_index: Int32[np.ndarray, " n"],
        windows: Int32[np.ndarray, "n 4"],
    ) -> DetectionCollector:
        """Takes the detections of tiles to the images that these were cut out of, unmerged.

        An image of which a tile is missing is missing. The boxes of an image are in the order of
        its tiles.

        Args:
          ground_truth: the data set of the images.
          tiles: the detections of each of `n` tiles, in pixels of the tile.
          image_index: of each tile, the index of its image.
          windows: its position there, `(x0, y0, x1, y1)` in pixels.
        """
        joined = cls(ground_truth)
        found: dict[int, list[_ImageDetections]] = {}
        missing = set()
        for tile, (image, window) in enumerate(zip(image_index.tolist(), windows, strict=True)):
            if tile not in tiles._images:
                missing.add(image)
                continue
            boxes, scores, labels = tiles._images[tile]
            shifted = boxes + np.tile(window[:2], 2)
            found.setdefault(image, []).append(_ImageDetections(shifted, scores, labels))
        for image in sorted(found.keys() - missing):
            boxes, scores, labels = (
                np.concatenate(parts) for parts in zip(*found[image], strict=True)
            )
            joined._images[image] = _ImageDetections(boxes, scores, labels)
        return joined

    def add(
        self,
        detections: Detections,
        image_id: Int32[Array, " b"],
        scale: Float32[Array, "b 2"],
        weight: Float32[Array, " b"],
        *,
        flipped: bool = False,
    ) -> None:
        """Adds the detections of one batch.

        Args:
          detections: boxes in pixels of the network input.
          image_id: index of each image in the data set, as in the `Batch`.
          scale: input pixels per original pixel, (y, x), as in the `Batch`.
          weight: rows of weight 0 are padding of the batch and are dropped.
          flipped: whether the network saw the images mirrored.

        Raises:
          ValueError: if an image comes a second time, or a box or score is not finite.
        """
        boxes, scores, labels, valid, index, scale, weight = map(
            np.asarray,
            (
                detections.boxes,
                detections.scores,
                detections.labels,
                detections.valid,
                image_id,
                scale,
                weight,
            ),
        )
        added = {}
        for row in np.flatnonzero(weight > 0):
            image, keep = int(index[row]), valid[row]
            if image in self._images or image in added:
                raise ValueError(f"image {self._image_ids[image]!r} was added twice")
            if not (np.isfinite(boxes[row, keep]).all() and np.isfinite(scores[row, keep]).all()):
                raise ValueError(f"image {self._image_ids[image]!r} has detections not finite")
            added[image] = _ImageDetections(
                boxes=boxes_to_original(
                    boxes[row, keep], scale[row], self._sizes[image], flipped=flipped
                ),
                scores=scores[row, keep],
                labels=labels[row, keep],
            )
        self._images |= added

    def merge(self, other: DetectionCollector) -> None:
        """Takes over the images of another collector of the same data set.

        Raises:
          ValueError: if the data sets differ, or both collectors have an image.
        """
        self._check_same_data(other)
        if common := self._images.keys() & other._images.keys():
            names = ", ".join(repr(self._image_ids[i]) for i in sorted(common)[:5])
            raise ValueError(f"{len(common)} images were added twice: {names}")
        self._images |= other._images

    def _check_same_data(self, other: DetectionCollector) -> None:
        if (self._image_ids, self._category_ids) != (other._image_ids, other._category_ids):
            raise ValueError("the collectors belong to different data sets")

    def missing(self) -> list[ImageId]:
        """The data set's own ids of the images that have not been added, in its order."""
        return [name for i, name in enumerate(self._image_ids) if i not in self._images]

    def results(self) -> list[dict[str, Any]]:
        """All detections in the COCO results format, with the data set's own ids.

        They are in the order of the data set's images, whatever the order of adding, and best
        first within an image. Numbers are not rounded.
        """
        results = []
        for i in sorted(self._images):
            boxes, scores, labels = self._images[i]
            xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
            results += [
                {
                    "image_id": self._image_ids[i],
                    "category_id": self._category_ids[label],
                    "bbox": bbox,
                    "score": score,
                }
                for bbox, score, label in zip(
                    xywh.tolist(), scores.tolist(), labels.tolist(), strict=True
                )
            ]
        return results


def save_results(path: epath.PathLike, results: Sequence[Result]) -> None:
    """Writes results as JSON that COCO's own tools read, local or `gs://`, making parent folders.

    Numbers are written so that reading gives back the same floats.
    """
    path = epath.Path(path)
    make_folder(path.parent)
    write_whole(path, json.dumps(list(results), allow_nan=False))


def load_results(path: epath.PathLike) -> list[dict[str, Any]]:
    """Reads a file of COCO results, ours or another tool's."""
    return json.loads(epath.Path(path).read_text())
