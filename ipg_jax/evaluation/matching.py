"""COCO's matching of detections with objects, for all thresholds and size classes in one pass.

The definition is `COCOeval.evaluateImg` of pycocotools, which loops over thresholds, detections and
objects in Python and takes minutes for an image of 2,500 detections. Its IoU is used here, too, so
that the results are the same to the bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int64
from pycocotools import mask
from pycocotools.cocoeval import Params

from ipg_jax.evaluation.ground_truth import IndexedObjects, IndexedResults

_COCO = Params(iouType="bbox")
IOU_THRESHOLDS: np.ndarray = _COCO.iouThrs
"""COCO's: 0.50, 0.55, ..., 0.95."""

RECALLS: np.ndarray = _COCO.recThrs
"""Where COCO takes the precision: 0, 0.01, ..., 1."""


class ClassMatches(NamedTuple):
    """The detections of one class, best first, and what became of them.

    `t` are the IoU thresholds and `a` the ranges of area.

    Attributes:
      rows: int64 `[n]`, indices of the detections.
      position: int64 `[n]`, of each among the detections of its image and class, best first.
      true_positive: bool `[t, a, n]`.
      false_positive: bool `[t, a, n]`; what is neither counts for nothing.
      objects: int64 `[a]`, how many objects there are to find.
    """

    rows: Int64[np.ndarray, " n"]
    position: Int64[np.ndarray, " n"]
    true_positive: Bool[np.ndarray, "t a n"]
    false_positive: Bool[np.ndarray, "t a n"]
    objects: Int64[np.ndarray, " a"]


def match_classes(
    objects: IndexedObjects,
    found: IndexedResults,
    *,
    num_classes: int,
    image_order: Int64[np.ndarray, " i"],
    forgiven: Bool[np.ndarray, " n"],
    limit: int,
    area_ranges: Sequence[tuple[float, float]],
) -> Iterator[ClassMatches]:
    """Matches class by class, so that no more than one class is held in memory.

    Detections take their turns best first. Each takes the object of its class that it overlaps
    most and that is still free, if their IoU reaches the threshold, before any object that is
    ignored. Of an object with the flag, a crowd, the overlap is intersection over the detection's
    area, and it is never taken. Objects out of a range of area are ignored in it, and so are
    unmatched detections out of it and those that are `forgiven`.

    Args:
      objects: of classes.
      found: the detections; of equal scores the earlier image, then the earlier row is better.
      num_classes: number of classes.
      image_order: position of each image in the order in which equal scores rank.
      forgiven: detections that are no false positives (`regions.in_regions`).
      limit: how many detections of an image and class take part, the best ones.
      area_ranges: smallest and largest area of each range, in square pixels.
    """
    ranges = np.array(area_ranges, np.float64)
    by_image = np.argsort(image_order[objects.image], kind="stable")
    best_first = np.lexsort((-found.score, image_order[found.image]))
    for label in range(num_classes):
        mine = objects.of(by_image[objects.label[by_image] == label])
        rows = best_first[found.label[best_first] == label]
        image = image_order[found.image[rows]]
        position = np.arange(len(rows)) - np.searchsorted(image, image)
        rows, image, position = (x[position < limit] for x in (rows, image, position))

        outside = _outside(np.prod(found.xywh[rows, 2:], axis=1), ranges)
        ignored = mine.ignore | _outside(mine.area, ranges)
        matched, on_ignored = _match(
            _overlaps(mine, image_order[mine.image], found.xywh[rows], image),
            ignored,
            mine.ignore,
            len(rows),
        )
        unmatched_counts = ~outside & ~forgiven[rows]
        order = np.argsort(-found.score[rows], kind="stable")
        yield ClassMatches(
            rows=rows[order],
            position=position[order],
            true_positive=(matched & ~on_ignored)[:, :, order],
            false_positive=(~matched & unmatched_counts)[:, :, order],
            objects=(~ignored).sum(axis=1),
        )


