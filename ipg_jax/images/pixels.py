"""Values of any depth to 8 bits: what an image file's numbers mean, by rules and never by guess.

The darkest and the brightest value of an image say nothing about its range: a picture of 12 bits
kept in 16 and a dark one of 16 look the same. A rule therefore goes by what the file or the user
says, and a picture without a known range is refused, with the way to say it.
"""

from __future__ import annotations

import enum

import numpy as np
from jaxtyping import Num, UInt8
from PIL import Image

from ipg_jax.images.tiff import bits_per_sample, has_unsigned_values, is_white_zero


class Samples(enum.Enum):
    """What the values of an image are, and what is done with them."""

    BYTES = "up to 8 bits: taken as they are"
    DEEP = "integers of more than 8 bits: the upper 8 of the bits that the picture was taken with"
    FLOATS = "floating point: 0 to 1 becomes 0 to 255"


class UnknownRangeError(ValueError):
    """Nothing says how many of the bits of an image's integers it was taken with."""


_GREY_BYTES = ("1", "L")
_DEEP_GREY = ("I", "I;16", "I;16B", "I;16L", "I;16N")


def sample_kind(image: Image.Image, deep_png: bool) -> Samples:
    """Returns what the values of an opened image are; no pixel is decoded.

    Args:
      image: as Pillow opened it.
      deep_png: whether it is a PNG of 16 bits, which Pillow does not tell of colour.
    """
    if image.mode == "F":
        return Samples.FLOATS
    if deep_png or image.mode in _DEEP_GREY or bits_per_sample(image) > 8:
        return Samples.DEEP
    return Samples.BYTES


def significant_bits(image: Image.Image, sample_bits: int | None) -> int:
    """Returns the number of bits that an image of kind `DEEP` was taken with; no pixel is decoded.

    It is 12 for a camera of 12 bits whose values are stored in 16, and white is 4095 then.

    PGM and JPEG 2000 say so, and Pillow scales their values to 16 bits; a TIFF of 12 bits says so.
    PNG and TIFF of 16 or 32 bits are what cameras of 10, 12 or 14 bits are stored in, with nothing
    in the file to tell.

    Args:
      image: as Pillow opened it, of kind `DEEP`.
      sample_bits: what the user says of files that do not say it themselves.

    Raises:
      UnknownRangeError: neither does.
      ValueError: colour of which Pillow, that keeps the upper 8 of 16 bits, has the wrong ones.
    """
    if image.format in ("PPM", "JPEG2000"):
        return 16
    stored = bits_per_sample(image)
    declared = stored if 8 < stored < 16 else sample_bits
    if declared is None:
        raise UnknownRangeError(
            "its values have more than 8 bits, and the file does not say how many were used: "
            "set config.data.sample_bits (16 for the whole range, 12 for a camera of 12 bits), or "
            "store the image with 8"
        )
    if image.mode not in _DEEP_GREY and declared != 16:
        raise ValueError(
            f"its colours have 16 bits, and config.data.sample_bits={declared}: only grey images "
            "and colours of the whole range are read; store the image with 8 bits"
        )
    return declared


def to_rgb(image: Image.Image, bits: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes an opened image to RGB of 8 bits.

    Grey is repeated over the channels; palettes, CMYK, YCbCr and CIE L*a*b* are converted. Alpha
    and transparent colours are dropped, which leaves the colour below; colours that are stored
    multiplied by alpha are divided by it first.

    Args:
      image: as Pillow opened it.
      bits: of kind `DEEP`, its `significant_bits`.

    Raises:
      ValueError: a value is outside the range.
    """
    # A transparent colour would make Pillow warn, and alpha is dropped anyway.
    image.info.pop("transparency", None)
    if image.mode in _GREY_BYTES:
        grey = np.asarray(image.convert("L"))
    elif image.mode == "F":
        grey = _from_floats(np.asarray(image))
    elif image.mode in _DEEP_GREY and bits is not None:
        values = np.asarray(image)
        if values.dtype == np.int32 and has_unsigned_values(image):
            values = values.view(np.uint32)  # as they are in the file
        grey = _from_integers(values, bits)
    else:
        straight = image.convert("LA") if image.mode == "La" else image
        return np.asarray(straight.convert("RGB"))
    if image.mode not in _GREY_BYTES and is_white_zero(image):
        grey = 255 - grey  # of 8 bits, Pillow has done so
    return np.repeat(grey[..., None], 3, axis=-1)


def _from_floats(values: Num[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # and not if one is NaN
        raise ValueError(
            f"its floating-point values run from {low:.6g} to {high:.6g}; only those from 0 to 1 "
            "are read: scale them, or store the image with 8 bits"
        )
    return (values * np.float32(255) + np.float32(0.5)).astype(np.uint8)


def _from_integers(values: Num[np.ndarray, "h w"], bits: int) -> UInt8[np.ndarray, "h w"]:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high >= 2**bits:
        raise ValueError(
            f"its values run from {low} to {high}, and {bits} bits (config.data.sample_bits, or "
            f"what the file says) hold 0 to {2**bits - 1}"
        )
    return (values >> (bits - 8)).astype(np.uint8)
