"""Image files to uint8 RGB arrays, by one set of rules in training, evaluation and prediction.

Cameras store a picture as the sensor saw it and write the way up in an EXIF tag. Browsers and most
annotation tools of today show it upright; the COCO tools do not, so the boxes of COCO are in the
coordinates of the stored raster. The rule (`ImageOptions.exif`): the orientation is applied, unless
the annotated size says that the annotations were made without it, by being that of the stored
raster alone. A square picture, a half turn or a mirroring leaves nothing to tell by, nor does an
image given to a detector by hand: applied. `apply` and `ignore` settle it for a whole data set.

What a file declares is checked before a pixel is decoded: its format, its size, its range.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import re
from typing import Any, NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageOps

from ipg_jax.files import check_regular, local_path
from ipg_jax.images.pixels import Samples, sample_kind, significant_bits, to_rgb
from ipg_jax.images.tiff import refuse_misread
from ipg_jax.text import shown
from ipg_jax.types import Size

Image.init()  # lets Pillow know all of its formats
FORMATS = tuple(
    name
    for name in ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "PPM", "JPEG2000", "AVIF")
    if name in Image.OPEN  # the last came with Pillow 11.3
)
"""Pillow's names of the formats that are read. Of the others EPS, for one, starts Ghostscript."""

IMAGE_SUFFIXES = tuple(
    suffix
    for suffix, name in Image.registered_extensions().items()
    if name in (*FORMATS, "MPO")  # several JPEGs in one file, opened as the first of them
)
"""What the names of image files end in, in small letters."""

EXIF = ("auto", "apply", "ignore")
"""What may be done with EXIF orientations; see the module's docstring for `auto`."""

_INVERSE = {6: 8, 8: 6}
"""EXIF orientations that undo others; the rest undo themselves."""

_DEEP_PNG = re.compile(rb"\x89PNG\r\n\x1a\n.{8}.{8}\x10", re.DOTALL)
"""The beginning of a PNG of 16 bits: signature, head of the chunk IHDR, width and height, depth."""


