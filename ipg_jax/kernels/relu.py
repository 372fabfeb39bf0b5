"""The rectified linear unit."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.kernels.dispatch import Implementation, dispatch
from ipg_jax.types import Array


@functools.partial(jax.jit, static_argnames="implementation")
def relu(
    x: Float[Array, "*b"], *, implementation: Implementation | None = None
) -> Float[Array, "*b"]:
    """Returns `max(x, 0)`, with a gradient of 0 at 0, as `jax.nn.relu`; NaN propagates."""
    return dispatch(
        x,
        name="relu",
        reference=_reference,
        fast=_by_output,
        platforms=("cpu", "tpu"),
        implementation=implementation,
    )


def _reference(x: Array) -> Array:
    return jnp.where(x <= 0, jnp.zeros((), x.dtype), x)


@jax.custom_jvp
def _by_output(x: Array) -> Array:
    """The gradient asks where the output is not 0, so that of a large map only that is kept.

    With `>` XLA would go back to the input, and write both.
    """
    return jnp.maximum(x, jnp.zeros((), x.dtype))


@_by_output.defjvp
def _tangent(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    y = _by_output(x)
    return y, jnp.where(y != 0, tangent, jnp.zeros((), tangent.dtype))
