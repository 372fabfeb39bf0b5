"""What evaluation needs to know of a data set, and how results refer to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import numpy as np

from ipg_jax.types import ImageId

Result: TypeAlias = Mapping[str, Any]
"""One detection in the COCO results format: `image_id`, `category_id`, `bbox` (x, y, width,
height in original pixels) and `score`."""


@runtime_checkable
class Annotations(Protocol):
    """Ground truth of `n` images and their `t` objects, as a struct of arrays.

    The objects of image `i` are the rows `offsets[i]:offsets[i + 1]`.
    """

    @property
    def image_ids(self) -> Sequence[ImageId]:
        """The data set's own name of each of the `n` images."""

    @property
    def sizes(self) -> np.ndarray:
        """int32 `[n, 2]`, height and width of the original images."""

    @property
    def offsets(self) -> np.ndarray:
        """int64 `[n + 1]`, first row of each image's objects, and `t` at the end."""

    @property
    def boxes(self) -> np.ndarray:
        """float32 `[t, 4]`, `xyxy`, half-open, in pixels of the original image."""

    @property
    def labels(self) -> np.ndarray:
        """int32 `[t]`, 0-based class indices; the number of classes for a region of no class."""

    @property
    def ignore(self) -> np.ndarray:
        """Boolean `[t]`, True for crowd (COCO) and "difficult" (VOC) objects, and for regions."""

    @property
    def area(self) -> np.ndarray:
        """float32 `[t]`, area of each object in square pixels, which decides its size class."""


@runtime_checkable
class GroundTruth(Protocol):
    """A labelled data set; every source of `ipg_jax.data` is one."""

    @property
    def class_names(self) -> Sequence[str]:
        """Name of each label."""

    @property
    def category_ids(self) -> Sequence[int | str]:
        """The data set's own id of each label, as results refer to it."""

    @property
    def records(self) -> Annotations:
        """The annotations of all images."""


class IndexedObjects(NamedTuple):
    """Annotations as arrays with a row for each object.

    Attributes:
      image: int64 `[t]`, index of the image.
      label: int64 `[t]`, index of the class.
      boxes: float64 `[t, 4]`, `xyxy` in original pixels.
      ignore: bool `[t]`.
      area: float64 `[t]`, square pixels.
    """

    image: np.ndarray
    label: np.ndarray
    boxes: np.ndarray
    ignore: np.ndarray
    area: np.ndarray

    def of(self, rows: np.ndarray) -> IndexedObjects:
        """Returns some of the objects, by a mask or by indices."""
        return IndexedObjects(*(column[rows] for column in self))


def index_objects(ground_truth: GroundTruth) -> tuple[IndexedObjects, IndexedObjects]:
    """Returns the objects of classes, and beside them the regions to ignore, of no class."""
    records = ground_truth.records
    rows = IndexedObjects(
        image=np.repeat(np.arange(len(records.image_ids)), np.diff(records.offsets)),
        label=np.asarray(records.labels, np.int64),
        boxes=np.asarray(records.boxes, np.float64),
        ignore=np.asarray(records.ignore, bool),
        area=np.asarray(records.area, np.float64),
    )
    is_region = rows.label == len(ground_truth.class_names)
    return rows.of(~is_region), rows.of(is_region)


class IndexedResults(NamedTuple):
    """Results as arrays that refer to images and classes by position.

    Attributes:
      image: int64 `[n]`, index of the image.
      label: int64 `[n]`, index of the class.
      xywh: float64 `[n, 4]`, x, y, width and height in original pixels.
      score: float64 `[n]`.
    """

    image: np.ndarray
    label: np.ndarray
    xywh: np.ndarray
    score: np.ndarray

    @property
    def boxes(self) -> np.ndarray:
        """float64 `[n, 4]`, `xyxy`."""
        return np.concatenate([self.xywh[:, :2], self.xywh[:, :2] + self.xywh[:, 2:]], axis=1)

    def of(self, rows: np.ndarray) -> IndexedResults:
        """Returns some of the results, by a mask or by indices."""
        return IndexedResults(*(column[rows] for column in self))


def index_results(ground_truth: GroundTruth, results: Sequence[Result]) -> IndexedResults:
    """Checks results against a data set and turns them into arrays.

    Raises:
      ValueError: if a result names an image or a category that the data set does not have, or if
        the data set has two images or categories of one id.
    """
    images = _positions(ground_truth.records.image_ids, "image")
    labels = _positions(ground_truth.category_ids, "category")
    for key, known in (("image_id", images), ("category_id", labels)):
        if unknown := {result[key] for result in results} - known.keys():
            shown = ", ".join(sorted(map(repr, unknown))[:5])
            raise ValueError(
                f"{len(unknown)} values of {key} in the results are not in the data set: {shown}"
            )
    return IndexedResults(
        image=np.array([images[r["image_id"]] for r in results], np.int64),
        label=np.array([labels[r["category_id"]] for r in results], np.int64),
        xywh=np.array([r["bbox"] for r in results], np.float64).reshape(-1, 4),
        score=np.array([r["score"] for r in results], np.float64),
    )


def _positions(ids: Sequence[ImageId], what: str) -> dict[ImageId, int]:
    positions: dict[ImageId, int] = {}
    for i, name in enumerate(ids):
        if positions.setdefault(name, i) != i:
            raise ValueError(f"the data set has {what} id {name!r} more than once")
    return positions
