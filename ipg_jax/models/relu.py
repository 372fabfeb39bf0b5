"""ReLUs whose gradients look at their outputs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.types import Array


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
    return y, jnp.where(y != 0, tangent, jnp.zeros((), tangent.dtype))
