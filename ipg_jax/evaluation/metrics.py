"""The metrics that a config can name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple, TypeAlias

from ipg_jax.evaluation.coco import COCO_AREA_RANGES, evaluate_coco
from ipg_jax.evaluation.ground_truth import GroundTruth, Result
from ipg_jax.evaluation.visdrone import evaluate_visdrone
from ipg_jax.evaluation.voc import evaluate_voc

AITOD_AREA_RANGES: Mapping[str, tuple[float, float]] = MappingProxyType(
    {
        "vt": (0.0, 8.0**2),
        "t": (8.0**2, 16.0**2),
        "s": (16.0**2, 32.0**2),
        "m": (32.0**2, 1e10),
    }
)
"""AI-TOD's size classes "very tiny", "tiny", "small" and "medium", in square pixels, as its
evaluation has them (https://github.com/jwwangchn/cocoapi-aitod). The smallest object of the data
set has a side of 2 pixels (Wang et al., "Tiny Object Detection in Aerial Images", ICPR 2020)."""

Limits: TypeAlias = tuple[int, ...]
"""Numbers of detections, ascending."""

AreaRanges: TypeAlias = Mapping[str, tuple[float, float]]
"""Smallest and largest area of each size class, in square pixels."""


class Metric(NamedTuple):
    """A benchmark: a definition and what it fixes.

    Attributes:
      evaluate: from the data set, the results, limits and size classes to the figures.
      limits: numbers of detections that it evaluates at; the last is what AP uses, and how many
        boxes of an image are worth keeping.
      area_ranges: its size classes, in square pixels.
    """

    evaluate: Callable[[GroundTruth, Sequence[Result], Limits, AreaRanges], dict[str, Any]]
    limits: Limits = (1, 10, 100)
    area_ranges: AreaRanges = COCO_AREA_RANGES

    def limits_to(self, max_detections: int) -> Limits:
        """Returns the benchmark's own limits below another last one, and that."""
        return (*(limit for limit in self.limits if limit < max_detections), max_detections)


def _coco(
    ground_truth: GroundTruth, results: Sequence[Result], limits: Limits, area_ranges: AreaRanges
) -> dict[str, Any]:
    return evaluate_coco(ground_truth, results, max_detections=limits, area_ranges=area_ranges)


def _voc(
    ground_truth: GroundTruth, results: Sequence[Result], limits: Limits, area_ranges: AreaRanges
) -> dict[str, Any]:
    del limits, area_ranges  # all detections count, and all objects
    return evaluate_voc(ground_truth, results)


def _visdrone(
    ground_truth: GroundTruth, results: Sequence[Result], limits: Limits, area_ranges: AreaRanges
) -> dict[str, Any]:
    del area_ranges  # all objects count
    return evaluate_visdrone(ground_truth, results, max_detections=limits)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "coco": Metric(_coco),
        "voc": Metric(_voc),
        "aitod": Metric(_coco, (1, 100, 1500), AITOD_AREA_RANGES),
        "visdrone": Metric(_visdrone, (1, 10, 100, 500)),
    }
)
"""What `config.eval.metric` names."""


def evaluate(
    name: str,
    ground_truth: GroundTruth,
    results: Sequence[Result],
    *,
    max_detections: int,
    area_ranges: AreaRanges | None = None,
) -> dict[str, Any]:
    """The figures of a metric by its name.

    Args:
      name: one of `METRICS`.
      ground_truth: the data set.
      results: detections in the COCO results format with the data set's own ids.
      max_detections: how many detections count: of an image and class for COCO and AI-TOD, of an
        image for VisDrone; for VOC all do.
      area_ranges: the size classes of COCO's and AI-TOD's metrics, in square original pixels; None
        takes their own.
    """
    metric = METRICS[name]
    ranges = metric.area_ranges if area_ranges is None else area_ranges
    return metric.evaluate(ground_truth, results, metric.limits_to(max_detections), ranges)
