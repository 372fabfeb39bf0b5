"""From an image of any size to a padded pyramid: boxes in NumPy, pixels in TensorFlow."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float32, Int32, UInt8

from ipg_jax.data.quiet_tensorflow import tf
from ipg_jax.data.sources.base import Objects
from ipg_jax.types import Size


def pad_objects(
    objects: Objects, max_boxes: int
) -> tuple[
    Float32[np.ndarray, "M 4"],
    Int32[np.ndarray, " M"],
    Bool[np.ndarray, " M"],
    Bool[np.ndarray, " M"],
]:
    """Boxes, labels, valid and ignore, with rows up to `max_boxes`; further objects are cut off."""
    count = min(len(objects.boxes), max_boxes)
    padding = (0, max_boxes - count)
    return (
        np.pad(objects.boxes[:count], (padding, (0, 0))),
        np.pad(objects.labels[:count], padding),
        np.arange(max_boxes) < count,
        np.pad(objects.ignore[:count], padding),
    )


def padded_pyramid(
    image: tf.Tensor, size: tf.Tensor, canvas: tf.Tensor, levels: int
) -> tuple[tf.Tensor, ...]:
    """Resizes an image, builds its pyramid and pads every level with zeros.

    Bilinear interpolation at half-pixel centres, without antialiasing, as in torchvision's
    detectors. Every level is the 2x2 mean of the one above. Where the content has an odd side, its
    last row or column is averaged with itself, hence level `i` has `ceil(h / 2^i)` rows of content.
    Both steps round half up to uint8.

    Args:
      image: uint8 `[h, w, 3]`.
      size: int32 `[2]`, height and width to resize to.
      canvas: int32 `[2]`, height and width to pad to, multiples of `2^(levels - 1)`.
      levels: number of levels.

    Returns:
      Level `i` is uint8 `[H / 2^i, W / 2^i, 3]` with `canvas = (H, W)`.
    """
    pixels = _resize(image, size)
    pyramid = []
    for level in range(levels):
        if level:
            # "SAME" averages over the pixels that exist: the odd row or column with itself. Sums
            # of four bytes are exact in float32.
            pixels = tf.nn.avg_pool2d(pixels, 2, 2, "SAME")
        pixels = tf.floor(pixels + 0.5)
        content = tf.cast(pixels[0], tf.uint8)
        missing = canvas // 2**level - tf.shape(content)[:2]
        padding = tf.pad(tf.stack([tf.zeros_like(missing), missing], axis=1), [[0, 1], [0, 0]])
        pyramid.append(tf.pad(content, padding))
    return tuple(pyramid)


def resize(image: UInt8[np.ndarray, "h w 3"], size: Size) -> UInt8[np.ndarray, "_ _ 3"]:
    """Resizes an image to a height and width, to the bit as `padded_pyramid` does.

    `images.pyramid.resize_bilinear` is the same in NumPy, and takes four times as long or more.
    """
    if image.shape[:2] == size:
        return image
    pixels = _resize(tf.constant(np.ascontiguousarray(image)), tf.constant(size))
    return tf.cast(tf.floor(pixels[0] + 0.5), tf.uint8).numpy()


def _resize(image: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Float32 `[1, H, W, 3]`, not rounded."""
    # The kernel reads uint8 itself; `tf.image.resize` would cast the image first.
    return tf.raw_ops.ResizeBilinear(images=image[None], size=size, half_pixel_centers=True)
