"""To which static shapes images are brought: sizes in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeGuard

import numpy as np
from jaxtyping import Float32, Int32, Integer

from ipg_jax.types import Size


class Geometry(NamedTuple):
    """How images are brought to a few static shapes.

    Attributes:
      short: upper limit of the shorter side after resizing.
      long: upper limit of the longer side after resizing.
      levels: number of levels of the pyramid.
      pad_multiple: both sides of the padded image are multiples of it.
      limit: largest height and width of content in all images; None where these are such that
        whole images or tiles fit.
      tile: height and width of tiles, if the images are such: a whole tile is resized by the limits
        above, and smaller images by the same factor. There is one bucket, of whole tiles.
    """

    short: int
    long: int
    levels: int
    pad_multiple: int
    limit: Size | None = None
    tile: Size | None = None

    @property
    def limits(self) -> tuple[Size, ...]:
        """Largest height and width of content in each bucket: landscape and portrait, or one."""
        if self.limit is not None:
            return (self.limit,)
        if self.tile is not None:
            return (self.resized(self.tile),)
        short, long = self.short, self.long
        return ((short, long),) if short == long else ((short, long), (long, short))

    @property
    def canvases(self) -> tuple[Size, ...]:
        """Padded height and width in each bucket."""
        multiple = self.pad_multiple
        return tuple(
            (-(-height // multiple) * multiple, -(-width // multiple) * multiple)
            for height, width in self.limits
        )

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
        limited = self.tile or size
        scale = min(self.short / min(limited), self.long / max(limited))
        height, width = (max(int(side * scale), 1) for side in size)
        return height, width


def make_geometry(
    image_size: Size,
    levels: int,
    pad_multiple: int = 0,
    limit: Size | None = None,
    tile: Size | None = None,
) -> Geometry:
    """Checks the settings and fills in the default of `pad_multiple`.

    Args:
      image_size: limits of the (short, long) side.
      levels: number of levels of the pyramid.
      pad_multiple: 0 for `padding_multiple(levels)`.
      limit: see `Geometry`, as for the next.
      tile: height and width of tiles.

    Raises:
      ValueError: the settings contradict each other.
    """
    if not is_size(image_size) or image_size[0] > image_size[1]:
        raise ValueError(
            f"image_size is (short, long), whole numbers with 0 < short <= long, got {image_size!r}"
        )
    short, long = image_size
    pad_multiple = pad_multiple or padding_multiple(levels)
    if levels < 1 or pad_multiple % 2 ** (levels - 1):
        raise ValueError(
            f"pad_multiple = {pad_multiple} must be a multiple of 2^(levels - 1) for "
            f"{levels} levels"
        )
    return Geometry(short, long, levels, pad_multiple, limit, tile)


def is_size(value: object) -> TypeGuard[Size]:
    """Returns whether a value is a pair of whole numbers above 0."""
    return (
        isinstance(value, Sequence)
        and len(value) == 2
        and all(isinstance(side, int | np.integer) and side >= 1 for side in value)
    )


def padding_multiple(levels: int, height_parts: int = 1) -> int:
    """Returns what the sides of padded images are multiples of.

    That is the total stride of the deepest features, times the equal parts that their height is
    to be cut into.

    Args:
      levels: number of levels of the pyramid.
      height_parts: how many parts.
    """
    return height_parts * max(32, 2 ** (levels + 1))


def pixels_per_original(size: Size, resized: Size) -> Float32[np.ndarray, " 2"]:
    """Returns the pixels of a resized image per pixel of the original, (y, x)."""
    return np.divide(resized, size).astype(np.float32)
