"""Hints for feature maps whose height is divided over the mesh's axis `space`.

XLA's partitioner divides what follows from divided images by itself, and gets some of it wrong.
These constraints read the mesh that a step is traced under (`jax.sharding.use_abstract_mesh`);
without such an axis nothing is constrained.
"""

from __future__ import annotations

import math

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Float

from ipg_jax.types import PyTree


def height_shards() -> int:
    """Returns the number of devices along `space`."""
    return dict(jax.sharding.get_abstract_mesh().shape).get("space", 1)


def num_devices() -> int:
    """Returns the number of devices that share the program; 1 outside of a mesh."""
    return max(1, math.prod(jax.sharding.get_abstract_mesh().shape.values()))


def shard_height(*arrays: Float[jax.Array, "b _ _ _"]) -> tuple[Float[jax.Array, "b _ _ _"], ...]:
    """Returns feature maps whose heights are all divided over `space`, or none of them.

    Of a height that is no multiple of the axis XLA divides a factor, and then gets gradients of
    convolutions wrong (`tools/xla_sharded_height.py`). Such maps, which are small, are held whole.
    """
    shards = height_shards()
    if shards == 1:
        return arrays
    divides = all(array.shape[1] % shards == 0 for array in arrays)
    rows = PartitionSpec(PartitionSpec.UNCONSTRAINED, "space" if divides else None)
    return jax.lax.with_sharding_constraint(arrays, rows)


def shard_channels(
    *arrays: Float[jax.Array, "_ _ _ _"],
) -> tuple[Float[jax.Array, "_ _ _ _"], ...]:
    """Returns feature maps or kernels whose last axes are divided over `space`, and no other one.

    The number of channels is a multiple of the axis.
    """
    if height_shards() == 1:
        return arrays
    channels = PartitionSpec(PartitionSpec.UNCONSTRAINED, None, None, "space")
    return jax.lax.with_sharding_constraint(arrays, channels)


def subsample(x: Float[jax.Array, "b h w c"]) -> Float[jax.Array, "b h2 w2 c"]:
    """Returns every second row and column of a feature map.

    A map whose height is divided is held whole first: XLA gets the gradient of the slice wrong
    where what follows is held whole (`tools/xla_sharded_height.py`).
    """
    if height_shards() > 1:
        whole = PartitionSpec(PartitionSpec.UNCONSTRAINED, None)
        x = jax.lax.with_sharding_constraint(x, whole)
    return x[:, ::2, ::2]


def replicate(tree: PyTree) -> PyTree:
    """Returns arrays of one image, held whole by every device along `space`.

    For what is small and is looked up in loops: each look-up of a divided array is a message. Only
    under `jax.vmap` over the images, whose own division stays.
    """
    return tree if height_shards() == 1 else jax.lax.with_sharding_constraint(tree, PartitionSpec())
