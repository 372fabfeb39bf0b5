"""How the devices of a mesh share what XLA would not divide well by itself.

XLA divides whatever is computed from images that are divided over the axes `data` and `space`, and
exchanges the rows at the borders. These are hints where it would choose badly. They read the mesh
that a step is traced under (`jax.sharding.use_abstract_mesh`); programs without one, or without
such an axis, are left alone.
"""

from __future__ import annotations

import math

import jax
from jax.sharding import PartitionSpec
from jaxtyping import Float

from ipg_jax.types import Array, PyTree

_SMALL_PRODUCT = 2**31
"""Multiplications of a product of matrices below which messages take longer than they save."""


def _parts() -> int:
    """The number of devices along `space`."""
    return dict(jax.sharding.get_abstract_mesh().shape).get("space", 1)


def num_devices() -> int:
    """The number of devices that share the step that is traced; 1 outside of a mesh."""
    return max(1, math.prod(jax.sharding.get_abstract_mesh().shape.values()))


def divided_by_rows(
    *arrays: Float[jax.Array, "b _ _ _"],
) -> tuple[Float[jax.Array, "b _ _ _"], ...]:
    """Returns feature maps whose heights are all divided over the mesh's axis `space`, or none.

    Left to itself, XLA divides a height that is no multiple of the axis over a factor of it, the
    width perhaps over the rest, and then gets gradients of convolutions wrong (seen in JAX 0.10:
    with heights of 2 and 4 on four devices they are added up twice). Such maps, which are small,
    are held whole instead.
    """
    parts = _parts()
    if parts == 1:
        return arrays
    divides = all(array.shape[1] % parts == 0 for array in arrays)
    rows = PartitionSpec(PartitionSpec.UNCONSTRAINED, "space" if divides else None)
    return jax.lax.with_sharding_constraint(arrays, rows)


def undivided(tree: PyTree) -> PyTree:
    """Returns the arrays of one image, which every device along `space` is to hold whole.

    For what is small and is looked up in loops: each look-up of a divided array is a message. Only
    under `jax.vmap` over the images, whose own division stays.
    """
    return tree if _parts() == 1 else jax.lax.with_sharding_constraint(tree, PartitionSpec())


def rows_of_product(rows: int, multiplications: int) -> int:
    """Returns how many rows of a product of matrices each device computes in `shared_product`."""
    devices = num_devices()
    shared = rows % devices == 0 and multiplications >= _SMALL_PRODUCT
    return rows // devices if shared else rows


def shared_product(a: Float[Array, "m k"], b: Float[Array, "k n"]) -> Float[Array, "m n"]:
    """Returns the product of two matrices that every device holds, and gets whole.

    Each device computes some of its rows, and its part of the gradients, if it is large and the
    rows divide evenly.
    """
    rows = a.shape[0]
    if rows_of_product(rows, rows * b.size) == rows:
        return a @ b
    a = _by_rows(a)
    if b.shape[0] % num_devices() == 0:
        b = _gathered(b)
    return jax.lax.with_sharding_constraint(_by_rows(a @ b), PartitionSpec())


def _by_rows(array: Array) -> Array:
    """Returns a matrix whose rows are divided over all devices."""
    rows = PartitionSpec(jax.sharding.get_abstract_mesh().axis_names)
    return jax.lax.with_sharding_constraint(array, rows)


@jax.custom_vjp
def _gathered(array: Array) -> Array:
    """Returns a matrix that devices hold whole, and cast to its type by rows each."""
    return jax.lax.with_sharding_constraint(_by_rows(array), PartitionSpec())


# The gradient is a sum over the devices already, and is left where it is.
_gathered.defvjp(lambda array: (_gathered(array), None), lambda _, gradient: (gradient,))
