"""From detections on the network's input to the benchmarks' figures.

`DetectionCollector` maps boxes back to the original images, once, and keeps them in the COCO
results format; `BoxMerge` merges those of tiles; `evaluate_coco` and `evaluate_voc` score such
results; `format_metrics` prints either's figures. Everything here runs on the host with NumPy
arrays.
"""

from ipg_jax.evaluation.coco import COCO_AREA_RANGES, evaluate_coco
from ipg_jax.evaluation.detections import (
    DetectionCollector,
    boxes_to_original,
    load_results,
    save_results,
)
from ipg_jax.evaluation.ground_truth import Annotations, GroundTruth
from ipg_jax.evaluation.merge import BoxMerge, Tiles
from ipg_jax.evaluation.report import format_metrics, format_summaries
from ipg_jax.evaluation.voc import evaluate_voc

__all__ = [
    "COCO_AREA_RANGES",
    "Annotations",
    "BoxMerge",
    "DetectionCollector",
    "GroundTruth",
    "Tiles",
    "boxes_to_original",
    "evaluate_coco",
    "evaluate_voc",
    "format_metrics",
    "format_summaries",
    "load_results",
    "save_results",
]
