"""What became of every detection and object of an evaluation.

Matching is COCO's at an IoU of 0.5 (`evaluation.matching`). The kinds of errors are those of TIDE
(Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV 2020, arXiv
2008.08115) with its thresholds t_f = 0.5 and t_b = 0.1.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64

from ipg_jax.analysis.matching import FOREGROUND_IOU, coco_iou, greedy_match
from ipg_jax.evaluation import GroundTruth
from ipg_jax.evaluation.coco import image_order
from ipg_jax.evaluation.ground_truth import (
    IndexedObjects,
    IndexedResults,
    Result,
    index_objects,
    index_results,
)
from ipg_jax.evaluation.regions import by_image, in_regions

BACKGROUND_IOU = 0.1
"""IoU up to which a detection has nothing to do with an object, TIDE's t_b."""


class Outcome(enum.IntEnum):
    """What a detection is; every false positive has one kind of error.

    The first that holds, of the object of the detection's own class that it overlaps most, and of
    the object of another class:

    - LOCALISATION: overlaps one of its class by 0.1 to 0.5;
    - CLASSIFICATION: overlaps one of another class by 0.5 or more;
    - DUPLICATE: overlaps one of its class by 0.5 or more that a better detection found;
    - BACKGROUND: overlaps nothing by more than 0.1;
    - BOTH: what is left, of another class and not well placed.
    """

    TRUE_POSITIVE = 0
    CLASSIFICATION = 1
    LOCALISATION = 2
    BOTH = 3
    DUPLICATE = 4
    BACKGROUND = 5
    IGNORED = 6


ERRORS = tuple(kind for kind in Outcome if Outcome.TRUE_POSITIVE < kind < Outcome.IGNORED)
"""The kinds of false positives."""


class Judged(NamedTuple):
    """An evaluation, detection by detection and object by object.

    Attributes:
      class_names: of the labels.
      found: `n` detections, best first; equal scores rank as in the evaluation.
      outcome: int64 `[n]`, an `Outcome` each.
      partner: int64 `[n]`, the object that a detection found, or that its error is about; -1 for
        none.
      objects: `g` objects to find; crowds and others that are ignored are left out.
      finder: int64 `[g]`, the detection that found the object; -1 for none.
    """

    class_names: Sequence[str]
    found: IndexedResults
    outcome: Int64[np.ndarray, " n"]
    partner: Int64[np.ndarray, " n"]
    objects: IndexedObjects
    finder: Int64[np.ndarray, " g"]

    @property
    def found_side(self) -> Float64[np.ndarray, " n"]:
        """The size of each detection, the square root of its area, in original pixels."""
        return np.sqrt(np.prod(self.found.xywh[:, 2:], axis=1))

    @property
    def object_side(self) -> Float64[np.ndarray, " g"]:
        """The same of each object's box."""
        boxes = self.objects.boxes
        return np.sqrt(np.prod(boxes[:, 2:] - boxes[:, :2], axis=1))

    def kept(self, thresholds: Float64[np.ndarray, " c"]) -> Bool[np.ndarray, " n"]:
        """Returns which detections reach the threshold of their class and are not ignored."""
        return (self.found.score >= thresholds[self.found.label]) & (
            self.outcome != Outcome.IGNORED
        )

    def missed(self, thresholds: Float64[np.ndarray, " c"]) -> Bool[np.ndarray, " g"]:
        """Returns which objects no detection found that reaches the threshold of its class."""
        score = np.append(self.found.score, -np.inf)[self.finder]
        return score < thresholds[self.objects.label]


def judge(ground_truth: GroundTruth, results: Sequence[Result]) -> Judged:
    """Returns what became of the detections and objects of an evaluation.

    A detection that finds nothing is ignored if it is in regions of no class
    (`evaluation.regions`), or if half of it is in a crowd of its class.

    Args:
      ground_truth: the data set.
      results: detections in the COCO results format with the data set's own ids; all take part.

    Raises:
      ValueError: a result names an image or category that the data set does not have.
    """
    every, regions = index_objects(ground_truth)
    objects, crowds = every.of(~every.ignore), every.of(every.ignore)
    found = index_results(ground_truth, results)
    order = image_order(ground_truth.records.image_ids)
    found = found.of(np.lexsort((order[found.image], -found.score)))
    outcome = np.full(len(found.score), int(Outcome.BACKGROUND))
    partner = np.full(len(found.score), -1)
    for rows, those in by_image(found.image, objects.image):
        same = found.label[rows][:, None] == objects.label[those]
        kinds, columns = _outcomes(coco_iou(found.of(rows), objects.of(those)), same)
        outcome[rows] = kinds
        partner[rows] = np.where(columns < 0, -1, those[columns])
    wrong = outcome != Outcome.TRUE_POSITIVE
    ignored = wrong & (in_regions(found, regions) | _in_crowds(found, crowds))
    outcome[ignored], partner[ignored] = Outcome.IGNORED, -1
    finder = np.full(len(objects.label), -1)
    finder[partner[~wrong]] = np.flatnonzero(~wrong)
    return Judged(tuple(ground_truth.class_names), found, outcome, partner, objects, finder)


def _in_crowds(found: IndexedResults, crowds: IndexedObjects) -> Bool[np.ndarray, " n"]:
    inside = np.zeros(len(found.score), bool)
    for rows, those in by_image(found.image, crowds.image):
        same = found.label[rows][:, None] == crowds.label[those]
        share = coco_iou(found.of(rows), crowds.of(those), crowd=True)
        inside[rows] = (same & (share >= FOREGROUND_IOU)).any(axis=1)
    return inside


def _outcomes(
    iou: Float64[np.ndarray, "n g"], same: Bool[np.ndarray, "n g"]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The outcome of each detection of an image, best first, and the object that it is about."""
    own, other = iou * same, iou * ~same
    matched = greedy_match(own)
    used = np.zeros(iou.shape[1], bool)
    used[matched[matched >= 0]] = True
    own_used = own * used
    best = own.max(axis=1)
    conditions = [
        matched >= 0,
        (best >= BACKGROUND_IOU) & (best <= FOREGROUND_IOU),
        other.max(axis=1) >= FOREGROUND_IOU,
        own_used.max(axis=1) >= FOREGROUND_IOU,
        iou.max(axis=1) <= BACKGROUND_IOU,
    ]
    kinds = [
        Outcome.TRUE_POSITIVE,
        Outcome.LOCALISATION,
        Outcome.CLASSIFICATION,
        Outcome.DUPLICATE,
        Outcome.BACKGROUND,
    ]
    columns = [matched, *(x.argmax(axis=1) for x in (own, other, own_used)), np.full(len(iou), -1)]
    return (
        np.select(conditions, [int(kind) for kind in kinds], int(Outcome.BOTH)),
        np.select(conditions, columns, iou.argmax(axis=1)),
    )
