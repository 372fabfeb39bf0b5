"""What became of every detection and object of an evaluation, and what each kind of error costs.

Matching is COCO's at an IoU of 0.5 (`evaluation.matching`). The kinds of errors and their costs are
those of TIDE (Bolya et al., "TIDE: A General Toolbox for Identifying Object Detection Errors", ECCV
2020, arXiv 2008.08115) with its thresholds t_f = 0.5 and t_b = 0.1.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int64
from pycocotools import mask

from ipg_jax.evaluation import GroundTruth
from ipg_jax.evaluation.coco import image_order, precision_at_recalls
from ipg_jax.evaluation.ground_truth import (
    IndexedObjects,
    IndexedResults,
    Result,
    index_objects,
    index_results,
)
from ipg_jax.evaluation.regions import by_image, in_regions

FOREGROUND_IOU = 0.5
"""IoU from which a detection finds an object, TIDE's t_f."""

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
        kinds, columns = _outcomes(_iou(found.of(rows), objects.of(those)), same)
        outcome[rows] = kinds
        partner[rows] = np.where(columns < 0, -1, those[columns])
    wrong = outcome != Outcome.TRUE_POSITIVE
    ignored = wrong & (in_regions(found, regions) | _in_crowds(found, crowds))
    outcome[ignored], partner[ignored] = Outcome.IGNORED, -1
    finder = np.full(len(objects.label), -1)
    finder[partner[~wrong]] = np.flatnonzero(~wrong)
    return Judged(tuple(ground_truth.class_names), found, outcome, partner, objects, finder)


def _iou(
    found: IndexedResults, objects: IndexedObjects, crowd: bool = False
) -> Float64[np.ndarray, "n g"]:
    """IoU as pycocotools has it; of crowds, intersection over the detection's area."""
    boxes = objects.boxes
    xywh = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1)
    return mask.iou(found.xywh, xywh, np.full(len(xywh), crowd))


def _in_crowds(found: IndexedResults, crowds: IndexedObjects) -> Bool[np.ndarray, " n"]:
    inside = np.zeros(len(found.score), bool)
    for rows, those in by_image(found.image, crowds.image):
        same = found.label[rows][:, None] == crowds.label[those]
        share = _iou(found.of(rows), crowds.of(those), crowd=True)
        inside[rows] = (same & (share >= FOREGROUND_IOU)).any(axis=1)
    return inside


def _match(iou: Float64[np.ndarray, "n g"]) -> Int64[np.ndarray, " n"]:
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


