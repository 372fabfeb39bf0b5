"""Image pyramids: building them and turning them into the network's input.

Each level is the 2x2 mean of the one above, which is bilinear interpolation by 1/2 at half-pixel
centres (IPG-Net, sections 3.3 and 4.1).
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Float, Int, UInt8

from ipg_jax.types import IMAGE_BLOCK, Array, PackedImage, PackedPyramid, Pyramid


def image_pyramid(
    image: UInt8[Array, "*b h w c"] | Float[Array, "*b h w c"],
    levels: int,
    image_size: Int[Array, "*b 2"] | None = None,
) -> tuple[Array, ...]:
    """The image and its successive halvings.

    Args:
      image: one image, or a batch; uint8 or floating.
      levels: number of levels, the image being the first.
      image_size: (height, width) of each image's content, the rest being padding that is to enter
        no pixel of the content: where a side of the content is odd, its last row or column is
        averaged with itself, as in `images.padded_pyramid`. By default there is no padding.

    Returns:
      `levels` arrays of the image's type, level `i` of size `h / 2^i` by `w / 2^i`. Floating
      levels are exact means, uint8 levels are means rounded to nearest, halves up.

    Raises:
      ValueError: `levels` is not positive, or height or width is not a multiple of
        `2^(levels - 1)`.
    """
    height, width = image.shape[-3:-1]
    if levels < 1:
        raise ValueError(f"A pyramid has at least one level, got levels={levels}.")
    if height % 2 ** (levels - 1) or width % 2 ** (levels - 1):
        raise ValueError(
            f"Height and width must be multiples of {2 ** (levels - 1)} for {levels} levels, "
            f"got {height} x {width}."
        )
    pyramid = [jnp.asarray(image)]
    for _ in range(levels - 1):
        fine = pyramid[-1]
        if image_size is not None:
            fine = _repeat_edges(fine, image_size)
            image_size = -(-image_size // 2)
        pyramid.append(_halve(fine))
    return tuple(pyramid)


def normalize_pyramid(
    pyramid: Pyramid | PackedPyramid,
    image_size: Int[Array, "b 2"],
    mean: Sequence[float],
    std: Sequence[float],
    dtype: DTypeLike = jnp.float32,
) -> Pyramid | PackedPyramid:
    """A batch of pyramids as the network takes it: `(x / 255 - mean) / std`, and 0 in the padding.

    Zero is the padding of every convolution, so an image's features do not depend on how far its
    batch is padded, save for rounding. At level `i` the content is `ceil(size / 2^i)` pixels.

    Args:
      pyramid: levels of a batch of pyramids, uint8, plain or packed.
      image_size: (height, width) of each image's content in level 0.
      mean: of each channel, in units of [0, 1].
      std: of each channel, in units of [0, 1].
      dtype: type of the result; the arithmetic is float32.

    Returns:
      The levels, normalised, plain or packed as they were.
    """

    def normalize(image: Array, content: Array, side: int) -> jax.Array:
        # The channels are those of `side` x `side` pixels.
        row, column, _ = np.indices((side, side, len(mean)), np.int32).reshape(3, -1)
        mean_, std_ = (np.tile(np.asarray(x, np.float32), side**2) for x in (mean, std))
        normalized = (jnp.asarray(image, jnp.float32) / 255 - mean_) / std_
        height, width = image.shape[1:3]
        rows = side * jnp.arange(height, dtype=jnp.int32)[:, None] + row < content[:, :1, None]
        columns = side * jnp.arange(width, dtype=jnp.int32)[:, None] + column < content[:, 1:, None]
        inside = rows[:, :, None] & columns[:, None]
        return jnp.where(inside, normalized, 0).astype(dtype)

    def level(image: Array | PackedImage, content: Array) -> jax.Array | PackedImage:
        if isinstance(image, PackedImage):
            return PackedImage(normalize(image.blocks, content, IMAGE_BLOCK))
        return normalize(image, content, 1)

    levels: Any = (level(image, -(-image_size // 2**i)) for i, image in enumerate(pyramid))
    return tuple(levels)


def _repeat_edges(image: jax.Array, size: Array) -> jax.Array:
    """The images with the last row and column of their content once more behind it."""
    height, width = image.shape[-3:-1]
    rows, columns = (size[..., i, None, None, None] for i in (0, 1))
    row = jnp.arange(height, dtype=size.dtype)[:, None, None]
    image = jnp.where(row == rows, jnp.roll(image, 1, axis=-3), image)
    column = jnp.arange(width, dtype=size.dtype)[:, None]
    return jnp.where(column == columns, jnp.roll(image, 1, axis=-2), image)


def _halve(image: jax.Array) -> jax.Array:
    *batch, height, width, channels = image.shape
    blocks = image.reshape(*batch, height // 2, 2, width // 2, 2, channels)
    if image.dtype == jnp.uint8:
        total = jnp.sum(blocks, axis=(-4, -2), dtype=jnp.uint16)
        return ((total + 2) // 4).astype(jnp.uint8)
    return jnp.mean(blocks, axis=(-4, -2))
