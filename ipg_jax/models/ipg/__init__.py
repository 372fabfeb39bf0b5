"""Image-pyramid guidance: transformations, fusions and the net that has them."""

from ipg_jax.models.ipg.fold import fold_fusion
from ipg_jax.models.ipg.fusion import (
    FUSIONS,
    AttentionFusion,
    ConcatFusion,
    ProductFusion,
    SumFusion,
    channel_transform,
)
from ipg_jax.models.ipg.net import IPGNet
from ipg_jax.models.ipg.transform import IPGTransform

__all__ = [
    "FUSIONS",
    "AttentionFusion",
    "ConcatFusion",
    "IPGNet",
    "IPGTransform",
    "ProductFusion",
    "SumFusion",
    "channel_transform",
    "fold_fusion",
]
