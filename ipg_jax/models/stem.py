"""The first layers of a network that looks at images: a 7x7 convolution of stride 2 and a max-pool.

Three channels, or 64, fill a small part of a TPU's 128 lanes. Here both layers work on blocks of
pixels: 4x4 pixels of the image, with 48 channels, become 2x2 pixels of the convolution's output,
with 4 x 64 channels, and these one pixel of the pooled output. Values and parameters are those of
the plain layers (torch's explicit padding); the taps by which the wider kernel exceeds the 7x7 are
zeros.
"""

from __future__ import annotations

import functools
from typing import Any, Literal

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

    @nn.compact
    def __call__(self, image: Float[Array, "b _ _ _"]) -> Float[Array, "b _ _ 4*{self.features}"]:
        """Returns blocks of output pixels, `[b, h / 4, w / 4, 4 * features]`.

        The channels of a block run over its columns, its rows, then features.

        Args:
          image: normalised, `[b, h, w, 3]`, height and width divisible by 4; or in blocks of 4x4
            pixels, `[b, h / 4, w / 4, 48]` (`ops.to_blocks`).

        Raises:
          ValueError: the image does not divide into blocks.
        """
        blocks = to_blocks(image, IMAGE_BLOCK) if image.shape[-1] == 3 else image
        kernel = self.param("kernel", kaiming_normal, (7, 7, 3, self.features), self.param_dtype)
        return convolve(blocks, block_kernel(kernel), self.dtype)


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


def norm_blocks(norm: Any, x: Float[Array, "b h w d"]) -> Float[Array, "b h w d"]:
    """Returns blocks of 2x2 pixels after a norm layer whose channels are those of the pixels."""
    return norm(x.reshape(*x.shape[:3], 4, -1)).reshape(x.shape)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def max_pool_blocks(x: Float[Array, "b h w _"], window: Literal[2, 3]) -> Float[Array, "b h w _"]:
    """Returns the maxima `[b, h, w, c]` of windows of stride 2, of blocks of 2x2 pixels.

    Among equal values the first in the window, by row and column, gets the gradient, which needs no
    scatter: first rows are pooled, and then columns. Forward mode goes through the gradient (`jvp`
    of `grad`) and not through the pooling itself.

    Args:
      x: channels run over the columns of a block, its rows, then the `c` features.
      window: side of the windows; with 3, one row and one column of minus infinity lie before the
        image, as in torch with a padding of 1.
    """
    return _pool(x, window)[0]


def _pool(x: Array, window: int) -> tuple[Array, tuple[Array, Array]]:
    x, column = _largest(x, 2, window)
    x, row = _largest(x, 1, window)
    return x, (column, row)


def _pool_gradient(window: int, chosen: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    column, row = chosen
    return (_to_largest(_to_largest(gradient, row, 1, window), column, 2, window),)


max_pool_blocks.defvjp(_pool, _pool_gradient)

_BEFORE, _EVEN, _ODD = range(3)
"""Places in a window: the odd pixel of the block before, and the two of the block itself."""


def _largest(x: Array, axis: int, window: int) -> tuple[Array, Int8[Array, "b h w c"]]:
    """Returns the maxima along one axis of the image, and where in the window they were."""
    half, size = x.shape[-1] // 2, x.shape[axis]
    if window == 3:  # padded before it is cut, which XLA:TPU fuses
        x = _pad(x, axis, (1, 0), -jnp.inf)
    here = jax.lax.slice_in_dim(x, window - 2, None, axis=axis)
    even, odd = here[..., :half], here[..., half:]
    largest = jnp.maximum(even, odd)
    place = jnp.where(even == largest, jnp.int8(_EVEN), jnp.int8(_ODD))
    if window == 3:
        before = jax.lax.slice_in_dim(x, 0, size, axis=axis)[..., half:]
        place = jnp.where(before >= largest, jnp.int8(_BEFORE), place)
        largest = jnp.maximum(before, largest)
    return largest, place


def _to_largest(gradient: Array, place: Array, axis: int, window: int) -> Array:
    """Returns the gradient of what `_largest` got along `axis`."""
    zero = jnp.zeros((), gradient.dtype)
    even = jnp.where(place == _EVEN, gradient, zero)
    odd = jnp.where(place == _ODD, gradient, zero)
    if window == 3:
        gradient, place = (
            _pad(x, axis, (-1, 1), fill) for x, fill in ((gradient, 0), (place, _ODD))
        )
        odd += jnp.where(place == _BEFORE, gradient, zero)
    return jnp.concatenate([even, odd], axis=-1)


def _pad(x: Array, axis: int, by: tuple[int, int], fill: int | float) -> Array:
    """Returns `x` with rows of `fill` before and behind; a negative number takes some away."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (*by, 0)
    return jax.lax.pad(x, jnp.asarray(fill, x.dtype), config)
