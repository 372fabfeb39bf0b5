"""PASCAL VOC's average precision, as its development kit defines it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ipg_jax.evaluation.ground_truth import (
    GroundTruth,
    Result,
    index_objects,
    index_results,
)
from ipg_jax.evaluation.regions import in_regions


def evaluate_voc(
    ground_truth: GroundTruth, results: Sequence[Result], *, iou_threshold: float = 0.5
) -> dict[str, Any]:
    """Mean average precision by both of VOC's rules (Everingham et al., IJCV 2010 and 2015).

    A detection has one candidate: the object of its image and class that it overlaps most. If
    their IoU reaches the threshold, the best-scored detection of the candidate is a true
    positive and the others are false ones; below the threshold a detection is a false positive.
    When the candidate is "difficult" (the `ignore` flag), the detection counts for nothing, and
    difficult objects are not asked for. Neither does a detection count that would be false and is
    in a region to ignore, of no class (`regions.in_regions`); VOC has none.

    VOC's boxes hold first and last pixel, 1-based, and its IoU adds 1 to each difference. Ours
    are half-open, `(xmin - 1, ymin - 1, xmax, ymax)`, whose plain IoU is exactly the same number.

    Args:
      ground_truth: the data set.
      results: detections in the COCO results format with the data set's own ids. Equal scores
        rank in the order of the sequence.
      iou_threshold: least IoU of a match, in (0, 1].

    Returns:
      `mAP`, the area under the interpolated precision-recall curve (VOC 2010 and later), and
      `mAP_11point`, its mean at recalls 0, 0.1, ..., 1 (VOC 2007), means over the classes that
      have an object; and `per_class`, which maps each class name to its `objects` (difficult
      ones left out), `AP`, `AP_11point` and the final `recall`. All are in [0, 1]; None where
      there is no object that counts.

    Raises:
      ValueError: if the threshold is out of range, or a result names an image or category that
        the data set does not have.
    """
    if not 0.0 < iou_threshold <= 1.0:
        raise ValueError(f"iou_threshold must be in (0, 1], got {iou_threshold}")
    objects, regions = index_objects(ground_truth)
    num_classes = len(ground_truth.class_names)
    found = index_results(ground_truth, results)
    found = found.of(np.argsort(-found.score, kind="stable"))

    # Objects and detections meet only within one image and class: one integer names the pair.
    object_group = objects.image * num_classes + objects.label
    by_group = np.argsort(object_group, kind="stable")
    candidate, overlap = _best_overlap(
        found.boxes,
        found.image * num_classes + found.label,
        objects.boxes[by_group],
        object_group[by_group],
    )
    hit = overlap >= iou_threshold
    difficult = np.zeros_like(hit)
    difficult[hit] = objects.ignore[by_group][candidate[hit]]
    # The best-scored detection of each object takes it: rows are in order of score.
    first_of_object = np.unique(candidate[hit & ~difficult], return_index=True)[1]
    true_positive = np.zeros_like(hit)
    true_positive[np.flatnonzero(hit & ~difficult)[first_of_object]] = True
    counts = true_positive | ~(difficult | in_regions(found, regions))

    objects_of = np.bincount(objects.label[~objects.ignore], minlength=num_classes)
    per_class: dict[str, dict[str, Any]] = {}
    for k, name in enumerate(ground_truth.class_names):
        per_class[name] = {"objects": int(objects_of[k])} | average_precision(
            true_positive[(found.label == k) & counts], int(objects_of[k])
        )
    return {
        "mAP": _mean([row["AP"] for row in per_class.values()]),
        "mAP_11point": _mean([row["AP_11point"] for row in per_class.values()]),
        "per_class": per_class,
    }


def _best_overlap(
    boxes: Float64[np.ndarray, "n 4"],
    group: Int64[np.ndarray, " n"],
    objects: Float64[np.ndarray, "t 4"],
    object_group: Int64[np.ndarray, " t"],
) -> tuple[Int64[np.ndarray, " n"], Float64[np.ndarray, " n"]]:
    """The object of its own group that each box overlaps most, the first of equals.

    Args:
      boxes: `xyxy`.
      group: group of each box.
      objects: `xyxy`.
      object_group: group of each object, ascending.

    Returns:
      Index of the object, and the IoU; 0 and 0.0 for a box that overlaps none of its group.
    """
    start = np.searchsorted(object_group, group, side="left")
    count = np.searchsorted(object_group, group, side="right") - start
    candidate, overlap = np.zeros(len(boxes), np.int64), np.zeros(len(boxes))
    # Groups hold a few objects, so the loop is as long as the largest and each step is one
    # operation on all boxes that have a k-th object.
    for k in range(int(count.max(initial=0))):
        rows = np.flatnonzero(count > k)
        other = start[rows] + k
        iou = _iou(boxes[rows], objects[other])
        better = iou > overlap[rows]
        candidate[rows[better]] = other[better]
        overlap[rows[better]] = iou[better]
    return candidate, overlap


def _iou(a: Float64[np.ndarray, "n 4"], b: Float64[np.ndarray, "n 4"]) -> Float64[np.ndarray, " n"]:
    """IoU of the boxes of equal rows; 0 where neither box has an area."""
    sides = np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2])
    intersection = np.prod(np.maximum(sides, 0.0), axis=1)
    union = np.prod(a[:, 2:] - a[:, :2], axis=1) + np.prod(b[:, 2:] - b[:, :2], axis=1)
    union -= intersection
    return np.divide(intersection, union, out=np.zeros_like(union), where=union > 0)


def average_precision(
    true_positive: Bool[np.ndarray, " n"], objects: int
) -> dict[str, float | None]:
    """Both APs and the final recall of one class from its detections, best first."""
    if objects == 0:
        return {"AP": None, "AP_11point": None, "recall": None}
    hits = np.cumsum(true_positive)
    # Interpolated precision: the best that is reached at this recall or a higher one. The
    # appended 0 is the precision at recalls that are never reached.
    precision = np.append(hits / np.arange(1, len(hits) + 1), 0.0)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    # Where the recall reaches j / 10, in integers: 3 of 10 objects reach 0.3, though the float
    # 3 * 0.1 is above 3 / 10.
    at_11_recalls = precision[np.searchsorted(10 * hits, np.arange(11) * objects, side="left")]
    return {
        "AP": float(precision[:-1][true_positive].sum() / objects),
        "AP_11point": float(at_11_recalls.mean()),
        "recall": float(true_positive.sum() / objects),
    }


def _mean(values: list[float | None]) -> float | None:
    defined = [value for value in values if value is not None]
    return float(np.mean(defined)) if defined else None
