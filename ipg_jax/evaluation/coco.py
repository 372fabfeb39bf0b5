"""COCO's box metrics through pycocotools, which defines them."""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from ipg_jax.evaluation.ground_truth import (
    GroundTruth,
    IndexedResults,
    Result,
    index_results,
)

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
    flag is a crowd region: any number of detections inside it count neither for nor against.

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
    crowded = _crowded_images(ground_truth, limits[-1])
    if crowded:
        logger.warning(
            "COCO's AP counts the best %d detections of an image and class, and %d image(s) have "
            "more objects of a class: none can reach an AP of 1",
            limits[-1],
            crowded,
        )
    found = index_results(ground_truth, results)
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools reports progress by print
        evaluator = COCOeval(*_as_coco(ground_truth, found), iouType="bbox")
        evaluator.params.maxDets = limits
        evaluator.params.areaRng = [[0.0, 1e10], *map(list, area_ranges.values())]
        evaluator.params.areaRngLbl = ["all", *area_ranges]
        evaluator.evaluate()
        evaluator.accumulate()

    # Precision is [iou, recall, class, size, limit], recall [iou, class, size, limit]; -1 stands
    # where there is no object.
    precision = evaluator.eval["precision"][..., -1]
    recall = evaluator.eval["recall"]
    thresholds = evaluator.params.iouThrs
    iou50, iou75 = (int(np.argmin(abs(thresholds - t))) for t in (0.5, 0.75))

    def average_precision(classes: slice) -> dict[str, float | None]:
        return {
            "AP": _mean(precision[:, :, classes, 0]),
            "AP50": _mean(precision[iou50, :, classes, 0]),
            "AP75": _mean(precision[iou75, :, classes, 0]),
        } | {
            f"AP_{size}": _mean(precision[:, :, classes, i])
            for i, size in enumerate(area_ranges, start=1)
        }

    objects = np.bincount(
        ground_truth.records.labels[~ground_truth.records.ignore],
        minlength=len(ground_truth.class_names),
    )
    metrics: dict[str, Any] = average_precision(slice(None))
    metrics |= {f"AR{limit}": _mean(recall[:, :, 0, m]) for m, limit in enumerate(limits)}
    metrics |= {
        f"AR_{size}": _mean(recall[:, :, i, -1]) for i, size in enumerate(area_ranges, start=1)
    }
    metrics["per_class"] = {
        name: {
            "objects": int(objects[k]),
            **average_precision(slice(k, k + 1)),
            f"AR{limits[-1]}": _mean(recall[:, k, 0, -1]),
        }
        for k, name in enumerate(ground_truth.class_names)
    }
    return metrics


def _crowded_images(ground_truth: GroundTruth, limit: int) -> int:
    """Number of images with more than `limit` objects of one class, those of `ignore` left out."""
    records, classes = ground_truth.records, len(ground_truth.class_names)
    image = np.repeat(np.arange(len(records.image_ids)), np.diff(records.offsets))
    counted = ~records.ignore
    pairs, counts = np.unique(
        image[counted] * classes + records.labels[counted], return_counts=True
    )
    return len(np.unique(pairs[counts > limit] // classes))


def _mean(values: np.ndarray) -> float | None:
    """Mean of the entries that are defined; None if there is none."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _as_coco(ground_truth: GroundTruth, found: IndexedResults) -> tuple[COCO, COCO]:
    """Ground truth and results as pycocotools holds them, with ids of our own.

    pycocotools wants integers for images, and ties between equal scores fall by their order. The
    rank of an image among the data set's sorted ids is such an integer, and gives the same order
    as the data set's own ids do. Annotation ids start at 1, since 0 means "no match" to it.
    """
    records = ground_truth.records
    names = records.image_ids
    rank = np.empty(len(names), np.int64)
    # A data set may have ids of both types, which Python does not order: numbers come first.
    in_order = sorted(range(len(names)), key=lambda i: (isinstance(names[i], str), names[i]))
    rank[in_order] = np.arange(len(names))

    boxes = np.asarray(records.boxes, np.float64)
    truth = _annotations(
        rank[np.repeat(np.arange(len(names)), np.diff(records.offsets))],
        records.labels,
        np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1),
        records.area,
        iscrowd=records.ignore.astype(np.int64),
    )
    detections = _annotations(
        rank[found.image],
        found.label,
        found.xywh,
        found.xywh[:, 2] * found.xywh[:, 3],
        iscrowd=np.zeros(len(found.label), np.int64),
        score=found.score,
    )
    images = [{"id": i} for i in range(len(names))]
    categories = [{"id": i} for i in range(len(ground_truth.class_names))]
    pair = COCO(), COCO()
    for coco, rows in zip(pair, (truth, detections), strict=True):
        coco.dataset = {"images": images, "categories": categories, "annotations": rows}
        coco.createIndex()
    return pair


def _annotations(
    image: np.ndarray, label: np.ndarray, bbox: np.ndarray, area: np.ndarray, **more: np.ndarray
) -> list[dict[str, Any]]:
    columns = {"image_id": image, "category_id": label, "bbox": bbox, "area": area, **more}
    rows = zip(*(column.tolist() for column in columns.values()), strict=True)
    return [
        {"id": i, **dict(zip(columns, row, strict=True))} for i, row in enumerate(rows, start=1)
    ]
