"""How the devices of a mesh share what XLA would not divide well by itself.

XLA divides whatever is computed from images that are divided over the axes `data` and `space`, and
exchanges the rows at the borders. These are hints where it would choose badly. They read the mesh
that a step is traced under (`jax.sharding.use_abstract_mesh`); programs without one, or without
such an axis, are left alone.
"""

from __future__ import annotations

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Float

from ipg_jax.types import PyTree


def _parts() -> int:
    """The number of devices along `space`."""
    return dict(jax.sharding.get_abstract_mesh().shape).get("space", 1)


def rows_of_a_device(height: int) -> int:
    """Returns how many of the rows of a feature map lie on one device (`divided_by_rows`)."""
    return height if height % _parts() else height // _parts()


def divided_by_rows(
    *arrays: Float[jax.Array, "b _ _ _"],
) -> tuple[Float[jax.Array, "b _ _ _"], ...]:
    """Returns feature maps whose heights are all divided over the mesh's axis `space`, or none.

    Left to itself, XLA divides a height that is no multiple of the axis over a factor of it, the
    width perhaps over the rest, and then gets gradients of convolutions wrong (seen in JAX 0.10:
    with heights of 2 and 4 on four devices they are added up twice). Such maps, which are small,
    are held whole instead.
    """
    if _parts() == 1:
        return arrays
    divides = all(array.shape[1] % _parts() == 0 for array in arrays)
    rows = PartitionSpec(PartitionSpec.UNCONSTRAINED, "space" if divides else None)
    return jax.lax.with_sharding_constraint(arrays, rows)


def undivided(tree: PyTree) -> PyTree:
    """Returns the arrays of one image, which every device along `space` is to hold whole.

    For what is small and is looked up in loops: each look-up of a divided array is a message. Only
    under `jax.vmap` over the images, whose own division stays.
    """
    return jax.lax.with_sharding_constraint(tree, PartitionSpec()) if _parts() > 1 else tree
