"""Precision and recall of each class by the threshold of the score, and the best threshold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64

from ipg_jax.analysis.errors import Judged, Outcome
from ipg_jax.analysis.matching import FOREGROUND_IOU


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
