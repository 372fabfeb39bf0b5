"""Image pyramids in NumPy, to the bit as the tf.data pipelines build them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int32, Int64, UInt8

from ipg_jax.images.geometry import make_geometry, pixels_per_original
from ipg_jax.types import Size


def prepare_image(
    image: UInt8[np.ndarray, "h w 3"],
    *,
    image_size: Size,
    levels: int,
    pad_multiple: int = 0,
    tile: Size | None = None,
) -> tuple[
    tuple[UInt8[np.ndarray, "_ _ 3"], ...], Int32[np.ndarray, " 2"], Float32[np.ndarray, " 2"]
]:
    """Prepares one image for a detector.

    Args:
      image: RGB.
      image_size: limits of the (short, long) side of the resized image.
      levels: number of levels of the pyramid.
      pad_multiple: see `make_geometry`.
      tile: height and width of a whole tile, where the image is a tile of a larger one.

    Returns:
      `pyramid`, `image_size` and `scale` as in `Batch`, without the batch axis.

    Raises:
      ValueError: the sizes contradict each other, or the image is larger than a tile.
    """
    geometry = make_geometry(image_size, levels, pad_multiple, tile=tile)
    size = (image.shape[0], image.shape[1])
    if tile is not None and (size[0] > tile[0] or size[1] > tile[1]):
        raise ValueError(f"the image of {size} (height, width) is larger than the tile of {tile}")
    resized = geometry.resized(size)
    canvas = geometry.canvases[int(geometry.buckets(np.array([size]))[0])]
    return (
        padded_pyramid(image, resized, canvas, levels),
        np.array(resized, np.int32),
        pixels_per_original(size, resized),
    )


def padded_pyramid(
    image: UInt8[np.ndarray, "h w 3"], size: Size, canvas: Size, levels: int
) -> tuple[UInt8[np.ndarray, "_ _ 3"], ...]:
    """Resizes an image, builds its pyramid and pads every level with zeros.

    Bilinear interpolation at half-pixel centres, without antialiasing, as in torchvision's
    detectors. Every level is the 2x2 mean of the one above. Where the content has an odd side, its
    last row or column is averaged with itself, hence level `i` has `ceil(h / 2^i)` rows of content.
    Both steps round half up to uint8.

    Args:
      image: RGB.
      size: height and width to resize to.
      canvas: height and width to pad to, multiples of `2^(levels - 1)`.
      levels: number of levels.

    Returns:
      Level `i` is uint8 `[H / 2^i, W / 2^i, 3]` with `canvas = (H, W)`.
    """
    content = resize_bilinear(image, size)
    pyramid = []
    for level in range(levels):
        if level:
            content = _halved(content)
        height, width = (side >> level for side in canvas)
        padding = [(0, height - content.shape[0]), (0, width - content.shape[1]), (0, 0)]
        pyramid.append(np.pad(content, padding))
    return tuple(pyramid)


def resize_bilinear(image: UInt8[np.ndarray, "h w 3"], size: Size) -> UInt8[np.ndarray, "_ _ 3"]:
    """Resizes an image, by the rule of `padded_pyramid`."""
    if image.shape[:2] == size:
        return image
    top, bottom, down = _neighbours(image.shape[0], size[0])
    left, right, across = _neighbours(image.shape[1], size[1])
    pixels = image.astype(np.float32)
    # In this order and in float32, as TensorFlow's kernel does it.
    rows = pixels[:, left]
    rows += (pixels[:, right] - rows) * across[:, None]
    resized = rows[top]
    resized += (rows[bottom] - resized) * down[:, None, None]
    return np.floor(resized + np.float32(0.5)).astype(np.uint8)


def _neighbours(
    before: int, after: int
) -> tuple[Int64[np.ndarray, " n"], Int64[np.ndarray, " n"], Float32[np.ndarray, " n"]]:
    """For each pixel along a side: the two to interpolate between, and how far it is beyond one."""
    scale = np.float32(before) / np.float32(after)
    half = np.float32(0.5)
    centre = (np.arange(after, dtype=np.float32) + half) * scale - half
    first = np.floor(centre)
    second = np.minimum(np.ceil(centre), before - 1)
    return (
        np.maximum(first, 0).astype(np.int64),
        second.astype(np.int64),
        (centre - first).astype(np.float32),
    )


def _halved(image: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "_ _ 3"]:
    """The 2x2 mean, rounded half up; an odd last row or column is averaged with itself."""
    odd_rows, odd_columns = image.shape[0] % 2, image.shape[1] % 2
    x = np.pad(image, [(0, odd_rows), (0, odd_columns), (0, 0)], mode="edge").astype(np.uint16)
    total = x[::2, ::2] + x[1::2, ::2] + x[::2, 1::2] + x[1::2, 1::2]
    return ((total + 2) // 4).astype(np.uint8)
