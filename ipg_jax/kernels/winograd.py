"""3x3 convolutions of stride 1 with fewer multiplications, for CPUs.

F(2x2, 3x3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2015): a tile of
4x4 inputs gives 2x2 outputs by 16 multiplications for each pair of channels, where the definition
takes 36, and each of the 16 is a matrix product over all tiles. Its constants are 1 and 1/2, so
that in float32 results differ from other orders of summation by rounding alone.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.types import Array

Padding: TypeAlias = tuple[tuple[int, int], tuple[int, int]]

_CACHED = 2**20
"""Elements of a map beyond which images are taken one by one: their tiles leave the cache."""


def pays(x: Float[Array, "b h w c"], kernel: Float[Array, "kh kw _ f"]) -> bool:
    """Returns whether `convolve_3x3` takes such arrays, and less time for them than others.

    Products of fewer tiles, or of few channels, are not what takes the time.
    """
    floats = x.dtype == kernel.dtype == jnp.float32
    b, h, w, _ = x.shape
    return (
        floats and kernel.shape[:2] == (3, 3) and min(kernel.shape[2:]) >= 64 and b * h * w >= 400
    )


@functools.partial(jax.jit, static_argnames=("padding", "transposed", "precision"))
def convolve_3x3(
    x: Float[Array, "b h w _"],
    kernel: Float[Array, "3 3 c f"],
    padding: Padding,
    *,
    transposed: bool = False,
    precision: Any = None,
) -> Float[Array, "b _ _ _"]:
    """Returns the convolution of stride 1.

    Args:
      x: of `c` channels.
      kernel: with what to convolve.
      padding: `((top, bottom), (left, right))`, not negative.
      transposed: take `x` of `f` channels to `c`, with the taps reversed: the gradient of the
        convolution by its input, which has two less the padding.
      precision: of the matrix products.
    """
    if x.size > _CACHED and x.shape[0] > 1:
        each = jax.lax.map(
            lambda x: convolve_3x3(
                x[None], kernel, padding, transposed=transposed, precision=precision
            ),
            x,
        )
        return each[:, 0]
    kernels = [_transform_kernel(row) for row in _transform_kernel(kernel)]
    if transposed:
        kernels = [_reverse(row) for row in _reverse(kernels)]
    # Both sides are even: the last row and column of the outputs may be of no use.
    height, width = (
        size + sum(sides) - 2 for size, sides in zip(x.shape[1:3], padding, strict=True)
    )
    rows, columns = (
        (before, behind + size % 2)
        for size, (before, behind) in zip((height, width), padding, strict=True)
    )
    x = jnp.pad(x, ((0, 0), rows, columns, (0, 0)))
    products = [
        [
            jnp.einsum(
                "bhwf,cf->bhwc" if transposed else "bhwc,cf->bhwf", *both, precision=precision
            )
            for both in zip(_transform_input(tiles, axis=2), row, strict=True)
        ]
        for tiles, row in zip(_transform_input(x, axis=1), kernels, strict=True)
    ]
    # Rows first: each column of products gives two rows of outputs.
    halves = zip(
        *(_transform_output(column) for column in zip(*products, strict=True)), strict=True
    )
    y = jnp.stack([jnp.stack(_transform_output(half), axis=3) for half in halves], axis=2)
    b, h, _, w, _, channels = y.shape
    return y.reshape(b, 2 * h, 2 * w, channels)[:, :height, :width]


def _transform_input(x: Array, *, axis: int) -> list[Array]:
    """Returns the input transform `B^T d` along an axis, of tiles that overlap by two."""
    tiles = x.shape[axis] // 2 - 1
    a, b, c, d = (
        jax.lax.slice_in_dim(x, first, first + 2 * tiles - 1, stride=2, axis=axis)
        for first in range(4)
    )
    return [a - c, b + c, c - b, b - d]


def _transform_kernel(taps: Array) -> list[Array]:
    """Returns the kernel transform `G g` along the first axis."""
    a, b, c = taps
    return [a, (a + b + c) / 2, (a - b + c) / 2, c]


def _reverse(values: Sequence[Any]) -> list[Any]:
    """Returns what `_transform_kernel` gives for the taps in the other order."""
    a, b, c, d = values
    return [d, b, c, a]


def _transform_output(products: Sequence[Array]) -> list[Array]:
    """Returns the output transform `A^T m` along an axis."""
    a, b, c, d = products
    return [a + b + c, b - c - d]
