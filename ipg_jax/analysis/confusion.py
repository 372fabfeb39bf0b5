"""Which classes are taken for which."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64

from ipg_jax.analysis.errors import Judged, Outcome
from ipg_jax.analysis.matching import coco_iou, greedy_match
from ipg_jax.evaluation.regions import by_image


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
        columns = greedy_match(
            coco_iou(judged.found.of(wrong[rows]), judged.objects.of(missed[those]))
        )
        matched = columns >= 0
        truth[rows[matched]] = judged.objects.label[missed[those[columns[matched]]]]
        taken[those[columns[matched]]] = True
    np.add.at(counts, (truth, judged.found.label[wrong]), 1)
    counts[:background, background] = np.bincount(
        judged.objects.label[missed[~taken]], minlength=background
    )
    return counts
