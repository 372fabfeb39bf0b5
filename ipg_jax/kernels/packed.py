"""Feature maps of few channels in packed columns: two neighbours side by side in the channels.

64 channels fill half of a TPU's 128 lanes, in memory too. A map `[b, h, w, c]` in packed columns is
`[b, h, w / 2, 2 c]`, whose channels run over the two columns, then features: the same values in the
same order. A kernel between such maps has zeros where a column does not look at another one, which
costs a TPU nothing: those lanes were empty.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ipg_jax.kernels.convolution import conv2d
from ipg_jax.kernels.dispatch import Implementation, dispatch
from ipg_jax.types import Array

LANES = 128
"""Channels that a TPU computes with at once."""


def pack_columns(x: Float[Array, "b h w c"]) -> Float[Array, "b h w//2 2*c"]:
    """Returns a map of an even width in packed columns."""
    b, h, w, c = x.shape
    return x.reshape(b, h, w // 2, 2 * c)


def unpack_columns(x: Float[Array, "b h w c"]) -> Float[Array, "b h 2*w c//2"]:
    """Returns the map of packed columns: the inverse of `pack_columns`."""
    b, h, w, c = x.shape
    return x.reshape(b, h, 2 * w, c // 2)


def packed_conv2d(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "k k _ f"],
    *,
    precision: Any = None,
    implementation: Implementation | None = None,
) -> Float[Array, "b h w 2*f"]:
    """Returns the convolution of a map in packed columns, of stride 1, that keeps the size.

    Args:
      x: in packed columns.
      kernel: of plain maps, of odd size.
      precision: of the products.
      implementation: see `kernels.dispatch`.
    """
    return dispatch(
        x,
        kernel,
        name="packed_conv2d",
        reference=functools.partial(_unpacked, precision=precision),
        fast=functools.partial(_packed, precision=precision),
        platforms=("tpu",),
        implementation=implementation,
    )


def _unpacked(x: Array, kernel: Array, *, precision: Any) -> Array:
    padding = kernel.shape[0] // 2
    return pack_columns(conv2d(unpack_columns(x), kernel, padding=padding, precision=precision))


def _packed(x: Array, kernel: Array, *, precision: Any) -> Array:
    kernel = pack_kernel(kernel)
    rows, columns = (size // 2 for size in kernel.shape[:2])
    return conv2d(x, kernel, padding=((rows, rows), (columns, columns)), precision=precision)


def pack_kernel(kernel: Float[Array, "k k c f"]) -> Float[Array, "k _ 2*c 2*f"]:
    """Returns the kernel between maps in packed columns, of a kernel of odd size."""
    height, size, channels, features = kernel.shape
    pairs = 1 + 2 * ((size + 1) // 4)  # that a pair of columns looks at
    first = pairs - 1 - size // 2  # of the columns of those that its left one looks at
    columns = [
        jnp.pad(kernel, ((0, 0), (first + i, 2 * pairs - size - first - i), (0, 0), (0, 0)))
        for i in range(2)
    ]
    packed = jnp.concatenate(columns, axis=-1)
    return packed.reshape(height, pairs, 2 * channels, 2 * features)


def shift_right(x: Float[jax.Array, "b h w c"]) -> Float[jax.Array, "b h w c"]:
    """Returns the column to the left of each, in packed columns; 0 to the left of the first.

    By a product: a TPU is slow at moving values between lanes otherwise.
    """
    left, right = np.split(np.eye(x.shape[-1]), 2)
    # From the pair before comes its right column, from the same one its left column.
    none = np.zeros_like(left)
    taps = np.stack([np.concatenate([none, left]), np.concatenate([right, none])])
    return jax.lax.conv_general_dilated(
        x,
        jnp.asarray(taps[None], x.dtype),
        (1, 1),
        ((0, 0), (1, 0)),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )
