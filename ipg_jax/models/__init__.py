"""Flax Linen modules: guided backbones, necks, heads and whole detectors.

Modules take explicit keywords, never a ConfigDict, and know no losses.
"""

from ipg_jax.models.backbone import GuidedResNet
from ipg_jax.models.detectors import RetinaNet
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

__all__ = [
    "FPN",
    "FUSIONS",
    "AttentionFusion",
    "ConcatFusion",
    "DenseOutputs",
    "FrozenBatchNorm",
    "GuidedResNet",
    "IPGTransform",
    "ProductFusion",
    "RetinaNet",
    "RetinaNetHead",
    "SumFusion",
    "channel_transform",
]
