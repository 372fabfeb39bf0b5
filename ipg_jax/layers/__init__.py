"""Linen layers on top of the kernels: convolutions, norms, initial values, rematerialisation."""

from ipg_jax.layers.conv import Conv, PackedConv, StemConv
from ipg_jax.layers.initializers import (
    identity_matrix,
    kaiming_normal,
    kaiming_uniform,
    linear_uniform,
    small_normal,
)
from ipg_jax.layers.norm import (
    NORMS,
    BatchNorm,
    FrozenBatchNorm,
    GroupNorm,
    LayerNorm,
    NormKind,
    counting,
    norm_layer,
    packed_norm,
)
from ipg_jax.layers.remat import Remat, maybe_remat

__all__ = [
    "NORMS",
    "BatchNorm",
    "Conv",
    "FrozenBatchNorm",
    "GroupNorm",
    "LayerNorm",
    "NormKind",
    "PackedConv",
    "Remat",
    "StemConv",
    "counting",
    "identity_matrix",
    "kaiming_normal",
    "kaiming_uniform",
    "linear_uniform",
    "maybe_remat",
    "norm_layer",
    "packed_norm",
    "small_normal",
]
