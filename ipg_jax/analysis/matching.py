"""Overlaps of detections with objects, and which of these they take, as COCO has both."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64
from pycocotools import mask

from ipg_jax.evaluation.ground_truth import IndexedObjects, IndexedResults

FOREGROUND_IOU = 0.5
"""IoU from which a detection finds an object, TIDE's t_f."""


def coco_iou(
    found: IndexedResults, objects: IndexedObjects, crowd: bool = False
) -> Float64[np.ndarray, "n g"]:
    """IoU as pycocotools has it; of crowds, intersection over the detection's area."""
    boxes = objects.boxes
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return mask.iou(found.xywh, xywh, np.full(len(xywh), crowd))


def greedy_match(iou: Float64[np.ndarray, "n g"]) -> Int64[np.ndarray, " n"]:
    """The object that each detection of an image takes, best first; -1 for none.

    It takes the one that it overlaps most and that is still free, of equals the last, as COCO.
    """
    taken = np.zeros(iou.shape[1], bool)
    columns = np.full(len(iou), -1)
    for row in np.flatnonzero((iou >= FOREGROUND_IOU).any(axis=1)):
        free = np.where(taken, 0.0, iou[row])
        best = len(free) - 1 - int(np.argmax(free[::-1]))
        if free[best] >= FOREGROUND_IOU:
            taken[best], columns[row] = True, best
    return columns
