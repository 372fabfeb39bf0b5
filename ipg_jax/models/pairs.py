"""Feature maps of few channels, held as pairs of columns.

64 channels fill half of a TPU's 128 lanes, in memory too. A map `[b, h, w, c]` in pairs is
`[b, h, w / 2, 2 c]`, whose channels run over the columns of a pair, then features: the same numbers
in the same order. A convolution between such maps has a kernel with zeros where a column does not
look at another one, which costs a TPU nothing: those lanes were empty.
"""

from __future__ import annotations

import functools
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ipg_jax.models.convolution import convolve
from ipg_jax.types import Array

LANES = 128
"""Channels that a TPU computes with at once."""

Arrays: TypeAlias = tuple[Array, ...]


def to_pairs(x: Float[Array, "b h w c"]) -> Float[Array, "b h w//2 2*c"]:
    """Returns a map of an even width in pairs of columns."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w // 2, 2 * c)


def from_pairs(x: Float[Array, "b h w c"]) -> Float[Array, "b h 2*w c//2"]:
    """Returns the map of pairs of columns: the inverse of `to_pairs`."""
    b, h, w, c = x.shape
    return x.reshape(b, h, 2 * w, c // 2)


def pair_kernel(kernel: Float[Array, "k k c f"]) -> Float[Array, "k _ 2*c 2*f"]:
    """Returns the kernel between maps in pairs of columns, of a kernel of odd size."""
    size = kernel.shape[1]
    pairs = 1 + 2 * ((size + 1) // 4)  # that a pair of columns looks at
    first = pairs - 1 - size // 2  # of the columns of those that its left one looks at
    columns = [
        jnp.pad(kernel, ((0, 0), (first + i, 2 * pairs - size - first - i), (0, 0), (0, 0)))
        for i in range(2)
    ]
    height, _, channels, features = kernel.shape
    return jnp.stack(columns, axis=-2).reshape(height, pairs, 2 * channels, 2 * features)


def _in_pairs(inputs: Arrays, kernels: Arrays, dtype: Any) -> Array:
    kernel = jnp.concatenate([pair_kernel(kernel) for kernel in kernels], axis=-2)
    return convolve(jnp.concatenate(inputs, axis=-1), kernel, dtype)


def _in_columns(inputs: Arrays, kernels: Arrays, dtype: Any) -> Array:
    x = jnp.concatenate([from_pairs(x) for x in inputs], axis=-1)
    return to_pairs(convolve(x, jnp.concatenate(kernels, axis=-2), dtype))


def convolve_pairs(
    inputs: tuple[Float[Array, "b h w _"], ...],
    kernels: tuple[Float[Array, "k k _ f"], ...],
    dtype: Any,
) -> Float[Array, "b h w 2*f"]:
    """Returns the convolution of maps in pairs of columns, of stride 1, that keeps the size.

    Platforms other than TPUs convolve the columns as they are.

    Args:
      inputs: in pairs.
      kernels: of plain maps, one for each of the inputs; what they give is added up.
      dtype: what to compute in.
    """
    return jax.lax.platform_dependent(
        inputs,
        kernels,
        tpu=functools.partial(_in_pairs, dtype=dtype),
        default=functools.partial(_in_columns, dtype=dtype),
    )


def columns_before(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Returns the column to the left of each, in pairs; 0 to the left of the first."""
    return jax.lax.platform_dependent(x, tpu=_before_by_product, default=_before)


def columns_before_gradient(gradient: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Returns the gradient of `columns_before`: the column to the right of each."""
    pulled: tuple[Array] = jax.linear_transpose(columns_before, gradient)(gradient)
    return pulled[0]


def _before(x: jax.Array) -> jax.Array:
    columns = jnp.pad(from_pairs(x), ((0, 0), (0, 0), (1, 0), (0, 0)))[:, :, :-1]
    return jnp.asarray(to_pairs(columns))


# A TPU moves numbers between lanes slowly, other than in a product.


def _before_by_product(x: jax.Array) -> jax.Array:
    left, right = np.split(np.eye(x.shape[-1]), 2)
    # From the pair before comes its right column, from the same one its left column.
    none = np.zeros_like(left)
    taps = np.concatenate([none, left]), np.concatenate([right, none])
    return _product(x, np.stack(taps)[None], before=1)


def _product(x: jax.Array, kernel: np.ndarray, before: int = 0) -> jax.Array:
    """Returns the exact convolution by zeros and ones, `before` columns of zeros padded."""
    return jax.lax.conv_general_dilated(
        x,
        jnp.asarray(kernel, x.dtype),
        (1, 1),
        ((0, 0), (before, 0)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
