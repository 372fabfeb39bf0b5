"""Tasks: a detector with its targets, losses and post-processing (see `DetectionTask`)."""

from ipg_jax.tasks.base import DetectionTask
from ipg_jax.tasks.dense_losses import (
    AVERAGES,
    BOX_LOSSES,
    CLASS_LOSSES,
    Average,
    BoxLoss,
    ClassLoss,
)
from ipg_jax.tasks.matchers import MATCHERS, RETINANET_IOU, RPN_IOU, IouMatcher, Matcher
from ipg_jax.tasks.postprocess import NMS_CHOICES, Nms, select_detections
from ipg_jax.tasks.proposals import Proposals, Rois
from ipg_jax.tasks.retinanet import RetinaNetTask
from ipg_jax.tasks.roi_heads import CASCADE_RCNN, FASTER_RCNN, CascadeStage, RoiHeads
from ipg_jax.tasks.two_stage import TwoStageTask

__all__ = [
    "AVERAGES",
    "BOX_LOSSES",
    "CASCADE_RCNN",
    "CLASS_LOSSES",
    "FASTER_RCNN",
    "MATCHERS",
    "NMS_CHOICES",
    "RETINANET_IOU",
    "RPN_IOU",
    "Average",
    "BoxLoss",
    "CascadeStage",
    "ClassLoss",
    "DetectionTask",
    "IouMatcher",
    "Matcher",
    "Nms",
    "Proposals",
    "RetinaNetTask",
    "RoiHeads",
    "Rois",
    "TwoStageTask",
    "select_detections",
]
