"""The metrics that a config can name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

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


class Metric(NamedTuple):
    """What a benchmark fixes.

    Attributes:
      limits: numbers of detections that it evaluates at; the last is what AP uses, and how many
        boxes of an image are worth keeping.
      area_ranges: its size classes, in square pixels.
    """

    limits: tuple[int, ...] = (1, 10, 100)
    area_ranges: Mapping[str, tuple[float, float]] = COCO_AREA_RANGES

    def limits_to(self, max_detections: int) -> tuple[int, ...]:
        """Returns the benchmark's own limits below another last one, and that."""
        return (*(limit for limit in self.limits if limit < max_detections), max_detections)


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "coco": Metric(),
        "voc": Metric(),
        "aitod": Metric((1, 100, 1500), AITOD_AREA_RANGES),
        "visdrone": Metric((1, 10, 100, 500)),
    }
)
"""What `config.eval.metric` names."""


def evaluate(
    name: str,
    ground_truth: GroundTruth,
    results: Sequence[Result],
    *,
    max_detections: int,
    area_ranges: Mapping[str, tuple[float, float]] | None = None,
) -> dict[str, Any]:
    """The figures of a metric by its name.

    Args:
      name: one of `METRICS`.
      ground_truth: the data set.
      results: detections in the COCO results format with the data set's own ids.
      max_detections: how many detections count: of an image and class for COCO and AI-TOD, of an
        image for VisDrone; for VOC all do.
      area_ranges: smallest and largest area of each size class, in square original pixels, of
        COCO's and AI-TOD's metrics; None takes their own.
    """
    if name == "voc":
        return evaluate_voc(ground_truth, results)
    limits = METRICS[name].limits_to(max_detections)
    if name == "visdrone":
        return evaluate_visdrone(ground_truth, results, max_detections=limits)
    sizes = METRICS[name].area_ranges if area_ranges is None else area_ranges
    return evaluate_coco(ground_truth, results, max_detections=limits, area_ranges=sizes)
