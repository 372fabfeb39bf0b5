"""What of an image a detector looks at, and the way of what it finds there back to the image."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Float32, Float64, Int, Int32, UInt8

from ipg_jax.evaluation import boxes_to_original
from ipg_jax.images import TileGrid
from ipg_jax.types import Detections, Size

Prepare: TypeAlias = Callable[..., tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]]
"""`images.prepare_image` of which all arguments are set but the image and `tile`."""


class View(NamedTuple):
    """A part of an image, or the whole of it, as a detector sees it.

    Attributes:
      window: `(x0, y0, x1, y1)`, the part in pixels of the image.
      pyramid: the part resized and padded, level `i` of shape `[H / 2^i, W / 2^i, 3]`.
      content: height and width of level 0 without padding.
      scale: pixels of level 0 for one of the image, down and across.
    """

    window: tuple[int, int, int, int]
    pyramid: tuple[UInt8[np.ndarray, "_ _ 3"], ...]
    content: Int32[np.ndarray, " 2"]
    scale: Float32[np.ndarray, " 2"]

    @property
    def shape(self) -> Size:
        """Height and width of level 0."""
        height, width = self.pyramid[0].shape[:2]
        return height, width


class Found(NamedTuple):
    """Boxes in an image.

    Attributes:
      boxes: `xyxy` in pixels of the image.
      scores: of each.
      labels: 0-based classes.
    """

    boxes: Float64[np.ndarray, "n 4"]
    scores: Float32[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]


def whole_view(prepare: Prepare, image: UInt8[np.ndarray, "h w 3"]) -> View:
    """Returns the view of a whole image."""
    height, width = image.shape[:2]
    return View((0, 0, width, height), *prepare(image))


def tile_views(
    prepare: Prepare, image: UInt8[np.ndarray, "h w 3"], grid: TileGrid
) -> Iterator[View]:
    """Yields the views of an image's tiles, row by row, cut when it is their turn."""
    height, width = image.shape[:2]
    for x0, y0, x1, y1 in grid.windows((height, width)).tolist():
        yield View((x0, y0, x1, y1), *prepare(image[y0:y1, x0:x1], tile=grid.size))


def stack_views(
    views: Sequence[View], rows: int
) -> tuple[tuple[UInt8[np.ndarray, "b _ _ 3"], ...], Int32[np.ndarray, "b 2"]]:
    """Returns the pyramid and the sizes of content of a batch, as `DetectionTask.predict` reads it.

    Args:
      views: of one shape, one at least.
      rows: of the batch; those without a view are blank, their content as large as the first's.
    """

    def stack(arrays: Sequence[np.ndarray], blank: np.ndarray) -> np.ndarray:
        return np.stack([*arrays, *[blank] * (rows - len(arrays))])

    levels = zip(*(view.pyramid for view in views), strict=True)
    pyramid = tuple(stack(level, np.zeros_like(level[0])) for level in levels)
    return pyramid, stack([view.content for view in views], views[0].content)


def found_in(views: Sequence[View], detections: Detections) -> list[Found]:
    """Returns what was found in each view, in pixels of its image; waits for the devices.

    Args:
      views: those of a batch.
      detections: of the batch, which may have more rows (`stack_views`).
    """
    boxes, scores, labels, valid = jax.device_get(
        (detections.boxes, detections.scores, detections.labels, detections.valid)
    )
    found = []
    for row, (view, keep) in enumerate(zip(views, valid, strict=False)):
        x0, y0, x1, y1 = view.window
        part = boxes_to_original(
            boxes[row, keep], view.scale, np.array([y1 - y0, x1 - x0], np.int32)
        )
        corner = np.array([x0, y0, x0, y0], np.float64)
        found.append(Found(part + corner, scores[row, keep], labels[row, keep]))
    return found
