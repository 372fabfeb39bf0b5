"""ReLUs whose gradients look at their outputs."""

from __future__ import annotations

from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.types import Array

Arrays: TypeAlias = tuple[Array, ...]


@jax.custom_jvp
def relu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """Returns `max(x, 0)`, with a gradient of 0 at 0, as `jax.nn.relu`.

    Its gradient asks where the output is not 0, and not where the input is positive, so that of a
    large map only the output is kept. (XLA would make the one of the other where it compares with
    `>`, and write both.)
    """
    return jnp.maximum(x, jnp.zeros((), x.dtype))


@relu.defjvp
def _tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    y = relu(x)
    return y, _where_positive(y, tangent)


@jax.custom_jvp
def relu_together(*maps: Float[Array, "*_"]) -> tuple[Float[Array, "*_"], ...]:
    """Returns the ReLU of each map; XLA makes all their gradients before it goes on with any.

    For maps that are read together: what the gradients are made of, which is the same for all, is
    in a TPU's fast memory then, and XLA would do the longest chain first and the others much later.
    """
    return tuple(relu(x) for x in maps)


@relu_together.defjvp
def _tangents(primals: Arrays, tangents: Arrays) -> tuple[Arrays, Arrays]:
    ys = relu_together(*primals)
    tangents = jax.lax.optimization_barrier(tangents)  # in the gradient it comes after the masks
    return ys, tuple(_where_positive(y, tangent) for y, tangent in zip(ys, tangents, strict=True))


def _where_positive(y: Array, tangent: Array) -> Array:
    return jnp.where(y != 0, tangent, jnp.zeros((), tangent.dtype))
