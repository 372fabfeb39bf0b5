"""Regions to ignore that belong to no class, such as VisDrone's "ignored regions".

Nobody annotated what is inside, so a detection there may be right: where no object claims it, it
counts neither for nor against, whatever its class. A crowd is something else. It has a class, and
each benchmark has a rule of its own for it.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ipg_jax.evaluation.ground_truth import IndexedObjects, IndexedResults

LEAST_SHARE = 0.5
"""A detection is in a region if the regions of its image cover more than this share of its area."""


def in_regions(found: IndexedResults, regions: IndexedObjects) -> Bool[np.ndarray, " n"]:
    """Returns which detections are in regions to ignore.

    Args:
      found: the detections.
      regions: of all images.
    """
    inside = np.zeros(len(found.score), bool)
    boxes = found.boxes
    for rows, of_image in by_image(found.image, regions.image):
        area = np.prod(found.xywh[rows, 2:], axis=1)
        covered = covered_area(boxes[rows], regions.boxes[of_image])
        inside[rows] = covered > LEAST_SHARE * area
    return inside


def by_image(
    image: Int64[np.ndarray, " n"], region_image: Int64[np.ndarray, " r"]
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yields the rows and the regions of each image that has both, as indices.

    Args:
      image: of each row.
      region_image: of each region.
    """
    order, regions = np.argsort(image, kind="stable"), np.argsort(region_image, kind="stable")
    image, region_image = image[order], region_image[regions]
    for number in np.intersect1d(image, region_image):
        first, last = np.searchsorted(image, [number, number + 1])
        start, end = np.searchsorted(region_image, [number, number + 1])
        yield order[first:last], regions[start:end]


def covered_area(
    boxes: Float64[np.ndarray, "n 4"], regions: Float64[np.ndarray, "r 4"]
) -> Float64[np.ndarray, " n"]:
    """Area of each box that the union of regions covers, in square pixels.

    Args:
      boxes: `xyxy`.
      regions: `xyxy`; where they overlap, they count once.
    """
    # The edges of the regions cut the plane into cells, each of which is covered or not.
    x, y = np.unique(regions[:, [0, 2]]), np.unique(regions[:, [1, 3]])
    columns = (regions[:, [0]] <= x[:-1]) & (regions[:, [2]] >= x[1:])
    rows = (regions[:, [1]] <= y[:-1]) & (regions[:, [3]] >= y[1:])
    # A product of float32 is many times faster than one of booleans, and counts exactly.
    covered = (rows.T.astype(np.float32) @ columns.astype(np.float32) > 0).astype(float)

    def overlap(low: np.ndarray, high: np.ndarray, edges: np.ndarray) -> np.ndarray:
        sides = np.minimum(high[:, None], edges[1:]) - np.maximum(low[:, None], edges[:-1])
        return np.maximum(sides, 0.0)

    x0, y0, x1, y1 = boxes.T
    return ((overlap(y0, y1, y) @ covered) * overlap(x0, x1, x)).sum(axis=1)