class ImageTooLargeError(ValueError):
    """An image of more pixels than the limit."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ImageOptions:
    """How image files are read: fields of `config.data`.

    Attributes:
      max_pixels: images with more are refused before they are decoded; by default the limit from
        which on Pillow warns of a file that is made to fill the memory.
      sample_bits: how many bits the pictures in PNG and TIFF files of 16 or 32 bits a value were
        taken with, 8 to 32; None refuses such files (`pixels.significant_bits`).
      exif: what is done with EXIF orientations, one of `EXIF`.

    Raises:
      ValueError: a field is out of range; the message names it and its values.
    """

    max_pixels: int = 89_478_485
    sample_bits: int | None = None
    exif: str = "auto"

    def __post_init__(self) -> None:
        if self.max_pixels < 1:
            raise ValueError(f"config.data.max_image_pixels={self.max_pixels} is not positive")
        if self.sample_bits is not None and not 8 <= self.sample_bits <= 32:
            raise ValueError(
                f"config.data.sample_bits={self.sample_bits} is not a number of bits from 8 to 32"
            )
        if self.exif not in EXIF:
            raise ValueError(f"config.data.exif is one of {', '.join(EXIF)}, not {self.exif!r}")

    def applies_orientation(self, header: ImageHeader, annotated: Size | None) -> bool:
        """Returns whether the EXIF orientation of an image is applied.

        Args:
          header: of the file.
          annotated: the annotated height and width, if there are any.
        """
        undone = annotated == header.stored != header.oriented
        return self.exif == "apply" or (self.exif == "auto" and not undone)

    def size(self, header: ImageHeader, annotated: Size | None) -> Size:
        """Returns height and width of the decoded image; see `applies_orientation`."""
        applied = self.applies_orientation(header, annotated)
        return header.oriented if applied else header.stored


DEFAULT_OPTIONS = ImageOptions()
"""How image files are read where nothing else is said."""


class ImageHeader(NamedTuple):
    """What the header of an image file says.

    Attributes:
      stored: height and width of the stored raster.
      oriented: height and width once the EXIF orientation is applied.
      orientation: the EXIF orientation, 1 (upright) to 8.
      samples: what its values are.
    """

    stored: Size
    oriented: Size
    orientation: int
    samples: Samples


def read_image_header(
    source: bytes | epath.PathLike, options: ImageOptions = DEFAULT_OPTIONS
) -> ImageHeader:
    """Reads what the header of an image says, without decoding the pixels.

    Args:
      source: the contents of an image file, or the path of one (local or `gs://`).
      options: what is read.

    Raises:
      OSError: the file cannot be read.
      ImageTooLargeError: the image has more pixels than the options allow.
      UnknownRangeError: nothing says which range its values have.
      ValueError: the data are not an image that is read.
    """
    if isinstance(source, bytes):
        return _open(io.BytesIO(source), options).header
    check_regular(source)
    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(epath.Path(local_path(source) or source).open("rb"))
            file.read(1)  # stores' clients open a file when it is read, with errors of their own
            file.seek(0)
        except Exception as error:
            raise OSError(f"cannot read {shown(source)}: {shown(error)}") from error
        return _open(file, options).header


def decode_image(
    data: bytes, size: Size | None = None, options: ImageOptions = DEFAULT_OPTIONS
) -> UInt8[np.ndarray, "h w 3"]:
    """Decodes the first picture of an image file to RGB (`pixels.to_rgb`).

    Args:
      data: the contents of the file.
      size: annotated height and width, if there are any.
      options: what is read and how.

    Raises:
      ImageTooLargeError: the image has more pixels than the options allow.
      UnknownRangeError: nothing says which range its values have.
      ValueError: the data cannot be decoded, or the image has another size than `size`.
    """
    opened = _open(io.BytesIO(data), options)
    wanted = options.size(opened.header, size)
    if size not in (None, wanted):
        raise ValueError(
            f"the image has {wanted[0]} x {wanted[1]} pixels (height x width), its annotation "
            f"says {size[0]} x {size[1]}"
        )
    with opened.image as image:
        try:
            pixels = to_rgb(image, opened.bits)
        # Pillow's readers raise about any exception on damaged data (SyntaxError, struct.error).
        except Exception as error:
            reason = shown(error) or type(error).__name__
            raise ValueError(f"cannot decode the image: {reason}") from error
    orientation = opened.header.orientation
    applied = image.format == "TIFF"  # Pillow turns these when it decodes them, and no others
    if options.applies_orientation(opened.header, size) != applied:
        pixels = _turn(pixels, _INVERSE.get(orientation, orientation) if applied else orientation)
    if pixels.shape[:2] != wanted:
        raise ValueError(
            f"cannot decode the image: {pixels.shape[0]} x {pixels.shape[1]} pixels in place of "
            f"{wanted[0]} x {wanted[1]}"
        )
    return pixels


class _Opened(NamedTuple):
    """An image whose pixels are not decoded yet; `bits` as `to_rgb` takes them."""

    image: Image.Image
    header: ImageHeader
    bits: int | None


def pil_to_rgb(
    image: Image.Image, options: ImageOptions = DEFAULT_OPTIONS
) -> UInt8[np.ndarray, "h w 3"]:
    """Returns the pixels of an image of Pillow's as RGB, upright unless `options` say otherwise.

    Raises:
      UnknownRangeError: nothing says which range its values have.
      ValueError: its values are out of range, or its file is damaged.
    """
    try:
        upright = image.copy() if options.exif == "ignore" else ImageOps.exif_transpose(image)
    except OSError as error:
        raise ValueError(f"cannot decode the image: {shown(error)}") from error
    deep = sample_kind(upright, deep_png=False) is Samples.DEEP
    bits = significant_bits(upright, options.sample_bits) if deep else None
    return to_rgb(upright, bits)


def _open(file: Any, options: ImageOptions) -> _Opened:
    """Opens an image and checks what it declares; raises as `read_image_header` does."""
    limit = options.max_pixels
    if Image.MAX_IMAGE_PIXELS is not None:  # Pillow's own, which would stand in the way of a higher
        Image.MAX_IMAGE_PIXELS = max(Image.MAX_IMAGE_PIXELS, limit)
    try:
        deep_png = _DEEP_PNG.match(file.read(25)) is not None
        file.seek(0)
        image = Image.open(file, formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        number = re.search(r"\d+", str(error))  # Pillow tells the size in its message alone
        raise _too_large(f"{int(number[0]):,}" if number else "too many", limit) from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(f"not a readable image, {_why_unidentified(file)}") from error
    except Exception as error:
        raise ValueError(f"not a readable image: {shown(error)}") from error
    height, width = image.height, image.width
    if min(height, width) < 1:
        raise ValueError(f"not a readable image: it has {height} x {width} pixels")
    if height * width > limit:
        raise _too_large(f"{height * width:,}", limit)
    refuse_misread(image)
    samples = sample_kind(image, deep_png)
    bits = significant_bits(image, options.sample_bits) if samples is Samples.DEEP else None
    orientation = _orientation(image)
    one, other = (height, width), (width, height) if orientation > 4 else (height, width)
    stored, oriented = (other, one) if image.format == "TIFF" else (one, other)
    return _Opened(image, ImageHeader(stored, oriented, orientation, samples), bits)


def _why_unidentified(file: Any) -> str:
    """Why Pillow reads a file in none of the formats: what the reader of its own says."""
    file.seek(0)
    beginning = file.read(16)
    for name in FORMATS:
        factory, accepts = Image.OPEN[name]
        if accepts is not None and accepts(beginning) is True:
            file.seek(0)
            try:
                factory(file, "")
            except Exception as error:
                return (
                    f"a damaged {name} file, or one of a kind that is not read ({shown(error)}): "
                    "store it anew, as grey or RGB of 8 bits a value"
                )
    return f"in none of {', '.join(FORMATS)}"


def _too_large(pixels: str, limit: int) -> ImageTooLargeError:
    """The error of an image with so many pixels, in words."""
    return ImageTooLargeError(
        f"it has {pixels} pixels, more than config.data.max_image_pixels={limit}: raise that if "
        "the file is sound and the memory suffices (about 12 bytes a pixel)"
    )


def _orientation(image: Image.Image) -> int:
    """EXIF orientation; 1 (upright) where there is none, or none that makes sense."""
    try:
        if image.format == "TIFF":
            value = getattr(image, "tag_v2", {}).get(ExifTags.Base.Orientation)
        else:
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
            value = exif.get(ExifTags.Base.Orientation)
    except Exception:  # damage to the tags does not make the pixels worse
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _turn(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """The upright image of a raster stored with this EXIF orientation."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    rows = -1 if orientation in (3, 4, 7, 8) else 1
    columns = -1 if orientation in (2, 3, 6, 7) else 1
    return np.ascontiguousarray(pixels[::rows, ::columns])
