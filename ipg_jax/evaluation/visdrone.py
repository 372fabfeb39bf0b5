"""VisDrone's metrics for detection in images, as the challenge's toolkit computes them.

Zhu et al., "Vision Meets Drones: A Challenge", 2018; the definition is the Matlab code of
https://github.com/VisDrone/VisDrone2018-DET-toolkit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from ipg_jax.evaluation.ground_truth import (
    GroundTruth,
    IndexedObjects,
    IndexedResults,
    Result,
    index_objects,
    index_results,
)
from ipg_jax.evaluation.matching import IOU_THRESHOLDS, match_classes
from ipg_jax.evaluation.regions import by_image, covered_area
from ipg_jax.evaluation.voc import average_precision


def evaluate_visdrone(
    ground_truth: GroundTruth,
    results: Sequence[Result],
    *,
    max_detections: Sequence[int] = (1, 10, 100, 500),
) -> dict[str, Any]:
    """Average precision and recall of the VisDrone-DET challenge.

    Objects and detections that lie in the image's ignored regions (those of no class, `labels` of
    `num_classes`) by half or more are dropped first. The best detections of an image, over all
    classes, then match as COCO's do. AP is the area under the interpolated precision-recall curve,
    as VOC's since 2010. An object with the `ignore` flag, VisDrone's score 0, is not asked for, and
    any number of detections inside it count for nothing. (So says the toolkit's text; its code
    counts such an object as one that was not found.)

    As in the toolkit, a class has the weight of the images that show it in all means over classes:
    one that is in nine images of ten counts nine times as much as one that is in one.

    Args:
      ground_truth: the data set.
      results: detections in the COCO results format with the data set's own ids. Equal scores
        rank in the order of the sequence.
      max_detections: limits on the detections of one image over all classes, ascending; each has
        its AR, and AP uses the last.

    Returns:
      `AP` (mean over IoU 0.50:0.05:0.95), `AP50`, `AP75`, `AR<limit>`, and `per_class`, which maps
      each class name to its `objects`, `AP`, `AP50`, `AP75` and `AR<last limit>`. All are in
      [0, 1]; None where there is no object.

    Raises:
      ValueError: if `max_detections` does not ascend, or a result names an image or category
        that the data set does not have.
    """
    limits = list(max_detections)
    if not limits or any(a >= b for a, b in zip([0, *limits], limits, strict=False)):
        raise ValueError(f"max_detections must be positive and ascend, got {limits}")
    sizes = ground_truth.records.sizes
    objects, regions = index_objects(ground_truth)
    found = index_results(ground_truth, results)
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    object_xywh = np.concatenate([objects.boxes[:, :2], sides], axis=1)
    objects = objects.of(~_dropped(object_xywh, objects.image, regions, sizes))
    found = found.of(~_dropped(found.xywh, found.image, regions, sizes))
    position = _positions(found)
    found, position = found.of(position < limits[-1]), position[position < limits[-1]]

    num_classes = len(ground_truth.class_names)
    precision = np.full((len(IOU_THRESHOLDS), num_classes), np.nan)
    recall = np.full((len(IOU_THRESHOLDS), num_classes, len(limits)), np.nan)
    weight = np.zeros(num_classes)
    counted = objects.of(~objects.ignore)
    for k, of_class in enumerate(
        match_classes(
            objects,
            found,
            num_classes=num_classes,
            image_order=np.arange(len(sizes)),
            forgiven=np.zeros(len(position), bool),
            limit=limits[-1],
            area_ranges=[(-np.inf, np.inf)],
        )
    ):
        total = int(of_class.objects[0])
        weight[k] = len(np.unique(counted.image[counted.label == k]))
        if total == 0:
            continue
        hits, misses = of_class.true_positive[:, 0], of_class.false_positive[:, 0]
        for t in range(len(IOU_THRESHOLDS)):
            precision[t, k] = average_precision(hits[t][hits[t] | misses[t]], total)["AP"]
        for m, limit in enumerate(limits):
            recall[:, k, m] = hits[:, position[of_class.rows] < limit].sum(axis=1) / total

    def mean(values: Float64[np.ndarray, "*t k"]) -> float | None:
        """Mean over thresholds, and over classes by their images."""
        shown = weight > 0
        per_class = values.reshape(-1, num_classes).mean(axis=0)[shown]
        return float(np.average(per_class, weights=weight[shown])) if shown.any() else None

    iou50, iou75 = (int(np.argmin(abs(IOU_THRESHOLDS - t))) for t in (0.5, 0.75))
    metrics: dict[str, Any] = {
        "AP": mean(precision),
        "AP50": mean(precision[iou50]),
        "AP75": mean(precision[iou75]),
    }
    metrics |= {f"AR{limit}": mean(recall[:, :, m]) for m, limit in enumerate(limits)}
    objects_of = np.bincount(counted.label, minlength=num_classes)
    metrics["per_class"] = {
        name: {
            "objects": int(objects_of[k]),
            "AP": _defined(precision[:, k].mean()),
            "AP50": _defined(precision[iou50, k]),
            "AP75": _defined(precision[iou75, k]),
            f"AR{limits[-1]}": _defined(recall[:, k, -1].mean()),
        }
        for k, name in enumerate(ground_truth.class_names)
    }
    return metrics


def _defined(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _positions(found: IndexedResults) -> np.ndarray:
    """The position of each detection among those of its image, best first."""
    order = np.lexsort((-found.score, found.image))
    image = found.image[order]
    position = np.empty(len(order), np.int64)
    position[order] = np.arange(len(order)) - np.searchsorted(image, image)
    return position


def _dropped(
    xywh: Float64[np.ndarray, "n 4"],
    image: np.ndarray,
    regions: IndexedObjects,
    sizes: np.ndarray,
) -> Bool[np.ndarray, " n"]:
    """Which boxes lie in their image's ignored regions by half or more.

    The toolkit counts pixels from 1: `x` of a region and the `width` pixels behind it belong to the
    region, those behind `x` of a box to the box, and numbers are rounded to whole pixels.
    """
    dropped = np.zeros(len(xywh), bool)
    for rows, of_image in by_image(image, regions.image):
        last = sizes[image[rows[0]], ::-1].astype(np.float64)  # width and height
        corner, size = np.split(np.maximum(1.0, np.floor(xywh[rows] + 0.5)), 2, axis=1)
        corner = np.minimum(corner, last)
        boxes = np.concatenate([corner, np.minimum(corner + size, last)], axis=1)
        first, end = np.split(regions.boxes[of_image], 2, axis=1)
        first, extent = np.maximum(1.0, first), np.maximum(1.0, end - first)
        areas = np.concatenate([first - 1, np.minimum(first + extent, last)], axis=1)
        dropped[rows] = covered_area(boxes, areas) >= 0.5 * np.prod(size, axis=1)
    return dropped
