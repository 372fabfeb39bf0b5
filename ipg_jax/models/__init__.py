"""Flax Linen modules: backbones, their guidance, necks, heads and whole detectors.

Modules take explicit keywords, never a ConfigDict, and know no losses.
"""

from ipg_jax.models.backbones import BACKBONES, Backbone, ConvNeXt, PyramidBackbone, ResNet
from ipg_jax.models.detectors import FasterRCNN, RetinaNet, level_strides
from ipg_jax.models.heads import BoxHead, BoxOutputs, DenseOutputs, RetinaNetHead, RPNHead
from ipg_jax.models.ipg import (
    FUSIONS,
    AttentionFusion,
    ConcatFusion,
    IPGNet,
    IPGTransform,
    ProductFusion,
    SumFusion,
    channel_transform,
    fold_fusion,
)
from ipg_jax.models.necks import FPN, NECKS, Neck

__all__ = [
    "BACKBONES",
    "FPN",
    "FUSIONS",
    "NECKS",
    "AttentionFusion",
    "Backbone",
    "BoxHead",
    "BoxOutputs",
    "ConcatFusion",
    "ConvNeXt",
    "DenseOutputs",
    "FasterRCNN",
    "IPGNet",
    "IPGTransform",
    "Neck",
    "ProductFusion",
    "PyramidBackbone",
    "RPNHead",
    "ResNet",
    "RetinaNet",
    "RetinaNetHead",
    "SumFusion",
    "channel_transform",
    "fold_fusion",
    "level_strides",
]
