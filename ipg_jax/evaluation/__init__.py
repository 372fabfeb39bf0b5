"""From detections on the network's input to the benchmarks' figures.

`DetectionCollector` maps boxes back to the original images, once, and keeps them in the COCO
results format; `evaluate_coco` and `evaluate_voc` score such results; `format_metrics` prints
either's figures. Everything here runs on the host with NumPy arrays.
"""

from ipg_jax.evaluation.coco import COCO_AREA_RANGES, evaluate_coco
from ipg_jax.evaluation.detections import (
    DetectionCollector,
    boxes_to_original,
    load_results,
    save_results,
)
from ipg_jax.evaluation.ground_truth import Annotations, GroundTruth
from ipg_jax.evaluation.report import format_metrics
from ipg_jax.evaluation.voc import evaluate_voc

__all__ = [
    "COCO_AREA_RANGES",
    "Annotations",
    "DetectionCollector",
    "GroundTruth",
    "boxes_to_original",
    "evaluate_coco",
    "evaluate_voc",
    "format_metrics",
    "load_results",
    "save_results",
]
