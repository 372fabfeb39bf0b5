"""Where the tiles of an image are."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Int32, Int64

from ipg_jax.images.geometry import is_size
from ipg_jax.types import Size


@dataclasses.dataclass(frozen=True)
class TileGrid:
    """How images are cut into tiles that overlap.

    The windows are those of SAHI's `get_slice_bboxes` (Akyon et al., Slicing Aided Hyper Inference,
    ICIP 2022).

    Attributes:
      size: height and width of a tile, in pixels of the image.
      overlap: share of a tile's height and of its width that neighbours have in common, in [0, 1);
        fractions of a pixel are cut off. An object that is no larger is whole in one tile.

    Raises:
      ValueError: the size is not two whole numbers above 0, or the overlap is out of range.
    """

    size: Size
    overlap: float = 0.2

    def __post_init__(self) -> None:
        if not is_size(self.size):
            raise ValueError(
                "the size of a tile is two whole numbers above 0, height and width in pixels, such "
                f"as (512, 512), not {self.size!r}"
            )
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap={self.overlap} is not a share of a tile, 0 or more, below 1")

    def windows(self, image_size: Size) -> Int32[np.ndarray, "n 4"]:
        """Returns the tiles of an image, `(x0, y0, x1, y1)` in its pixels, row by row.

        The last tiles of each direction are shifted inside, so that all have the full size. Where
        the image is smaller than a tile, so is the tile.

        Args:
          image_size: height and width.
        """
        (y_starts, height), (x_starts, width) = (
            self._starts(length, side) for length, side in zip(image_size, self.size, strict=True)
        )
        y0, x0 = (start.ravel() for start in np.meshgrid(y_starts, x_starts, indexing="ij"))
        return np.stack([x0, y0, x0 + width, y0 + height], axis=1).astype(np.int32)

    def _starts(self, length: int, side: int) -> tuple[Int64[np.ndarray, " n"], int]:
        """First pixels of the tiles in one direction, and the pixels of each."""
        if length <= side:
            return np.zeros(1, np.int64), length
        step = side - int(self.overlap * side)
        count = -(-(length - side) // step) + 1
        return np.minimum(np.arange(count, dtype=np.int64) * step, length - side), side
