"""COCO's box metrics, to the bit those of pycocotools, which defines them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ipg_jax.evaluation.ground_truth import (
    GroundTruth,
    IndexedObjects,
    Result,
    index_objects,
    index_results,
)
from ipg_jax.evaluation.matching import IOU_THRESHOLDS, RECALLS, match_classes
from ipg_jax.evaluation.regions import in_regions
from ipg_jax.types import ImageId

logger = logging.getLogger(__name__)

COCO_AREA_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {"small": (0.0, 32.0**2), "medium": (32.0**2, 96.0**2), "large": (96.0**2, 1e10)}
)
"""COCO's size classes, square pixels of the original image; both ends belong to the class."""


def evaluate_coco(
    ground_truth: GroundTruth,
    results: Sequence[Result],
    *,
    max_detections: Sequence[int] = (1, 10, 100),
    area_ranges: Mapping[str, tuple[float, float]] = COCO_AREA_RANGES,
) -> dict[str, Any]:
    """Average precision and recall as the COCO benchmark defines them.

    Every image of the data set counts, whether it has results or not. An object of the `ignore`
    flag is a crowd region: any number of detections of its class inside it count neither for nor
    against. In a region of no class (`regions.in_regions`) that holds for all classes.

    Args:
      ground_truth: the data set.
      results: detections in the COCO results format with the data set's own ids.
      max_detections: limits on the detections of one image and class, ascending; each has its
        AR, and AP and the metrics by size use the last.
      area_ranges: smallest and largest area of each size class, in square original pixels.

    Returns:
      `AP` (mean over IoU 0.50:0.05:0.95), `AP50`, `AP75`, `AP_<size>`, `AR<limit>`, `AR_<size>`
      and `per_class`, which maps each class name to its `objects` (crowds left out), `AP`,
      `AP50`, `AP75`, `AP_<size>` and `AR<last limit>`. All are in [0, 1]. A figure about which
      the data set says nothing, as the AP of a size without objects, is None: JSON's `null`,
      which no mean or plot takes for a number.

    Raises:
      ValueError: if `max_detections` does not ascend, or a result names an image or category
        that the data set does not have.
    """
    limits = list(max_detections)
    if not limits or any(a >= b for a, b in zip([0, *limits], limits, strict=False)):
        raise ValueError(f"max_detections must be positive and ascend, got {limits}")
    objects, regions = index_objects(ground_truth)
    num_classes = len(ground_truth.class_names)
    counted = objects.of(~objects.ignore)
    if crowded := _crowded_images(counted, num_classes, limits[-1]):
        logger.warning(
            "COCO's AP counts the best %d detections of an image and class, and %d image(s) have "
            "more objects of a class: none can reach an AP of 1",
            limits[-1],
            crowded,
        )
    found = index_results(ground_truth, results)
    ranges = [(0.0, 1e10), *area_ranges.values()]
    precision = np.full((len(IOU_THRESHOLDS), len(RECALLS), num_classes, len(ranges)), -1.0)
    recall = np.full((len(IOU_THRESHOLDS), num_classes, len(ranges), len(limits)), -1.0)
    matches = match_classes(
        objects,
        found,
        num_classes=num_classes,
        image_order=image_order(ground_truth.records.image_ids),
        forgiven=in_regions(found, regions),
        limit=limits[-1],
        area_ranges=ranges,
    )
    for k, of_class in enumerate(matches):
        for a in np.flatnonzero(of_class.objects):
            hits, misses = of_class.true_positive[:, a], of_class.false_positive[:, a]
            for m, limit in enumerate(limits):
                within = of_class.position < limit
                recall[:, k, a, m] = hits[:, within].sum(axis=1) / of_class.objects[a]
            for t in range(len(IOU_THRESHOLDS)):
                precision[t, :, k, a] = precision_at_recalls(
                    hits[t], misses[t], int(of_class.objects[a])
                )

    # Precision is [iou, recall, class, size], recall [iou, class, size, limit]; -1 stands where
    # there is no object.
    iou50, iou75 = (int(np.argmin(abs(IOU_THRESHOLDS - t))) for t in (0.5, 0.75))

    def average_precision(classes: slice) -> dict[str, float | None]:
        return {
            "AP": _mean(precision[:, :, classes, 0]),
            "AP50": _mean(precision[iou50, :, classes, 0]),
            "AP75": _mean(precision[iou75, :, classes, 0]),
        } | {
            f"AP_{size}": _mean(precision[:, :, classes, i])
            for i, size in enumerate(area_ranges, start=1)
        }

    objects_of = np.bincount(counted.label, minlength=num_classes)
    metrics: dict[str, Any] = average_precision(slice(None))
    metrics |= {f"AR{limit}": _mean(recall[:, :, 0, m]) for m, limit in enumerate(limits)}
    metrics |= {
        f"AR_{size}": _mean(recall[:, :, i, -1]) for i, size in enumerate(area_ranges, start=1)
    }
    metrics["per_class"] = {
        name: {
            "objects": int(objects_of[k]),
            **average_precision(slice(k, k + 1)),
            f"AR{limits[-1]}": _mean(recall[:, k, 0, -1]),
        }
        for k, name in enumerate(ground_truth.class_names)
    }
    return metrics


def _crowded_images(objects: IndexedObjects, num_classes: int, limit: int) -> int:
    """Number of images with more than `limit` objects of one class."""
    pairs, counts = np.unique(objects.image * num_classes + objects.label, return_counts=True)
    return len(np.unique(pairs[counts > limit] // num_classes))


def image_order(image_ids: Sequence[ImageId]) -> Int64[np.ndarray, " i"]:
    """The rank of each image among the data set's sorted ids, by which pycocotools breaks ties."""
    order = np.empty(len(image_ids), np.int64)
    # A data set may have ids of both types, which Python does not order: numbers come first.
    ids = sorted(range(len(image_ids)), key=lambda i: (isinstance(image_ids[i], str), image_ids[i]))
    order[ids] = np.arange(len(image_ids))
    return order


def precision_at_recalls(
    hits: Bool[np.ndarray, " n"], misses: Bool[np.ndarray, " n"], objects: int
) -> Float64[np.ndarray, " r"]:
    """COCO's precision at each of `RECALLS`: the best at this recall or a higher one, else 0.

    Args:
      hits: which detections are true positives, best first.
      misses: which of them are false positives.
      objects: how many there are to find.
    """
    tp, fp = np.cumsum(hits, dtype=np.float64), np.cumsum(misses, dtype=np.float64)
    precision = np.append(tp / (fp + tp + np.spacing(1)), 0.0)  # the 0 is of recalls not reached
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    return precision[np.searchsorted(tp / objects, RECALLS, side="left")]


def _mean(values: np.ndarray) -> float | None:
    """Mean of the entries that are defined; None if there is none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
