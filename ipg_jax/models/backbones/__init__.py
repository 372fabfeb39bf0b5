"""Networks that can be guided, by name; CONTRIBUTING says how to add one."""

import functools
from collections.abc import Callable

from ipg_jax.models.backbones.base import Backbone, PyramidBackbone
from ipg_jax.models.backbones.convnext import ConvNeXt
from ipg_jax.models.backbones.resnet import ARCHITECTURES, ResNet

BACKBONES: dict[str, Callable[..., Backbone]] = {
    **{f"resnet{depth}": functools.partial(ResNet, depth=depth) for depth in ARCHITECTURES},
    "convnext_tiny": ConvNeXt,
    "convnext_small": functools.partial(ConvNeXt, depths=(3, 3, 27, 3)),
}
"""Backbones by the names that `config.model.backbone` takes."""

__all__ = ["BACKBONES", "Backbone", "ConvNeXt", "PyramidBackbone", "ResNet"]
