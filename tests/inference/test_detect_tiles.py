"""Detection on tiles, with a stand-in for the network that finds rectangles by their brightness."""

import functools

import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given

from ipg_jax.evaluation import BoxMerge, Tiles
from ipg_jax.images import TileGrid, prepare_image
from ipg_jax.inference.tiles import detect_tiles
from ipg_jax.training.sharding import image_sharding, make_mesh, replicated
from ipg_jax.types import Detections

MOST = 6
"""Objects of an image: object `i` is a rectangle of brightness `10 (i + 1)`, of class `i % 3`."""


def find(pyramid, size):
    """The box around all pixels of each brightness, whose score is lower at the image's border."""
    image = pyramid[0][..., 0]
    marks = 10 * jnp.arange(1, MOST + 1, dtype=jnp.uint8)
    here = image[:, None] == marks[:, None, None]  # [b, MOST, h, w]
    rows, columns = here.any(axis=3), here.any(axis=2)

    def bounds(line):
        first = jnp.argmax(line, axis=-1)
        last = line.shape[-1] - jnp.argmax(line[..., ::-1], axis=-1)
        return first.astype(jnp.float32), last.astype(jnp.float32)

    (y0, y1), (x0, x1) = bounds(rows), bounds(columns)
    valid = rows.any(axis=-1)
    height, width = (side[:, None].astype(jnp.float32) for side in size.T)
    inside = (jnp.minimum(x0, y0) > 0) & (x1 < width) & (y1 < height)
    return Detections(
        boxes=jnp.stack([x0, y0, x1, y1], axis=-1),
        scores=jnp.where(valid, jnp.where(inside, 0.9, 0.5), 0).astype(jnp.float32),
        labels=jnp.broadcast_to(jnp.arange(MOST, dtype=jnp.int32) % 3, valid.shape),
        valid=valid,
    )


class Finder:
    """`find`, compiled for a mesh of so many devices; counts the programs and the batches."""

    def __init__(self, devices=1):
        self.mesh = make_mesh(devices=jax.devices()[:devices])
        self.programs = self.batches = 0

        @functools.partial(jax.jit, out_shardings=replicated(self.mesh))
        def found(pyramid, size):
            self.programs += 1
            return find(pyramid, size)

        self.found = found

    def __call__(self, pyramid, size):
        self.batches += 1
        return self.found(jax.device_put(pyramid, image_sharding(self.mesh)), size)


def picture(size, boxes):
    image = np.full((*size, 3), 3, np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        image[y0:y1, x0:x1] = 10 * (i + 1)
    return image


def tiles(whole=False, **merge):
    growing = BoxMerge(**{"method": "greedy_nmm", "metric": "ios"} | merge)
    return Tiles(grid=TileGrid((32, 32), 0.5), merge=growing, whole=whole)


TILES = tiles()


def prepare(image_size=(32, 32)):
    return functools.partial(prepare_image, image_size=image_size, levels=2, pad_multiple=16)


def look(detect, image, tiles=TILES, batch_size=8):
    return detect_tiles(detect, prepare(), image, tiles, batch_size=batch_size)


def as_rows(found):
    rows = np.column_stack([found.boxes, found.labels])
    return rows[np.lexsort(rows.T)].tolist()


BOXES = [(1, 2, 9, 8), (28, 20, 36, 30), (60, 50, 64, 66), (80, 0, 96, 16), (40, 60, 41, 61)]
EXPECTED = sorted(([*box, i % 3] for i, box in enumerate(BOXES)), key=lambda row: row[::-1])


@pytest.mark.parametrize("devices", [1, 8])
def test_finds_what_is_there_in_pixels_of_the_image(devices):
    detect = Finder(devices)
    image = picture((70, 100), BOXES)
    # 4 x 6 tiles from rows 0, 16, 32, 38 and columns 0, 16, 32, 48, 64, 68: three batches of eight.
    found = look(detect, image)
    assert as_rows(found) == EXPECTED
    assert (np.diff(found.scores) <= 0).all()
    assert (detect.programs, detect.batches) == (1, 3)
    # Any other image goes through the same program: large ones, small ones, and nothing to see.
    assert as_rows(look(detect, picture((33, 500), BOXES[:1]))) == [[1, 2, 9, 8, 0]]
    assert as_rows(look(detect, picture((8, 9), [(0, 0, 4, 4)]))) == [[0, 0, 4, 4, 0]]
    nothing = look(detect, picture((40, 40), []))
    assert (nothing.boxes.shape, nothing.scores.shape, nothing.labels.shape) == ((0, 4), (0,), (0,))
    assert detect.programs == 1


def test_objects_beyond_a_tile_are_found_in_the_whole_image():
    large = [(10, 10, 90, 70), (2, 2, 6, 6)]
    image = picture((128, 128), large)
    detect = Finder()
    tiles_alone = look(detect, image)
    assert len(tiles_alone.boxes) > 2
    # The whole, seen at a quarter of its size, is the best: its parts are in it.
    found = look(detect, image, tiles(whole=True))
    assert len(found.boxes) == 2
    boxes = found.boxes[np.argsort(found.labels)]
    np.testing.assert_allclose(boxes[0], large[0], atol=4)  # a pixel of the small image
    np.testing.assert_allclose(boxes[1], large[1], atol=4)
    assert detect.programs == 1  # whole image and tiles have one shape


def test_whole_images_of_another_shape_are_batches_of_their_own():
    detect = Finder()
    image = picture((64, 128), [(8, 8, 24, 24)])
    found = detect_tiles(detect, prepare((32, 64)), image, tiles(whole=True), batch_size=8)
    assert as_rows(found) == [[8, 8, 24, 24, 0]]
    assert (detect.programs, detect.batches) == (2, 1 + 3)  # 3 x 7 tiles


def test_merging_is_that_of_the_tiles():
    image = picture((32, 48), [(10, 4, 30, 10)])  # 14 of 20 columns in the second of two tiles
    assert as_rows(look(Finder(), image)) == [[10, 4, 30, 10, 0]]
    none = look(Finder(), image, tiles(metric="iou", threshold=0.8))
    assert as_rows(none) == [[10, 4, 30, 10, 0], [16, 4, 30, 10, 0]]


@given(
    size=st.tuples(st.integers(1, 90), st.integers(1, 90)),
    rows=st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 89), st.integers(1, 8), st.integers(1, 16)),
        max_size=MOST,
    ),
    batch_size=st.sampled_from([8, 16]),
)
def test_no_object_is_lost_or_found_twice(size, rows, batch_size):
    height, width = size
    boxes = [  # each in 15 columns of its own, as far as the image goes
        (15 * i + x, y, min(15 * i + x + w, width), min(y + h, height))
        for i, (x, y, w, h) in enumerate(rows)
        if 15 * i + x < width and y < height
    ]
    found = look(FINDER, picture(size, boxes), tiles(threshold=0.01), batch_size)
    expected = ([*box, i % 3] for i, box in enumerate(boxes))
    assert as_rows(found) == sorted(expected, key=lambda row: row[::-1])


FINDER = Finder()
