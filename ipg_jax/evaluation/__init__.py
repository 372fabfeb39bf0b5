"""From detections on the network's input to the benchmarks' figures.

`DetectionCollector` maps boxes back to the original images, once, and keeps them in the COCO
results format; `BoxMerge` merges those of tiles; `evaluate` scores such results by a metric's name,
`evaluate_coco`, `evaluate_voc` and `evaluate_visdrone` by all of its settings; `format_metrics`
prints the figures. Everything here runs on the host with NumPy arrays.
"""

from ipg_jax.evaluation.coco import COCO_AREA_RANGES, evaluate_coco
from ipg_jax.evaluation.detections import (
    DetectionCollector,
    boxes_to_original,
    load_results,
    save_results,
)
from ipg_jax.evaluation.ground_truth import Annotations, GroundTruth
from ipg_jax.evaluation.merge import MERGE_METHODS, MERGE_OVERLAPS, BoxMerge, Tiles
from ipg_jax.evaluation.metrics import AITOD_AREA_RANGES, METRICS, Metric, evaluate
from ipg_jax.evaluation.report import format_metrics, format_summaries, nothing_found
from ipg_jax.evaluation.visdrone import evaluate_visdrone
from ipg_jax.evaluation.voc import evaluate_voc

__all__ = [
    "AITOD_AREA_RANGES",
    "COCO_AREA_RANGES",
    "MERGE_METHODS",
    "MERGE_OVERLAPS",
    "METRICS",
    "Annotations",
    "BoxMerge",
    "DetectionCollector",
    "GroundTruth",
    "Metric",
    "Tiles",
    "boxes_to_original",
    "evaluate",
    "evaluate_coco",
    "evaluate_visdrone",
    "evaluate_voc",
    "format_metrics",
    "format_summaries",
    "load_results",
    "nothing_found",
    "save_results",
]