def _outcomes(
    iou: Float64[np.ndarray, "n g"], same: Bool[np.ndarray, "n g"]
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"]]:
    """The outcome of each detection of an image, best first, and the object that it is about."""
    own, other = iou * same, iou * ~same
    matched = _match(own)
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


def _average_precision(hits: Bool[np.ndarray, " n"], objects: int) -> float:
    """COCO's AP of detections, best first, that are right or wrong; 0 without objects."""
    return float(precision_at_recalls(hits, ~hits, objects).mean()) if objects else 0.0


class Curve(NamedTuple):
    """Precision and recall of a class at each threshold of the score, the highest first.

    Attributes:
      name: of the class.
      objects: how many there are to find.
      score: float64 `[m]`, the thresholds, each a score of a detection.
      precision: float64 `[m]`, of the detections that reach the threshold.
      recall: float64 `[m]`; empty of a class without objects, as all of these.
    """

    name: str
    objects: int
    score: Float64[np.ndarray, " m"]
    precision: Float64[np.ndarray, " m"]
    recall: Float64[np.ndarray, " m"]

    @property
    def f1(self) -> Float64[np.ndarray, " m"]:
        """Harmonic mean of precision and recall, 0 where both are."""
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / np.where(total > 0, total, 1.0)

    @property
    def best(self) -> int | None:
        """Index of the best F1, the highest threshold of equals; None if nothing is found."""
        f1 = self.f1
        return int(np.argmax(f1)) if len(f1) and f1.max() > 0 else None

    @property
    def threshold(self) -> float | None:
        """The score from which detections are kept for the best F1."""
        return None if self.best is None else float(self.score[self.best])


def curves(judged: Judged) -> tuple[Curve, ...]:
    """Returns the curve of each class."""
    counted = judged.outcome != Outcome.IGNORED
    found = []
    for label, name in enumerate(judged.class_names):
        objects = int((judged.objects.label == label).sum())
        rows = np.flatnonzero(counted & (judged.found.label == label)) if objects else np.arange(0)
        score = judged.found.score[rows]
        hits = np.cumsum(judged.outcome[rows] == Outcome.TRUE_POSITIVE)
        last = np.append(score[1:] != score[:-1], True)[: len(rows)]  # of equal scores
        precision = hits / np.arange(1, len(rows) + 1)
        found.append(
            Curve(name, objects, score[last], precision[last], hits[last] / max(objects, 1))
        )
    return tuple(found)


def thresholds(of_classes: Sequence[Curve]) -> Float64[np.ndarray, " c"]:
    """Returns the threshold of the best F1 of each class, infinite where nothing is found."""
    best = (curve.threshold for curve in of_classes)
    return np.array([np.inf if x is None else x for x in best], np.float64)


def thresholds_json(of_classes: Sequence[Curve]) -> dict[str, Any]:
    """Returns the best threshold of each class and what it gives, as JSON values.

    `threshold`, `f1`, `precision` and `recall` by class; all None where no object was found.
    """
    values: dict[str, Any] = {}
    for curve in of_classes:
        k = curve.best
        fields = {"threshold": curve.score, "f1": curve.f1}
        fields |= {"precision": curve.precision, "recall": curve.recall}
        values[curve.name] = {
            name: None if k is None else float(array[k]) for name, array in fields.items()
        }
    return {"iou": FOREGROUND_IOU, "classes": values}


def confusion(judged: Judged, thresholds: Float64[np.ndarray, " c"]) -> Int64[np.ndarray, "k k"]:
    """Counts what objects were taken for.

    Args:
      judged: the evaluation.
      thresholds: the least score of a detection of each class.

    Returns:
      Rows are the classes of objects and columns those of detections, and behind them the
      background: the last column are objects that nothing was found at, the last row detections
      where nothing is. The diagonal are the true positives; what these leave is matched whatever
      its class, the best detection first.
    """
    background = len(judged.class_names)
    counts = np.zeros((background + 1, background + 1), np.int64)
    kept = judged.kept(thresholds)
    hits = kept & (judged.outcome == Outcome.TRUE_POSITIVE)
    np.add.at(counts, (judged.found.label[hits],) * 2, 1)
    wrong, missed = np.flatnonzero(kept & ~hits), np.flatnonzero(judged.missed(thresholds))
    truth = np.full(len(wrong), background)
    taken = np.zeros(len(missed), bool)
    for rows, those in by_image(judged.found.image[wrong], judged.objects.image[missed]):
        columns = _match(_iou(judged.found.of(wrong[rows]), judged.objects.of(missed[those])))
        matched = columns >= 0
        truth[rows[matched]] = judged.objects.label[missed[those[columns[matched]]]]
        taken[those[columns[matched]]] = True
    np.add.at(counts, (truth, judged.found.label[wrong]), 1)
    counts[:background, background] = np.bincount(
        judged.objects.label[missed[~taken]], minlength=background
    )
    return counts


class Tide(NamedTuple):
    """What errors there are, and what they cost.

    Attributes:
      ap50: AP at an IoU of 0.5, the mean over the classes that have objects.
      counts: number of each kind of error, `missed` among them: objects that no error of
        localisation or classification is about.
      cost: how much `ap50` would rise without that kind alone.
      false_positives: how much it would rise if every false positive had the lowest score.
      false_negatives: how much it would rise if only the objects found had to be.
    """

    ap50: float
    counts: Mapping[str, int]
    cost: Mapping[str, float]
    false_positives: float
    false_negatives: float


def tide(judged: Judged) -> Tide:
    """Returns TIDE's errors. All figures are 0 of data without objects.

    An error of classification or localisation is mended into a true positive, if its object was
    not found and no better detection is mended to find it; else, and for other kinds, the detection
    is taken away. A missed object is taken away, too.
    """
    names = {kind: kind.name.lower() for kind in ERRORS}
    objects = np.bincount(judged.objects.label, minlength=len(judged.class_names))
    correct = judged.outcome == Outcome.TRUE_POSITIVE
    counted = judged.outcome != Outcome.IGNORED
    missed = judged.finder < 0
    mendable = np.isin(judged.outcome, (Outcome.CLASSIFICATION, Outcome.LOCALISATION))
    mendable[mendable] = missed[judged.partner[mendable]]
    _, first = np.unique(judged.partner[mendable], return_index=True)
    mended = np.zeros_like(mendable)
    mended[np.flatnonzero(mendable)[first]] = True
    lost = missed.copy()
    lost[judged.partner[mendable]] = False
    classes = np.flatnonzero(objects)

    def ap(label: np.ndarray, correct: np.ndarray, kept: np.ndarray, objects: np.ndarray) -> float:
        values = []
        for k in classes:
            hits = correct[kept & (label == k)]
            if len(hits) or objects[k]:
                values.append(_average_precision(hits, int(objects[k])))
        return float(np.mean(values)) if values else 0.0

    label = judged.found.label
    now = ap(label, correct, counted, objects)
    cost = {}
    for kind, name in names.items():
        of_kind = judged.outcome == kind
        better = of_kind & mended
        new_label = label.copy()
        new_label[better] = judged.objects.label[judged.partner[better]]
        cost[name] = ap(new_label, correct | better, counted & (~of_kind | better), objects)
    left = objects - np.bincount(judged.objects.label[lost], minlength=len(objects))
    cost["missed"] = ap(label, correct, counted, left)
    found = objects - np.bincount(judged.objects.label[missed], minlength=len(objects))
    counts = {name: int((judged.outcome == kind).sum()) for kind, name in names.items()}
    return Tide(
        ap50=now,
        counts=counts | {"missed": int(lost.sum())},
        cost={name: max(value - now, 0.0) for name, value in cost.items()},
        false_positives=ap(label, correct, correct, objects) - now,
        false_negatives=ap(label, correct, counted, found) - now,
    )
