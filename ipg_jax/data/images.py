"""Image files to uint8 RGB arrays, and the one rule for EXIF orientation.

Cameras store a picture as the sensor saw it and write the way up in an EXIF tag. Annotation tools
disagree on whether to honour the tag: the COCO tools, for one, do not, so the boxes of COCO are in
the coordinates of the stored raster. The annotated image size tells the two apart:

* annotated size equals the stored raster's: the tag is ignored;
* annotated size equals the size after orientation, and not the stored one: the tag is applied;
* no annotated size at all (an image given to a detector by hand): the tag is applied, so that
  people see what they expect.

A half turn or a mirroring does not change the size; by the first line the tag is then ignored.
"""

from __future__ import annotations

import io
import os
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

Size = tuple[int, int]
"""Height and width in pixels."""

_QUARTER_TURNS = (5, 6, 7, 8)
"""The EXIF orientations that swap height and width."""


class ImageHeader(NamedTuple):
    """What the header of an image file says.

    Attributes:
      stored: height and width of the stored raster.
      oriented: height and width once the EXIF orientation is applied.
    """

    stored: Size
    oriented: Size


def read_file(path: str | os.PathLike[str]) -> bytes:
    """Returns the contents of a file, local or remote (`gs://`).

    Raises:
      OSError: the file cannot be read.
    """
    try:
        with tf.io.gfile.GFile(os.fspath(path), "rb") as file:
            return file.read()
    except tf.errors.OpError as error:
        raise OSError(f"cannot read {os.fspath(path)}: {error.message}") from error


def read_image_size(source: bytes | str | os.PathLike[str]) -> ImageHeader:
    """Reads the size of an image from its header, without decoding the pixels.

    Args:
      source: the contents of an image file, or the path of one (local or `gs://`).

    Raises:
      OSError: the file cannot be read.
      ValueError: the data are not an image.
    """
    if isinstance(source, bytes):
        return _header(io.BytesIO(source))
    try:
        with tf.io.gfile.GFile(os.fspath(source), "rb") as file:
            return _header(file)
    except tf.errors.OpError as error:
        raise OSError(f"cannot read {os.fspath(source)}: {error.message}") from error


def decode_image(data: bytes, size: Size | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes a JPEG, a PNG or any other format that Pillow reads to RGB.

    Grey values are repeated over the channels, CMYK and YCCK are converted, an alpha channel is
    dropped, and of 16 bit values the upper byte is kept.

    Args:
      data: the contents of the image file.
      size: annotated height and width, which decides whether the EXIF orientation is applied (see
        the module's docstring); None applies it.

    Raises:
      ValueError: the data cannot be decoded, or the image has another size than `size`.
    """
    try:
        with Image.open(io.BytesIO(data)) as image:
            turned = _orientation(image) != 1 and (
                size is None or (image.height, image.width) != size
            )
            # A transparent colour would make Pillow warn, and alpha is dropped anyway.
            image.info.pop("transparency", None)
            rgb = _to_rgb(image)
            if turned:
                rgb = ImageOps.exif_transpose(rgb)
            pixels = np.asarray(rgb)
    # Pillow's readers raise about any exception on damaged data (SyntaxError, struct.error, ...).
    except Exception as error:
        raise ValueError(f"cannot decode the image: {error}") from error
    if size is not None and pixels.shape[:2] != size:
        raise ValueError(
            f"the image has {pixels.shape[0]} x {pixels.shape[1]} pixels (height x width), its "
            f"annotation says {size[0]} x {size[1]}"
        )
    return pixels


def _header(file: io.BytesIO | tf.io.gfile.GFile) -> ImageHeader:
    try:
        with Image.open(file) as image:
            stored = (image.height, image.width)
            turned = _orientation(image) in _QUARTER_TURNS
    except tf.errors.OpError:
        raise
    except Exception as error:
        raise ValueError(f"not a readable image: {error}") from error
    return ImageHeader(stored, stored[::-1] if turned else stored)


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 (upright) if the header names none."""
    # Asking a PNG without EXIF in its header for `getexif` would decode the pixels.
    if "exif" not in image.info:
        return 1
    return image.getexif().get(ExifTags.Base.Orientation, 1)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16"):
        # `convert` would clip 16 bit values at 255.
        rgb = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8)).convert("RGB")
        rgb.info = image.info
        return rgb
    return image if image.mode == "RGB" else image.convert("RGB")
