"""The bias of a convolution whose output goes to a loss."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.kernels.dispatch import Implementation, dispatch
from ipg_jax.kernels.spatial import shard_height
from ipg_jax.types import Array


def add_bias(
    x: Float[Array, "b h w f"],
    bias: Float[Array, " f"],
    *,
    implementation: Implementation | None = None,
) -> Float[Array, "b h w f"]:
    """Returns `x + bias`.

    The fast form is for large maps whose gradient does not come out of a convolution: a TPU sums
    others while it convolves, but these in a pass of their own, unless by a product with ones.
    """
    return dispatch(
        x,
        bias,
        reference=jnp.add,
        fast=_summed_by_product,
        platforms=("tpu",),
        implementation=implementation,
    )


@jax.custom_vjp
def _summed_by_product(x: Array, bias: Array) -> Array:
    return x + bias


def _gradient(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    ones = jnp.ones((*gradient.shape[:3], 1), gradient.dtype)
    ones, of_rows = shard_height(ones, gradient)

    def product(kernel: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(
            ones,
            kernel,
            (1, 1),
            "VALID",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,
        )

    kernel = jnp.zeros((1, 1, 1, gradient.shape[-1]), gradient.dtype)
    (total,) = jax.linear_transpose(product, kernel)(of_rows)
    return gradient, total.reshape(-1)


_summed_by_product.defvjp(lambda x, bias: (x + bias, None), _gradient)
