"""Whether one run is better than another, or its images were lucky: paired bootstrap over images.

The images are drawn with replacement, the same for all runs, and AP is computed anew from matches
that were made once (Efron and Tibshirani, "An Introduction to the Bootstrap", 1993).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from ipg_jax.evaluation import GroundTruth
from ipg_jax.evaluation.coco import image_order
from ipg_jax.evaluation.ground_truth import Result, index_objects, index_results
from ipg_jax.evaluation.matching import IOU_THRESHOLDS, RECALLS, match_classes
from ipg_jax.evaluation.regions import in_regions

RESAMPLES = 1000

_BLOCK = 64
"""Resamples at a time, so that memory does not grow with their number."""


class Estimate(NamedTuple):
    """A value and its interval of 95 %; None where nothing is defined."""

    value: float | None
    low: float | None
    high: float | None


class ClassHits(NamedTuple):
    """The detections of one class, best first.

    Attributes:
      image: int64 `[n]`, of each.
      hits: int64 `[p]` for each IoU threshold, the detections that are true positives.
      ignored: int64 `[q]` for each, those that count for nothing.
    """

    image: Int64[np.ndarray, " n"]
    hits: Sequence[Int64[np.ndarray, " _"]]
    ignored: Sequence[Int64[np.ndarray, " _"]]


class RunHits(NamedTuple):
    """What AP on any draw of images needs of a run.

    Attributes:
      classes: by label.
      objects: int64 `[c, i]`, objects of each class in each image.
    """

    classes: Sequence[ClassHits]
    objects: Int64[np.ndarray, "c i"]


def run_hits(
    ground_truth: GroundTruth, results: Sequence[Result], *, max_detections: int = 100
) -> RunHits:
    """Matches the detections of a run, as COCO does.

    Args:
      ground_truth: the data set.
      results: detections in the COCO results format.
      max_detections: of an image and class.

    Raises:
      ValueError: a result names an image or category that the data set does not have.
    """
    objects, regions = index_objects(ground_truth)
    found = index_results(ground_truth, results)
    num_classes, images = len(ground_truth.class_names), len(ground_truth.records.image_ids)
    matches = match_classes(
        objects,
        found,
        num_classes=num_classes,
        image_order=image_order(ground_truth.records.image_ids),
        forgiven=in_regions(found, regions),
        limit=max_detections,
        area_ranges=[(0.0, 1e10)],
    )
    classes = []
    for of_class in matches:
        right, wrong = of_class.true_positive[:, 0], of_class.false_positive[:, 0]
        classes.append(
            ClassHits(
                found.image[of_class.rows],
                [np.flatnonzero(row) for row in right],
                [np.flatnonzero(row) for row in ~(right | wrong)],
            )
        )
    counted = objects.of(~objects.ignore)
    counts = np.bincount(counted.label * images + counted.image, minlength=num_classes * images)
    return RunHits(classes, counts.reshape(num_classes, images))


def average_precision(
    run: RunHits, draws: Int64[np.ndarray, "b i"]
) -> Float64[np.ndarray, "t c b"]:
    """Returns AP at each of COCO's IoU thresholds, of each class, on draws of images.

    Args:
      run: the run's matches.
      draws: how often each image is in each draw.

    Returns:
      NaN where a draw has no object of a class.
    """
    precision = np.full((len(IOU_THRESHOLDS), len(run.classes), len(draws)), np.nan)
    for k, of_class in enumerate(run.classes):
        objects = draws @ run.objects[k]
        defined = objects > 0
        if not defined.any():
            continue
        weight = draws[:, of_class.image]
        every = np.cumsum(weight, axis=1)
        for t, (hits, ignored) in enumerate(zip(of_class.hits, of_class.ignored, strict=True)):
            # Precision is highest at true positives: the others matter by their number alone.
            right = np.cumsum(weight[:, hits], axis=1)
            before = np.pad(np.cumsum(weight[:, ignored], axis=1), ((0, 0), (1, 0)))
            total = every[:, hits] - before[:, np.searchsorted(ignored, hits)]
            # The 0 behind them is of recalls that are not reached.
            curve = np.pad(right / np.maximum(total, 1), ((0, 0), (0, 1)))
            curve = np.maximum.accumulate(curve[:, ::-1], axis=1)[:, ::-1]
            recall = right / np.maximum(objects, 1)[:, None]
            for b in np.flatnonzero(defined):
                points = np.searchsorted(recall[b], RECALLS, side="left")
                precision[t, k, b] = curve[b, points].mean()
    return precision


class Comparison(NamedTuple):
    """Figures of runs, with what the first differs from each.

    Attributes:
      figures: by name, `AP`, `AP50` and `AP50` of each class behind a slash, the value of each run.
      differences: by name, of each run but the first, what it is above the first.
    """

    figures: dict[str, list[Estimate]]
    differences: dict[str, list[Estimate]]


def compare(
    class_names: Sequence[str],
    runs: Sequence[RunHits],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Comparison:
    """Compares runs on the same images.

    Args:
      class_names: of the labels.
      runs: their matches with one data set.
      resamples: number of draws.
      seed: of the draws.
    """
    images = runs[0].objects.shape[1]
    rng = np.random.default_rng(seed)
    once = np.ones((1, images), np.int64)
    blocks = [once]
    for start in range(0, resamples, _BLOCK):
        size = min(_BLOCK, resamples - start)
        blocks.append(rng.multinomial(images, np.full(images, 1 / images), size=size))
    names = ["AP", "AP50", *(f"AP50/{name}" for name in class_names)]
    values = np.stack(  # [run, figure, draw]
        [
            np.concatenate([_figures(average_precision(run, draws)) for draws in blocks], axis=1)
            for run in runs
        ]
    )
    return Comparison(
        {name: [_estimate(run[k]) for run in values] for k, name in enumerate(names)},
        {
            name: [_estimate(run[k] - values[0, k]) for run in values[1:]]
            for k, name in enumerate(names)
        },
    )


def _figures(precision: Float64[np.ndarray, "t c b"]) -> Float64[np.ndarray, "f b"]:
    """AP and AP50 over the classes that a draw has, and AP50 of each class."""
    defined = ~np.isnan(precision[0])
    count = np.where(defined.any(axis=0), defined.sum(axis=0), np.nan)
    mean = np.nansum(precision, axis=1) / count
    return np.concatenate([mean.mean(axis=0)[None], mean[:1], precision[0]])


def _estimate(values: Float64[np.ndarray, " b"]) -> Estimate:
    """The value on all images, which stands first, and the interval of the draws behind it."""
    draws = values[1:][~np.isnan(values[1:])]
    if np.isnan(values[0]) or not len(draws):
        return Estimate(None, None, None)
    low, high = np.percentile(draws, (2.5, 97.5)).tolist()
    return Estimate(float(values[0]), low, high)
