"""From an image of any size to a padded pyramid: sizes in Python, boxes in NumPy, pixels in TF."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import tensorflow as tf
from jaxtyping import Bool, Float32, Int32, Integer

from ipg_jax.data.images import Size
from ipg_jax.data.sources.base import Objects


class Geometry(NamedTuple):
    """How images are brought to a few static shapes.

    Attributes:
      short: upper limit of the shorter side after resizing.
      long: upper limit of the longer side after resizing.
      levels: number of levels of the pyramid.
      pad_multiple: both sides of the padded image are multiples of it.
    """

    short: int
    long: int
    levels: int
    pad_multiple: int

    @property
    def canvases(self) -> tuple[Size, ...]:
        """Padded height and width in each bucket: landscape and portrait, or square alone."""
        multiple = self.pad_multiple
        short, long = (-(-side // multiple) * multiple for side in (self.short, self.long))
        return ((short, long),) if self.short == self.long else ((short, long), (long, short))

    def buckets(self, sizes: Integer[np.ndarray, "n 2"]) -> Int32[np.ndarray, " n"]:
        """The index into `canvases` for images of the given heights and widths."""
        portrait = sizes[:, 0] > sizes[:, 1]
        return (portrait & (len(self.canvases) > 1)).astype(np.int32)

    def resized(self, size: Size) -> Size:
        """Height and width after resizing.

        The image is scaled until its shorter side reaches `short` or its longer side `long`, and
        fractions of a pixel are cut off. That is the rule of torchvision's
        `GeneralizedRCNNTransform`, kept to the letter: in floating point `385 * (800 / 385)` falls
        short of 800, so a side of 385 pixels becomes 799.
        """
        scale = min(self.short / min(size), self.long / max(size))
        height, width = (max(int(side * scale), 1) for side in size)
        return height, width


def make_geometry(image_size: Size, levels: int, pad_multiple: int = 0) -> Geometry:
    """Checks the settings and fills in the default of `pad_multiple`.

    Args:
      image_size: limits of the (short, long) side.
      levels: number of levels of the pyramid.
      pad_multiple: 0 for `padding_multiple(levels)`.

    Raises:
      ValueError: the settings contradict each other.
    """
    short, long = image_size
    pad_multiple = pad_multiple or padding_multiple(levels)
    if not 0 < short <= long:
        raise ValueError(f"image_size is (short, long) with 0 < short <= long, got {image_size}")
    if levels < 1 or pad_multiple % 2 ** (levels - 1):
        raise ValueError(
            f"pad_multiple = {pad_multiple} must be a multiple of 2^(levels - 1) for "
            f"{levels} levels"
        )
    return Geometry(short, long, levels, pad_multiple)


def padding_multiple(levels: int, height_parts: int = 1) -> int:
    """Returns what the sides of padded images are multiples of.

    That is the total stride of the deepest features, times the equal parts that their height is
    to be cut into.

    Args:
      levels: number of levels of the pyramid.
      height_parts: how many parts.
    """
    return height_parts * max(32, 2 ** (levels + 1))


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
    # The kernel reads uint8 itself; `tf.image.resize` would cast the image first.
    pixels = tf.raw_ops.ResizeBilinear(images=image[None], size=size, half_pixel_centers=True)
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
