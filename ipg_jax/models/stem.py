"""The first layers of a network that looks at images: a 7x7 convolution of stride 2 and a max-pool.

Three channels, or 64, fill a small part of a TPU's 128 lanes. Here both layers work on blocks of
pixels: 4x4 pixels of the image, with 48 channels, or two such blocks side by side, become 2x2 or
2x4 pixels of the convolution's output, with 64 channels each, and these one or two pixels of the
pooled output. Values and parameters are those of the plain layers (torch's explicit padding); the
taps by which the wider kernel exceeds the 7x7 are zeros.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int8

from ipg_jax.models.convolution import convolve
from ipg_jax.models.norm import norm_blocks
from ipg_jax.models.pairs import (
    columns_before,
    columns_before_gradient,
    to_pairs,
)
from ipg_jax.models.relu import relu
from ipg_jax.models.resnet import kaiming_normal
from ipg_jax.ops import from_blocks, to_blocks
from ipg_jax.types import Array

IMAGE_BLOCK = 4
"""Side in pixels of the blocks of an image that the stem reads."""


class StemConv(nn.Module):
    """A 7x7 convolution of stride 2 and padding 3, from an image to halves of blocks of its output.

    The image is normalised, `[b, h, w, 3]`, with a height and width divisible by 4 (else a
    `ValueError`); or in blocks of 4x4 pixels, `[b, h / 4, w / 4, 48]` (`ops.to_blocks`).

    Attributes:
      features: output channels.
    """

    features: int = 64
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def columns(
        self,
        image: Float[Array, "b _ _ _"],
    ) -> list[Float[Array, "b h w d"]]:
        """Returns the left and the right columns of blocks of 2x2 output pixels.

        Each is `[b, h / 4, w / 4, 2 * features]`, whose channels run over the rows of the block,
        then features.
        """
        halves = [[(row, column) for row in range(2)] for column in range(2)]
        return _pixels(_in_blocks(image), self.kernel(), halves, dtype=self.dtype)

    def rows(
        self,
        image: Float[Array, "b _ _ _"],
    ) -> list[Float[Array, "b h w d"]]:
        """Returns the upper and the lower rows of blocks of 2x4 output pixels.

        Each is `[b, h / 4, w / 8, 4 * features]`, whose channels run over the columns 0, 2, 1, 3 of
        the block, then features. The image's width is a multiple of 8.
        """
        tpu, others = (
            functools.partial(form, dtype=self.dtype) for form in (_rows_of_pairs, _rows_of_blocks)
        )
        blocks, kernel = _in_blocks(image), self.kernel()
        return jax.lax.platform_dependent(blocks, kernel, tpu=tpu, default=others)

    @nn.compact
    def kernel(self) -> Float[Array, "7 7 3 {self.features}"]:
        """Returns the plain convolution's kernel."""
        return self.param("kernel", kaiming_normal, (7, 7, 3, self.features), self.param_dtype)


def _pixels(
    blocks: Array,
    kernel: Array,
    parts: Sequence[Sequence[tuple[int, int]]],
    *,
    dtype: Any,
    paired: bool = False,
) -> list[Array]:
    """Returns those pixels of each block of outputs, by a convolution for each of the parts."""
    pixels, features = list(itertools.chain(*parts)), kernel.shape[-1]
    whole = block_kernel(kernel.astype(dtype), pixels, paired=paired)
    outputs, start = [], 0
    for part in parts:
        # Of the blocks around its pixels, each leaves out those that it does not look at.
        height, width = _taps(part, paired=paired)
        end = start + len(part) * features
        own = whole[:height, :width, :, start:end]
        outputs.append(convolve(blocks, own, dtype, padding=((1, height - 2), (1, width - 2))))
        start = end
    return outputs


def _rows_of_pairs(blocks: Array, kernel: Array, *, dtype: Any) -> list[Array]:
    """`StemConv.rows` from pairs of blocks, which fill a TPU's lanes."""
    halves = [[(row, column) for column in (0, 2, 1, 3)] for row in range(2)]
    return _pixels(to_pairs(blocks), kernel, halves, dtype=dtype, paired=True)


