"""Flax Linen modules: guided backbones, necks, heads and whole detectors.

Modules take explicit keywords, never a ConfigDict, and know no losses.
"""

from ipg_jax.models.backbone import GuidedResNet
from ipg_jax.models.box_head import BoxHead, BoxOutputs
from ipg_jax.models.detectors import FasterRCNN, RetinaNet, level_strides
from ipg_jax.models.fold import fold_fusion
from ipg_jax.models.fpn import FPN
from ipg_jax.models.fusion import (
    FUSIONS,
    AttentionFusion,
    ConcatFusion,
    ProductFusion,
    SumFusion,
    channel_transform,
)
from ipg_jax.models.ipg import IPGTransform
from ipg_jax.models.norm import FrozenBatchNorm
from ipg_jax.models.retinanet_head import DenseOutputs, RetinaNetHead
from ipg_jax.models.rpn import RPNHead
from ipg_jax.models.spatial import undivided
from ipg_jax.models.stem import IMAGE_BLOCK

__all__ = [
    "FPN",
    "FUSIONS",
    "IMAGE_BLOCK",
    "AttentionFusion",
    "BoxHead",
    "BoxOutputs",
    "ConcatFusion",
    "DenseOutputs",
    "FasterRCNN",
    "FrozenBatchNorm",
    "GuidedResNet",
    "IPGTransform",
    "ProductFusion",
    "RPNHead",
    "RetinaNet",
    "RetinaNetHead",
    "SumFusion",
    "channel_transform",
    "fold_fusion",
    "level_strides",
    "undivided",
]
