"""The top-down step of a feature pyramid."""

from __future__ import annotations

import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.kernels.dispatch import Implementation, dispatch
from ipg_jax.types import Array


def upsample_add(
    lateral: Float[Array, "b h w c"],
    above: Float[Array, "b _ _ c"],
    *,
    implementation: Implementation | None = None,
) -> Float[Array, "b h w c"]:
    """Returns `lateral` plus `above`, which is repeated to its size (nearest neighbour).

    Sizes of `above` are half of those of `lateral`, rounded up, or equal: that is torch's nearest
    interpolation to the size of `lateral`.
    """
    return dispatch(
        lateral,
        above,
        reference=_reference,
        fast=_fast,
        platforms=("tpu",),
        implementation=implementation,
    )


def _factors(lateral: Array, above: Array) -> tuple[int, int]:
    return 1 + (above.shape[1] != lateral.shape[1]), 1 + (above.shape[2] != lateral.shape[2])


def _repeat(x: Array, rows: int, columns: int) -> Array:
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, rows, w, columns, c))
    return x.reshape(b, h * rows, w * columns, c)


def _reference(lateral: Array, above: Array) -> Array:
    repeated = _repeat(above, *_factors(lateral, above))
    return lateral + repeated[:, : lateral.shape[1], : lateral.shape[2]]


def _fast(lateral: Array, above: Array) -> Array:
    # In float32 a TPU repeats within the lateral convolution; bfloat16 it copies first.
    repeated = _repeated(above.astype(jnp.float32), *_factors(lateral, above))
    repeated = repeated[:, : lateral.shape[1], : lateral.shape[2]]
    total = (lateral.astype(jnp.float32) + repeated).astype(lateral.dtype)
    # Without the barrier a TPU that keeps no gradient makes the sum anew for each tile of what
    # reads it.
    return _kept(total)


@jax.custom_vjp
def _kept(x: Array) -> Array:
    return jax.lax.optimization_barrier(x)


_kept.defvjp(lambda x: (x, None), lambda _, gradient: (gradient,))


def _sum_of_repeats(rows: int, columns: int, _: None, gradient: Array) -> tuple[Array]:
    """Adds slices, of which a TPU makes one pass; two reductions take nine times as long."""
    b, h, w, c = gradient.shape
    parts = gradient.reshape(b, h // rows, rows, w // columns, columns, c)
    slices = (parts[:, :, i, :, j] for i, j in itertools.product(range(rows), range(columns)))
    return (sum(slices, jnp.zeros((b, h // rows, w // columns, c), gradient.dtype)),)


_repeated = jax.custom_vjp(_repeat, nondiff_argnums=(1, 2))
_repeated.defvjp(lambda x, rows, columns: (_repeat(x, rows, columns), None), _sum_of_repeats)
