"""Detection in images of any size: tiles of one shape, a batch at a time, and one set of boxes.

A batch of tiles and the image are all that is in memory, and one program looks at all tiles of all
images. The whole image, where it is looked at as well, has the shape that `config.image_size` gives
it: the tiles' own, where both sides of that are equal and the tiles are square.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import TypeAlias

import numpy as np
from jaxtyping import Int32, UInt8

from ipg_jax.evaluation import Tiles
from ipg_jax.inference.views import (
    Found,
    Prepare,
    View,
    found_in,
    stack_views,
    tile_views,
    whole_view,
)
from ipg_jax.types import Detections, Pyramid

Detect: TypeAlias = Callable[[Pyramid, Int32[np.ndarray, "b 2"]], Detections]
"""A detector and its variables, compiled: from a uint8 pyramid on the host, level `i` of shape
`[B, H / 2^i, W / 2^i, 3]`, and the size of each image's content to detections, which may still be
being computed (`DetectionTask.predict`)."""


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
    blank ones. The next batch is cut and resized while the detector is at work. What is found comes
    best first.

    Args:
      detect: the detector.
      prepare: makes its input of a tile or an image.
      image: RGB, of any size.
      tiles: how it is cut, and how boxes are merged.
      batch_size: rows of a batch.
    """
    whole = [whole_view(prepare, image)] if tiles.whole else []
    views = itertools.chain(whole, tile_views(prepare, image, tiles.grid))
    found: list[Found] = []
    running: tuple[list[View], Detections] | None = None
    for batch in _batches(views, batch_size):
        started = batch, detect(*stack_views(batch, batch_size))
        if running is not None:
            found += found_in(*running)
        running = started
    assert running is not None  # an image has a tile
    found += found_in(*running)
    boxes, scores, labels = (np.concatenate(parts) for parts in zip(*found, strict=True))
    merged, index = tiles.merge(boxes, scores, labels)
    return Found(merged, scores[index], labels[index])


def _batches(views: Iterator[View], batch_size: int) -> Iterator[list[View]]:
    """Neighbours of one shape together, `batch_size` at most."""
    for _, of_shape in itertools.groupby(views, lambda view: view.shape):
        while batch := list(itertools.islice(of_shape, batch_size)):
            yield batch
