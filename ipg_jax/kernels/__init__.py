"""Textbook functions that the models compute with, and forms that some platforms run faster.

Every function is what its docstring says, whichever form computes it (`kernels.dispatch`):

    with kernels.use("reference"):  # plain `jax.lax` for all of a program
        jax.jvp(...)
    with kernels.use({"relu": "fast"}):  # one kernel, whatever the platform
        ...
"""

from ipg_jax.kernels.convolution import conv2d
from ipg_jax.kernels.dispatch import KERNELS, Implementation, Kernel, lowered_for, use
from ipg_jax.kernels.focal import dense_focal_loss
from ipg_jax.kernels.packed import LANES, pack_columns, packed_conv2d, unpack_columns
from ipg_jax.kernels.pooling import relu_max_pool
from ipg_jax.kernels.relu import relu
from ipg_jax.kernels.spatial import height_shards, replicate, shard_height, subsample
from ipg_jax.kernels.stem import stem_conv

__all__ = [
    "KERNELS",
    "LANES",
    "Implementation",
    "Kernel",
    "conv2d",
    "dense_focal_loss",
    "height_shards",
    "lowered_for",
    "pack_columns",
    "packed_conv2d",
    "relu",
    "relu_max_pool",
    "replicate",
    "shard_height",
    "stem_conv",
    "subsample",
    "unpack_columns",
    "use",
]
