"""Detection in images of any size: tiles of one shape, a batch at a time, and one set of boxes.

A batch of tiles and the image are all that is in memory, and one program looks at all tiles of all
images. The whole image, where it is looked at as well, has the shape that `config.image_size` gives
it: the tiles' own, where both sides of that are equal and the tiles are square.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeAlias

import jax
import numpy as np
from jaxtyping import Float32, Float64, Int, Int32, UInt8

from ipg_jax.evaluation import Tiles, boxes_to_original
from ipg_jax.types import Detections, Pyramid

Prepare: TypeAlias = Callable[..., tuple[tuple[np.ndarray, ...], np.ndarray, np.ndarray]]
"""`images.prepare_image` of which all arguments are set but the image and `tile`."""

Detect: TypeAlias = Callable[[Pyramid, Int32[np.ndarray, "b 2"]], Detections]
"""A detector and its variables, compiled: from a uint8 pyramid on the host, level `i` of shape
`[B, H / 2^i, W / 2^i, 3]`, and the size of each image's content to detections, which may still be
being computed (`DetectionTask.predict`)."""


class Found(NamedTuple):
    """The boxes in an image, best first.

    Attributes:
      boxes: `xyxy` in pixels of the image.
      scores: of each.
      labels: 0-based classes.
    """

    boxes: Float64[np.ndarray, "n 4"]
    scores: Float32[np.ndarray, " n"]
    labels: Int[np.ndarray, " n"]


def detect_tiles(
    detect: Detect,
    prepare: Prepare,
    image: UInt8[np.ndarray, "h w 3"],
    tiles: Tiles,
    *,
    batch_size: int,
) -> Found:
    """Detects objects in the tiles of an image, and in the whole of it, if `tiles` says so.

    Every batch that the detector sees has `batch_size` rows; the last of an image is filled up with
    blank ones. The next batch is cut and resized while the detector is at work.

    Args:
      detect: the detector.
      prepare: makes its input of a tile or an image.
      image: RGB, of any size.
      tiles: how it is cut, and how boxes are merged.
      batch_size: rows of a batch.
    """
    found: list[Found] = []
    running: tuple[Any, list[_View]] | None = None
    for views in _batches(_views(prepare, image, tiles), batch_size):
        started = detect(*_stacked(views, batch_size)), views
        if running is not None:
            found.append(_found(*running))
        running = started
    assert running is not None  # an image has a tile
    found.append(_found(*running))
    boxes, scores, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    merged, index = tiles.merge(boxes, scores, labels)
    return Found(merged, scores[index], labels[index])


class _View(NamedTuple):
    """A part of an image, as the detector sees it."""

    window: tuple[int, int, int, int]  # x0, y0, x1, y1 in the image
    pyramid: tuple[np.ndarray, ...]
    size: np.ndarray
    scale: np.ndarray


def _views(prepare: Prepare, image: np.ndarray, tiles: Tiles) -> Iterator[_View]:
    """The whole image, if it is looked at, and its tiles."""
    height, width = image.shape[:2]
    if tiles.whole:
        yield _View((0, 0, width, height), *prepare(image))
    for x0, y0, x1, y1 in tiles.grid.windows((height, width)).tolist():
        tile = prepare(image[y0:y1, x0:x1], tile=tiles.grid.size)
        yield _View((x0, y0, x1, y1), *tile)


def _batches(views: Iterator[_View], batch_size: int) -> Iterator[list[_View]]:
    """Neighbours of one shape together, `batch_size` at most."""
    for _, of_shape in itertools.groupby(views, lambda view: view.pyramid[0].shape):
        while batch := list(itertools.islice(of_shape, batch_size)):
            yield batch


def _stacked(
    views: list[_View], rows: int
) -> tuple[tuple[np.ndarray, ...], Int32[np.ndarray, "b 2"]]:
    """A batch of so many rows; those without a view are blank, of the size of the first."""

    def stack(arrays: list[np.ndarray], blank: np.ndarray) -> np.ndarray:
        return np.stack(arrays + [blank] * (rows - len(arrays)))

    levels = zip(*(view.pyramid for view in views), strict=True)
    pyramid = tuple(stack([*level], np.zeros_like(level[0])) for level in levels)
    return pyramid, stack([view.size for view in views], views[0].size)


def _found(detections: Detections, views: list[_View]) -> Found:
    """The boxes of all views, in pixels of the image; waits for the detector."""
    boxes, scores, labels, valid = jax.device_get(
        (detections.boxes, detections.scores, detections.labels, detections.valid)
    )
    found = []
    for row, (view, keep) in enumerate(zip(views, valid, strict=False)):
        x0, y0, x1, y1 = view.window
        of_view = boxes_to_original(
            boxes[row, keep], view.scale, np.array([y1 - y0, x1 - x0], np.int32)
        )
        corner = np.array([x0, y0, x0, y0], np.float64)
        found.append(Found(of_view + corner, scores[row, keep], labels[row, keep]))
    return Found(*(np.concatenate(parts) for parts in zip(*found, strict=True)))
