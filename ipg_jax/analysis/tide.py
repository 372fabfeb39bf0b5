"""What each kind of error costs, as TIDE has it (Bolya et al., ECCV 2020, arXiv 2008.08115)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool

from ipg_jax.analysis.errors import ERRORS, Judged, Outcome
from ipg_jax.evaluation.coco import precision_at_recalls


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


def _average_precision(hits: Bool[np.ndarray, " n"], objects: int) -> float:
    """COCO's AP of detections, best first, that are right or wrong; 0 without objects."""
    return float(precision_at_recalls(hits, ~hits, objects).mean()) if objects else 0.0
