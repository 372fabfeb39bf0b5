"""Tasks: a detector with its targets, losses and post-processing (see `DetectionTask`)."""

from ipg_jax.tasks.base import DetectionTask
from ipg_jax.tasks.postprocess import NMS_CHOICES, Nms, select_detections
from ipg_jax.tasks.retinanet import RetinaNetTask
from ipg_jax.tasks.two_stage import CASCADE_RCNN, FASTER_RCNN, CascadeStage, TwoStageTask

__all__ = [
    "CASCADE_RCNN",
    "FASTER_RCNN",
    "NMS_CHOICES",
    "CascadeStage",
    "DetectionTask",
    "Nms",
    "RetinaNetTask",
    "TwoStageTask",
    "select_detections",
]
