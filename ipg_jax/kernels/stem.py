"""The convolution that reads the image.

Three channels, or 64, fill a small part of a TPU's 128 lanes. Of an image in blocks of 4x4 pixels
(`types.PackedImage`) the 7x7 convolution of stride 2 takes two blocks side by side, 96 channels, to
2x4 pixels of its output, whose two rows are arrays of their own: `types.PackedFeatures`. Values and
parameters are those of the plain layer; the taps by which the wider kernel exceeds it are zeros.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.kernels import packed
from ipg_jax.kernels.convolution import conv2d
from ipg_jax.kernels.dispatch import Implementation, chosen
from ipg_jax.types import Array, PackedFeatures, PackedImage

_COLUMNS = (0, 2, 1, 3)  # of a block of outputs: the even ones first, for the pooling


def stem_conv(
    image: Float[Array, "b h w 3"] | PackedImage,
    kernel: Float[Array, "k k 3 f"],
    *,
    strides: int,
    padding: int,
    precision: Any = None,
    implementation: Implementation | None = None,
) -> Float[Array, "b h2 w2 f"] | PackedFeatures:
    """Returns the convolution of an image, `conv2d(image, kernel, ...)`.

    The fast form is for packed images: that of 7x7, stride 2 and padding 3 has packed features,
    where the width is a multiple of 8; that of 4x4 and stride 4 is a product.

    Args:
      image: pixels, or an image in blocks of 4x4 of them.
      kernel: `[size, size, 3, features]`.
      strides: in both directions.
      padding: of all four sides.
      precision: of the products.
      implementation: see `kernels.dispatch`.
    """
    if isinstance(image, PackedImage):
        geometry = kernel.shape[0], strides, padding
        fast = chosen("stem_conv", implementation) != "reference"
        if fast and geometry == (7, 2, 3) and image.shape[2] % 8 == 0:
            return _in_blocks(image.blocks, kernel, precision)
        if fast and geometry == (4, 4, 0):
            return conv2d(
                image.blocks, kernel.reshape(1, 1, -1, kernel.shape[-1]), precision=precision
            )
        image = image.pixels
    return conv2d(
        image,
        kernel,
        strides=strides,
        padding=padding,
        precision=precision,
        implementation=implementation,
    )


def _in_blocks(blocks: Array, kernel: Array, precision: Any) -> PackedFeatures:
    blocks = packed.pack_columns(blocks)

    def row(row: int) -> Array:
        taps = block_kernel(kernel, row)
        below = taps.shape[0] - 2  # rows of blocks that it looks at below its own
        return conv2d(blocks, taps, padding=((1, below), (1, 1)), precision=precision)

    return PackedFeatures(row(0), row(1))


def block_kernel(kernel: Float[Array, "7 7 c f"], row: int) -> Float[Array, "_ 3 _ _"]:
    """Returns the kernel from blocks of 4x8 input pixels to a row of a block of 2x4 outputs.

    Its taps are the block above (and to the left), the block itself, and those to the right and,
    for the second row, below.
    """
    height = 2 + row  # in blocks: 7 rows of pixels from `2 row - 3` on, in blocks of 4
    channels, features = kernel.shape[2:]
    taps = kernel.reshape(7, 7 * channels, features)

    def window(column: int) -> jax.Array:
        above, left = 1 + 2 * row, 5 + 2 * column
        below, right = 4 * height - 7 - above, 8 * 3 - 7 - left
        return jnp.pad(taps, ((above, below), (left * channels, right * channels), (0, 0)))

    windows = jnp.concatenate([window(column) for column in _COLUMNS], axis=-1)
    # From rows of pixels, blocks and their columns to blocks side by side, each with its rows.
    windows = windows.reshape(height, 4, 6, 4 * channels, 4 * features)
    return windows.swapaxes(1, 2).reshape(height, 3, -1, 4 * features)
