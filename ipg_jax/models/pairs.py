"""Feature maps of few channels, held as pairs of columns.

64 channels fill half of a TPU's 128 lanes, in memory too. A map `[b, h, w, c]` in pairs is
`[b, h, w / 2, 2 c]`, whose channels run over the columns of a pair, then features: the same numbers
in the same order. A convolution between such maps has a kernel with zeros where a column does not
look at another one, which costs a TPU nothing: those lanes were empty.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
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


def swap_columns(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """Returns pairs of columns whose left and right are exchanged."""
    return _moved(x, _swap)


def second_half(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c//2"]:
    """Returns the second half of the channels, of pairs of columns the right ones."""
    return _moved(x, _last)


def _swap(x: jax.Array) -> jax.Array:
    return jnp.concatenate(jnp.split(x, 2, axis=-1)[::-1], axis=-1)


def _last(x: jax.Array) -> jax.Array:
    return jnp.split(x, 2, axis=-1)[1]


def _moved(x: Array, move: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """Returns `move(x)`, which takes each of its channels from one of those of `x`."""
    by_product = functools.partial(_moved_by_product, move=move)
    return jax.lax.platform_dependent(x, tpu=by_product, default=move)


def _moved_by_product(x: jax.Array, move: Callable[[jax.Array], jax.Array]) -> jax.Array:
    # A TPU moves numbers between lanes slowly.
    return jax.lax.conv_general_dilated(
        x,
        move(jnp.eye(x.shape[-1], dtype=x.dtype))[None, None],
        (1, 1),
        "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
