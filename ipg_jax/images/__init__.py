"""Image files to pixels, and pixels to what a detector reads; without TensorFlow."""

from ipg_jax.images.decode import (
    DEFAULT_OPTIONS,
    EXIF,
    IMAGE_SUFFIXES,
    ImageHeader,
    ImageOptions,
    ImageTooLargeError,
    decode_image,
    read_image_header,
)
from ipg_jax.images.geometry import (
    Geometry,
    make_geometry,
    padding_multiple,
    pixels_per_original,
)
from ipg_jax.images.pictures import Picture, read_picture
from ipg_jax.images.pixels import Samples, UnknownRangeError
from ipg_jax.images.pyramid import padded_pyramid, prepare_image
from ipg_jax.images.tiles import TileGrid

__all__ = [
    "DEFAULT_OPTIONS",
    "EXIF",
    "IMAGE_SUFFIXES",
    "Geometry",
    "ImageHeader",
    "ImageOptions",
    "ImageTooLargeError",
    "Picture",
    "Samples",
    "TileGrid",
    "UnknownRangeError",
    "decode_image",
    "make_geometry",
    "padded_pyramid",
    "padding_multiple",
    "pixels_per_original",
    "prepare_image",
    "read_image_header",
    "read_picture",
]