def _rows_of_blocks(blocks: Array, kernel: Array, *, dtype: Any) -> list[Array]:
    """`StemConv.rows` from single blocks, in half of the operations."""
    halves = [[(row, column) for column in range(2)] for row in range(2)]

    def in_pairs(x: Array) -> Array:
        b, h, w, channels = x.shape
        x = to_pairs(x).reshape(b, h, w // 2, 2, -1, 2, kernel.shape[-1])
        # From each block's rows and columns to rows of the first columns, and of the second ones.
        return x.transpose(0, 1, 2, 4, 5, 3, 6).reshape(b, h, w // 2, 2 * channels)

    return [in_pairs(x) for x in _pixels(blocks, kernel, halves, dtype=dtype)]


def norm_halves(
    norm: Callable[..., Array], halves: Sequence[Array], features: int
) -> list[Float[Array, "b h w d"]]:
    """Returns both halves of blocks of output pixels after a norm of their features.

    Args:
      norm: whose channels are the features of a pixel. Statistics are those of both halves.
      halves: of `StemConv.columns` or `StemConv.rows`.
      features: of a pixel.
    """
    both = jnp.concatenate(halves, axis=-1)
    return list(jnp.split(norm_blocks(norm, both, features), 2, axis=-1))


def has_pairs_of_blocks(image: Float[Array, "b h w c"]) -> bool:
    """Returns whether `StemConv.rows` takes an image of this width, or in blocks of this width."""
    return image.shape[2] % (2 * IMAGE_BLOCK if image.shape[-1] == 3 else 2) == 0


def in_pixels(image: Float[Array, "b _ _ _"]) -> Float[Array, "b h w 3"]:
    """Returns an image that may be in blocks as pixels, for plain layers."""
    return from_blocks(_in_blocks(image), IMAGE_BLOCK)


def _in_blocks(image: Array) -> Array:
    return to_blocks(image, IMAGE_BLOCK) if image.shape[-1] == 3 else image


def block_kernel(
    kernel: Float[Array, "7 7 c f"], outputs: Sequence[tuple[int, int]], *, paired: bool = False
) -> Float[Array, "_ _ _ _"]:
    """Returns the kernel from blocks of 4x4 input pixels to some output pixels of a block.

    Its taps are the block above (and to the left), the block itself, and the block below (and to
    the right) if an output looks at it.

    Args:
      kernel: of the plain convolution.
      outputs: row and column of each in the block of outputs.
      paired: whether blocks are pairs of blocks, of 4x8 input pixels.
    """
    rows, columns = _block_shape(paired=paired)
    height, width = _taps(outputs, paired=paired)
    channels, features = kernel.shape[2:]
    taps = kernel.reshape(7, 7 * channels, features)

    def window(i: int, j: int) -> Array:
        above, left = rows - 3 + 2 * i, columns - 3 + 2 * j
        below, right = height * rows - 7 - above, width * columns - 7 - left
        return jnp.pad(taps, ((above, below), (left * channels, right * channels), (0, 0)))

    windows = jnp.concatenate([window(i, j) for i, j in outputs], axis=-1)
    windows = windows.reshape(height, rows, -1, IMAGE_BLOCK * channels, windows.shape[-1])
    return windows.swapaxes(1, 2).reshape(height, width, -1, windows.shape[-1])


def _block_shape(*, paired: bool) -> tuple[int, int]:
    """Returns rows and columns of a block, or of a pair of blocks, in pixels of the image."""
    return IMAGE_BLOCK, IMAGE_BLOCK * (1 + paired)


def _taps(outputs: Sequence[tuple[int, int]], *, paired: bool) -> tuple[int, int]:
    """Returns height and width of the kernel of `block_kernel`, in blocks."""
    # The output in row i of the block has its 7 taps from 2 i - 3 on.
    height, width = (
        2 + (2 * max(places) + 3 >= side)
        for places, side in zip(
            zip(*outputs, strict=True), _block_shape(paired=paired), strict=True
        )
    )
    return height, width


@jax.custom_vjp
def relu_max_pool_2x2(
    left: Float[Array, "b h w _"], right: Float[Array, "b h w _"]
) -> Float[Array, "b h w c"]:
    """Returns the maxima of blocks of 2x2 pixels after a ReLU.

    Among equal values the first in the window, by row and column, gets the gradient, which needs no
    scatter, and none does where the maximum is 0; so in `relu_max_pool_3x3`. Forward mode goes
    through the gradients (`jvp` of `grad`) and not through the pooling itself.

    Args:
      left: columns of the blocks, whose channels run over the rows, then the `c` features.
      right: the columns to the right of those.
    """
    return _pool_2x2_forward(left, right)[0]


def _pool_2x2_forward(left: Array, right: Array) -> tuple[Array, tuple[Array, Array]]:
    x, column = _larger(left, right)
    x, row = _larger(*jnp.split(x, 2, axis=-1))
    y = relu(x)
    return y, (column, jnp.where(y != 0, row, jnp.int8(_NOWHERE)))


def _pool_2x2_gradient(places: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    column, row = places
    return _to_larger(jnp.concatenate(_to_larger(gradient, row), axis=-1), column)


relu_max_pool_2x2.defvjp(_pool_2x2_forward, _pool_2x2_gradient)


@jax.custom_vjp
def relu_max_pool_3x3(
    upper: Float[Array, "b h w d"], lower: Float[Array, "b h w d"]
) -> Float[Array, "b h w d//2"]:
    """Returns the maxima after a ReLU of windows of 3x3 and stride 2, in pairs of columns.

    They are `[b, h, w, 2 c]`. The windows reach one row and one column beyond the image, as in
    torch with a padding of 1. First rows are pooled, and then columns.

    Args:
      upper: rows of blocks of 2x4 pixels, whose channels run over the columns 0, 2, 1, 3, then the
        `c` features.
      lower: the rows below those.
    """
    return _pool_3x3(upper, lower)[0]


def _pool_3x3(upper: Array, lower: Array) -> tuple[Array, tuple[Array, Array]]:
    before = _shifted(lower)
    row = _first_place(_is_maximum(before, jnp.maximum(upper, lower)), _is_maximum(upper, lower))
    x = jnp.where(row == _BEFORE, before, jnp.where(row == _EVEN, upper, lower))
    even, odd = jnp.split(x, 2, axis=-1)  # columns 0 and 2, 1 and 3
    before = columns_before(odd)
    y = relu(jnp.maximum(before, jnp.maximum(even, odd)))
    # Of equal columns the one whose maximum is in the earliest row goes first.
    row_even, row_odd = jnp.split(row, 2, axis=-1)
    row_before = columns_before(row_odd.astype(x.dtype)).astype(row.dtype)

    def wins(a: Array, row_a: Array, b: Array, row_b: Array) -> Array:
        return (a > b) | ((a == b) & (row_a <= row_b))

    column = _first_place(
        wins(before, row_before, even, row_even) & wins(before, row_before, odd, row_odd),
        wins(even, row_even, odd, row_odd),
    )
    return y, (row, jnp.where(y != 0, column, jnp.int8(_NOWHERE)))


def _pool_3x3_gradient(saved: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    row, column = saved
    before, even, odd = (_where(column, place, gradient) for place in (_BEFORE, _EVEN, _ODD))
    odd += columns_before_gradient(before)
    gradient = jnp.concatenate([even, odd], axis=-1)
    before, upper, lower = (_where(row, place, gradient) for place in (_BEFORE, _EVEN, _ODD))
    return upper, lower + _shifted_back(before)


relu_max_pool_3x3.defvjp(_pool_3x3, _pool_3x3_gradient)

_BEFORE, _EVEN, _ODD, _NOWHERE = range(4)
"""Places in a window: the odd pixel before, the two of the block itself, and none."""


def _is_maximum(a: Array, b: Array) -> Bool[Array, "b h w c"]:
    """Returns whether `a` is the maximum of both; a number that is none (NaN) is one.

    A comparison with the maximum itself would be wrong where XLA makes `a` twice, once for each:
    with other roundings it is not equal to what it is.
    """
    return (a >= b) | jnp.isnan(a)


def _larger(even: Array, odd: Array) -> tuple[Array, Int8[Array, "b h w c"]]:
    """Returns the maxima of both, and where they were."""
    first = _is_maximum(even, odd)
    return jnp.where(first, even, odd), jnp.where(first, jnp.int8(_EVEN), jnp.int8(_ODD))


def _to_larger(gradient: Array, place: Array) -> tuple[Array, Array]:
    """Returns the gradients of what `_larger` got."""
    return _where(place, _EVEN, gradient), _where(place, _ODD, gradient)


def _first_place(before: Array, even: Array) -> Int8[Array, "b h w c"]:
    """Returns the place of the maximum: that before, or else the even one, or else the odd one."""
    return jnp.where(before, jnp.int8(_BEFORE), jnp.where(even, jnp.int8(_EVEN), jnp.int8(_ODD)))


def _where(place: Array, wanted: int, gradient: Array) -> Array:
    return jnp.where(place == wanted, gradient, jnp.zeros((), gradient.dtype))


def _shifted(x: Array) -> Array:
    """Returns the row before each, and 0 before the first."""
    # Padded before it is cut, which XLA:TPU fuses.
    return _pad_rows(x, (1, 0))[:, : x.shape[1]]


def _shifted_back(x: Array) -> Array:
    """Returns the gradient of what `_shifted` got."""
    return _pad_rows(x, (-1, 1))


def _pad_rows(x: Array, by: tuple[int, int]) -> Array:
    """Returns `x` with rows of zeros before and behind; a negative number takes some away."""
    config = [(0, 0, 0)] * x.ndim
    config[1] = (*by, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)