def _outside(area: np.ndarray, ranges: np.ndarray) -> Bool[np.ndarray, "a n"]:
    return (area < ranges[:, :1]) | (area > ranges[:, 1:])


class _Overlaps(NamedTuple):
    """Pairs of a detection and an object that may match, ordered by both.

    Attributes:
      detection: int64 `[p]`.
      object: int64 `[p]`.
      iou: float64 `[p]`.
      turn: int64 `[n]`, of each detection, how many of its image's better ones have pairs.
    """

    detection: np.ndarray
    object: np.ndarray
    iou: np.ndarray
    turn: np.ndarray


def _overlaps(
    objects: IndexedObjects,
    object_image: np.ndarray,
    xywh: np.ndarray,
    image: np.ndarray,
) -> _Overlaps:
    """Finds the pairs; images ascend in both `object_image` and `image`."""
    sides = objects.boxes[:, 2:] - objects.boxes[:, :2]
    object_xywh = np.concatenate([objects.boxes[:, :2], sides], axis=1)
    pairs: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []
    turn = np.zeros(len(xywh), np.int64)
    for number in np.intersect1d(image, object_image):
        first, last = np.searchsorted(image, [number, number + 1])
        start, end = np.searchsorted(object_image, [number, number + 1])
        iou = mask.iou(xywh[first:last], object_xywh[start:end], objects.ignore[start:end])
        near = iou >= IOU_THRESHOLDS[0]
        detection, other = np.nonzero(near)
        pairs.append((first + detection, start + other, iou[detection, other]))
        paired = near.any(axis=1)
        turn[first:last] = np.cumsum(paired) - paired
    if not pairs:
        return _Overlaps(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), turn)
    detections, others, ious = map(np.concatenate, zip(*pairs, strict=True))
    return _Overlaps(detections, others, ious, turn)


def _match(
    pairs: _Overlaps,
    ignored: Bool[np.ndarray, "a g"],
    crowd: Bool[np.ndarray, " g"],
    num_detections: int,
) -> tuple[Bool[np.ndarray, "t a n"], Bool[np.ndarray, "t a n"]]:
    """Returns which detections are matched, and which of them with an ignored object."""
    shape = len(IOU_THRESHOLDS), len(ignored)
    matched = np.zeros((*shape, num_detections), bool)
    on_ignored = np.zeros_like(matched)
    taken = np.zeros((*shape, len(crowd)), bool)
    enough = pairs.iou >= IOU_THRESHOLDS[:, None]
    # An ignored object is the last choice. IoUs are from 1/2 to 1, of which 1 less is exact.
    value = pairs.iou - ignored[:, pairs.object]

    detections, start, count = np.unique(pairs.detection, return_index=True, return_counts=True)
    by_turn = np.argsort(pairs.turn[detections], kind="stable")
    turns = np.cumsum(np.bincount(pairs.turn[detections]))
    # The detections of one turn are of different images, so they do not compete.
    for those in np.split(by_turn, turns[:-1]) if len(turns) else ():
        best = np.full((*shape, len(those)), -1.0)
        choice = np.zeros((*shape, len(those)), np.int64)
        for k in range(int(count[those].max())):
            more = np.flatnonzero(count[those] > k)
            pair = start[those[more]] + k
            other = pairs.object[pair]
            free = enough[:, None, pair] & (crowd[other] | ~taken[:, :, other])
            better = free & (value[:, pair] >= best[:, :, more])  # the last of equals
            best[:, :, more] = np.where(better, value[:, pair], best[:, :, more])
            choice[:, :, more] = np.where(better, other, choice[:, :, more])
        t, a, i = np.nonzero(best > -1.0)
        taken[t, a, choice[t, a, i]] = True
        matched[t, a, detections[those[i]]] = True
        on_ignored[t, a, detections[those[i]]] = best[t, a, i] < 0.25
    return matched, on_ignored
