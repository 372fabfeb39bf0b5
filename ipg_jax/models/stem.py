"""The first layers of a network that looks at images: a 7x7 convolution of stride 2 and a max-pool.

Three channels, or 64, fill a small part of a TPU's 128 lanes. Here both layers work on blocks of
pixels: 4x4 pixels of the image, with 48 channels, become 2x2 pixels of the convolution's output,
with 4 x 64 channels, and these one pixel of the pooled output. Values and parameters are those of
the plain layers (torch's explicit padding); the taps by which the wider kernel exceeds the 7x7 are
zeros.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int8

from ipg_jax.models.convolution import convolve
from ipg_jax.models.resnet import kaiming_normal
from ipg_jax.ops import to_blocks
from ipg_jax.types import Array

IMAGE_BLOCK = 4
"""Side in pixels of the blocks of an image that the stem reads."""


class StemConv(nn.Module):
    """A 7x7 convolution of stride 2 and padding 3, from an image to blocks of 2x2 output pixels.

    Attributes:
      features: output channels.
    """

    features: int = 64
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, image: Float[Array, "b _ _ _"]) -> Float[Array, "b _ _ 4*{self.features}"]:
        """Returns blocks of output pixels, `[b, h / 4, w / 4, 4 * features]`.

        The channels of a block run over its columns, its rows, then features.

        Args:
          image: normalised, `[b, h, w, 3]`, height and width divisible by 4; or in blocks of 4x4
            pixels, `[b, h / 4, w / 4, 48]` (`ops.to_blocks`).

        Raises:
          ValueError: the image does not divide into blocks.
        """
        return self._parts(image, 1)[0]

    def columns(
        self, image: Float[Array, "b _ _ _"]
    ) -> tuple[Float[Array, "b h w d"], Float[Array, "b h w d"]]:
        """Returns the left and the right columns of those blocks, each by its own convolution."""
        left, right = self._parts(image, 2)
        return left, right

    @nn.compact
    def _parts(self, image: Array, number: int) -> list[Array]:
        blocks = to_blocks(image, IMAGE_BLOCK) if image.shape[-1] == 3 else image
        kernel = self.param("kernel", kaiming_normal, (7, 7, 3, self.features), self.param_dtype)
        parts = jnp.split(block_kernel(kernel), number, axis=-1)
        return [convolve(blocks, part, self.dtype) for part in parts]


def block_kernel(kernel: Float[Array, "7 7 c f"]) -> Float[Array, "3 3 16*c 4*f"]:
    """Returns the kernel from blocks of 4x4 input pixels to blocks of 2x2 output pixels."""
    # A block of outputs looks at the 12x12 pixels of 3x3 blocks. The output in row i of the block
    # has its 7 taps from row 2 i + 1 of those.
    columns = []
    for column in range(2):
        rows = []
        for row in range(2):
            above, left = 2 * row + 1, 2 * column + 1
            rows.append(jnp.pad(kernel, ((above, 5 - above), (left, 5 - left), (0, 0), (0, 0))))
        columns.append(jnp.stack(rows, axis=-2))
    window = jnp.stack(columns, axis=-3)  # 12 12 c column row f
    channels, features = kernel.shape[-2:]
    blocks = window.reshape(3, 4, 3, 4, channels, 4 * features).transpose(0, 2, 1, 3, 4, 5)
    return blocks.reshape(3, 3, 16 * channels, 4 * features)


def norm_blocks(norm: Any, x: Float[Array, "b h w d"], features: int) -> Float[Array, "b h w d"]:
    """Returns blocks of pixels after a norm layer whose channels are the features of each pixel."""
    return norm(x.reshape(*x.shape[:3], -1, features)).reshape(x.shape)


@jax.custom_vjp
def max_pool_2x2(
    left: Float[Array, "b h w _"], right: Float[Array, "b h w _"]
) -> Float[Array, "b h w _"]:
    """Returns the maxima `[b, h, w, c]` of blocks of 2x2 pixels.

    Among equal values the first in the window, by row and column, gets the gradient, which needs no
    scatter; so in `max_pool_3x3`. Forward mode goes through the gradients (`jvp` of `grad`) and not
    through the pooling itself.

    Args:
      left: columns of the blocks, whose channels run over the rows, then the `c` features.
      right: the columns to the right of those.
    """
    return _pool_2x2(left, right)[0]


def _pool_2x2(left: Array, right: Array) -> tuple[Array, tuple[Array, Array]]:
    x, column = _larger(left, right)
    x, row = _larger(*jnp.split(x, 2, axis=-1))
    return x, (column, row)


def _pool_2x2_gradient(chosen: tuple[Array, Array], gradient: Array) -> tuple[Array, Array]:
    column, row = chosen
    return _to_larger(jnp.concatenate(_to_larger(gradient, row), axis=-1), column)


max_pool_2x2.defvjp(_pool_2x2, _pool_2x2_gradient)


@jax.custom_vjp
def max_pool_3x3(x: Float[Array, "b h w _"]) -> Float[Array, "b h w _"]:
    """Returns the maxima `[b, h, w, c]` of windows of 3x3 and stride 2, of blocks of 2x2 pixels.

    One row and one column of minus infinity lie before the image, as in torch with a padding of 1.
    First columns are pooled, and then rows.

    Args:
      x: channels run over the columns of a block, its rows, then the `c` features.
    """
    return _pool_3x3(x)[0]


def _pool_3x3(x: Array) -> tuple[Array, tuple[Array, Array]]:
    x, column = _largest_of_3(x, 2)
    x, row = _largest_of_3(x, 1)
    return x, (column, row)


def _pool_3x3_gradient(chosen: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    column, row = chosen
    return (_to_largest_of_3(_to_largest_of_3(gradient, row, 1), column, 2),)


max_pool_3x3.defvjp(_pool_3x3, _pool_3x3_gradient)

_BEFORE, _EVEN, _ODD = range(3)
"""Places in a window: the odd pixel of the block before, and the two of the block itself."""


def _larger(even: Array, odd: Array) -> tuple[Array, Int8[Array, "b h w c"]]:
    """Returns the maxima of both, and where they were."""
    larger = jnp.maximum(even, odd)
    return larger, jnp.where(even == larger, jnp.int8(_EVEN), jnp.int8(_ODD))


def _to_larger(gradient: Array, place: Array) -> tuple[Array, Array]:
    """Returns the gradients of what `_larger` got."""
    zero = jnp.zeros((), gradient.dtype)
    return jnp.where(place == _EVEN, gradient, zero), jnp.where(place == _ODD, gradient, zero)


def _largest_of_3(x: Array, axis: int) -> tuple[Array, Int8[Array, "b h w c"]]:
    """Returns the maxima along one axis of the image, and where in the window they were."""
    half, size = x.shape[-1] // 2, x.shape[axis]
    x = _pad(x, axis, (1, 0), -jnp.inf)  # before it is cut, which XLA:TPU fuses
    here = jax.lax.slice_in_dim(x, 1, None, axis=axis)
    before = jax.lax.slice_in_dim(x, 0, size, axis=axis)[..., half:]
    larger, place = _larger(here[..., :half], here[..., half:])
    place = jnp.where(before >= larger, jnp.int8(_BEFORE), place)
    return jnp.maximum(before, larger), place


def _to_largest_of_3(gradient: Array, place: Array, axis: int) -> Array:
    """Returns the gradient of what `_largest_of_3` got."""
    even, odd = _to_larger(gradient, place)
    gradient, place = (_pad(x, axis, (-1, 1), fill) for x, fill in ((gradient, 0), (place, _ODD)))
    odd += jnp.where(place == _BEFORE, gradient, jnp.zeros((), gradient.dtype))
    return jnp.concatenate([even, odd], axis=-1)


def _pad(x: Array, axis: int, by: tuple[int, int], fill: int | float) -> Array:
    """Returns `x` with rows of `fill` before and behind; a negative number takes some away."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (*by, 0)
    return jax.lax.pad(x, jnp.asarray(fill, x.dtype), config)
