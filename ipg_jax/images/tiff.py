"""What a TIFF declares of its values, and the kinds that Pillow opens and then reads wrongly.

Tags and their values: TIFF 6.0. What Pillow 13.0 makes of them was compared with files written
value by value: it takes signed bytes for unsigned ones, unsigned integers of 32 bits for signed
ones, swaps the bytes of some compressed files twice, and reads many planes stored one after the
other into the wrong pixels.
"""

from __future__ import annotations

from typing import Any

from PIL import Image
from PIL.TiffImagePlugin import TiffImageFile

_BITS_PER_SAMPLE = 258
_COMPRESSION = 259
_PHOTOMETRIC = 262
_SAMPLES_PER_PIXEL = 277
_PLANAR_CONFIGURATION = 284
_COLOR_MAP = 320
_SAMPLE_FORMAT = 339

_UNCOMPRESSED = 1
_WHITE_IS_ZERO = 0
_SEPARATE_PLANES = 2
_UNSIGNED, _SIGNED = (1,), (2,)


def bits_per_sample(image: Image.Image) -> int:
    """Returns how many bits the values of a TIFF have, the largest number of its channels.

    It is 1 for other formats.
    """
    return max(_tags(image).get(_BITS_PER_SAMPLE, (1,)))


def has_unsigned_values(image: Image.Image) -> bool:
    """Returns whether the values of a TIFF are unsigned integers; False for other formats."""
    return isinstance(image, TiffImageFile) and _sample_format(image) == _UNSIGNED


def is_white_zero(image: Image.Image) -> bool:
    """Returns whether the darkest value of a TIFF stands for white; False for other formats."""
    return _tags(image).get(_PHOTOMETRIC) == _WHITE_IS_ZERO


def refuse_misread(image: Image.Image) -> None:
    """Checks that a TIFF is of no kind that Pillow reads wrongly; other formats pass.

    Args:
      image: as Pillow opened it; no pixel is decoded.

    Raises:
      ValueError: it is; the message says which and how to store the image instead.
    """
    if not isinstance(image, TiffImageFile):
        return
    tags, bits = image.tag_v2, bits_per_sample(image)
    if _PHOTOMETRIC not in tags:
        raise ValueError(
            "it does not say whether 0 stands for black or for white: store the image with the tag "
            "PhotometricInterpretation"
        )
    if _sample_format(image) == _SIGNED and bits == 8:
        raise ValueError(
            "its values are signed integers of 8 bits: store the image with unsigned ones"
        )
    several = tags.get(_SAMPLES_PER_PIXEL, 1) > 1
    separate = several and tags.get(_PLANAR_CONFIGURATION) == _SEPARATE_PLANES
    if separate and (bits != 8 or image.mode not in ("RGB", "RGBA", "CMYK")):
        raise ValueError(
            "its channels are planes stored one after the other (PlanarConfiguration 2), which are "
            "read of RGB and CMYK of 8 bits alone: store the image with a pixel's channels together"
        )
    compressed = tags.get(_COMPRESSION, _UNCOMPRESSED) != _UNCOMPRESSED
    if compressed and tags.prefix == b"MM" and image.mode in ("I", "F"):
        raise ValueError(
            "its values are compressed floats or integers in big-endian order: store the image "
            "without compression or in little-endian order"
        )
    colours = tags.get(_COLOR_MAP, ())
    if image.mode in ("P", "PA") and 0 < max(colours, default=0) < 256:
        raise ValueError(
            f"its palette has no value above {max(colours)} of 65535, so that all colours are "
            "black: store the image with its palette multiplied by 257"
        )


def _tags(image: Image.Image) -> Any:
    """The tags of a TIFF; empty for other formats."""
    return image.tag_v2 if isinstance(image, TiffImageFile) else {}


def _sample_format(image: Image.Image) -> tuple[int, ...]:
    """The different formats of the channels."""
    return tuple(set(_tags(image).get(_SAMPLE_FORMAT, _UNSIGNED)))
