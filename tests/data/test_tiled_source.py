"""Tiles of images: what they hold, and how their images are read."""

import threading
import time

import numpy as np
import pytest

from ipg_jax.data import (
    DataReport,
    ImageCache,
    Source,
    TiledSource,
    eval_batches,
    train_batches,
)
from ipg_jax.data.sources.base import build_records
from ipg_jax.images import TileGrid, prepare_image


class PictureSource(Source):
    """Random images of given sizes, some of which cannot be read, with boxes `(image, box)`."""

    def __init__(self, sizes, boxes=(), ignore=(), unreadable=()):
        report = DataReport("pictures")
        records = build_records(
            image_ids=[*range(len(sizes))],
            file_names=[f"{i}.png" for i in range(len(sizes))],
            sizes=np.array(sizes),
            image_index=np.array([image for image, _ in boxes], int),
            boxes=np.array([box for _, box in boxes], float).reshape(-1, 4),
            labels=np.zeros(len(boxes), int),
            ignore=np.isin(np.arange(len(boxes)), ignore),
            area=np.full(len(boxes), np.nan),
            keep=np.ones(len(sizes), bool),
            drop_empty=False,
            report=report,
        )
        classes = {"class_names": ["thing"], "category_ids": [1]}
        super().__init__(name="pictures", records=records, report=report, **classes)
        self.unreadable_images = unreadable
        self.loaded = []

    def load_image(self, index):
        self.loaded.append(index)
        if index in self.unreadable_images:
            raise OSError("it is gone")
        return np.random.default_rng(index).integers(0, 256, (*self.size(index), 3), np.uint8)


def test_tiles_hold_their_pixels_and_objects():
    # One image of two tiles, columns 0 to 9 and 7 to 16, and one that is smaller than a tile.
    base = PictureSource(
        [(10, 17), (6, 4)],
        [(0, (1, 2, 5, 6)), (0, (8, 0, 16, 4)), (1, (0, 0, 4, 6))],
    )
    tiles = TiledSource(base, TileGrid((10, 10), 0.3), min_visible=0.5)
    assert tiles.records.image_ids == ["0[0:10, 0:10]", "0[0:10, 7:17]", "1[0:6, 0:4]"]
    assert tiles.records.file_names[1] == "0.png[0:10, 7:17]"
    np.testing.assert_array_equal(tiles.records.sizes, [[10, 10], [10, 10], [6, 4]])
    np.testing.assert_array_equal(tiles.image_index, [0, 0, 1])
    np.testing.assert_array_equal(tiles.records.offsets, [0, 2, 3, 4])
    np.testing.assert_array_equal(
        tiles.records.boxes, [[1, 2, 5, 6], [8, 0, 10, 4], [1, 0, 9, 4], [0, 0, 4, 6]]
    )
    # Of the second object the first tile has a quarter.
    np.testing.assert_array_equal(tiles.records.ignore, [False, True, False, False])
    whole = base.load_image(0)
    np.testing.assert_array_equal(tiles.load_image(1), whole[:, 7:17])
    tiles.load_image(1)[:] = 0  # which is the caller's own
    np.testing.assert_array_equal(tiles.load_image(0), whole[:, :10])
    np.testing.assert_array_equal(tiles.load_image(2), base.load_image(1))


def test_empty_tiles_are_kept_by_a_share_that_depends_on_the_tile_alone():
    sizes = [(8, 800)] * 10
    boxes = [(0, (9, 0, 11, 3))]  # to be ignored
    boxes += [(i, (0, 0, 3, 3)) for i in range(10)]

    def names(share, seed=0, sizes=sizes):
        base = PictureSource(sizes, [b for b in boxes if b[0] < len(sizes)], ignore=[0])
        tiles = TiledSource(
            base, TileGrid((8, 8), 0.0), min_visible=0.5, empty_tiles=share, seed=seed
        )
        assert len(tiles) + tiles.left_out == 100 * len(sizes)
        return tiles.records.image_ids

    with_objects, some, more, every = (names(share) for share in (0.0, 0.2, 0.5, 1.0))
    assert with_objects == [f"{i}[0:8, 0:8]" for i in range(10)]
    assert len(every) == 1000
    assert abs(len(some) - (10 + 0.2 * 990)) < 4 * np.sqrt(990 * 0.2 * 0.8)
    assert {*with_objects} < {*some} < {*more}
    assert [name for name in more if name[0] in "012"] == names(0.5, sizes=sizes[:3])
    assert names(0.5) == more
    assert names(0.5, seed=1) != more


def test_no_tile_to_learn_from_is_an_error():
    base = PictureSource([(20, 20)])
    with pytest.raises(ValueError, match=r"pictures: no tile of 8 x 8 .*leaves out all 9"):
        TiledSource(base, TileGrid((8, 8)), min_visible=0.5, empty_tiles=0.0)
    with pytest.raises(ValueError, match=r"empty_tiles=1\.5 is not a share"):
        TiledSource(base, TileGrid((8, 8)), min_visible=0.5, empty_tiles=1.5)


def test_an_unreadable_image_is_counted_once_and_its_tiles_are_blank():
    base = PictureSource([(8, 24), (8, 8)], [(0, (1, 1, 5, 5))], unreadable=[0])
    tiles = TiledSource(base, TileGrid((8, 8), 0.0), min_visible=0.5)
    (batch,) = eval_batches(tiles, batch_size=4, image_size=(8, 8), levels=1, pad_multiple=8)
    assert batch.weight.tolist() == [0, 0, 0, 1]
    assert not batch.valid[:3].any()
    assert not batch.pyramid[0][:3].any()
    assert (tiles.unreadable, base.unreadable) == (1, 1)
    assert tiles.failures == ["0.png: it is gone"]


def test_batches_of_tiles_have_one_shape_and_one_scale():
    # 20 x 20 pixels become 40 x 40; half of a tile keeps that factor, in the same canvas.
    base = PictureSource([(30, 20), (20, 10)], [(0, (2, 3, 6, 9)), (1, (1, 2, 5, 8))])
    tiles = TiledSource(base, TileGrid((20, 20), 0.5), min_visible=0.5)
    options = {"image_size": (40, 80), "levels": 2, "pad_multiple": 16}
    (batch,) = eval_batches(tiles, batch_size=3, **options)
    assert [level.shape for level in batch.pyramid] == [(3, 48, 48, 3), (3, 24, 24, 3)]
    np.testing.assert_array_equal(batch.image_size, [[40, 40], [40, 40], [40, 20]])
    np.testing.assert_array_equal(batch.scale, np.full((3, 2), 2))
    np.testing.assert_array_equal(batch.boxes[:, 0], [[4, 6, 12, 18], [0] * 4, [2, 4, 10, 16]])
    assert batch.pyramid[0][0, :40, :40].any(axis=-1).all()
    assert not batch.pyramid[0][0, 40:].any()
    # A tile by itself is prepared to the bit as in a batch.
    pyramid, size, scale = prepare_image(base.load_image(1), tile=(20, 20), **options)
    for level, of_batch in zip(pyramid, batch.pyramid, strict=True):
        np.testing.assert_array_equal(level, of_batch[2])
    np.testing.assert_array_equal(size, batch.image_size[2])
    np.testing.assert_array_equal(scale, batch.scale[2])
    with pytest.raises(ValueError, match=r"\(30, 20\) .* is larger than the tile of \(20, 20\)"):
        prepare_image(base.load_image(0), tile=(20, 20), **options)


def test_training_sees_every_tile_once_an_epoch():
    base = PictureSource([(16, 24), (20, 9)], [(0, (2, 3, 6, 9))])
    tiles = TiledSource(base, TileGrid((8, 8), 0.0), min_visible=0.5)
    options = {"batch_size": 3, "seed": 0, "image_size": (8, 8), "levels": 1, "pad_multiple": 8}
    batches = train_batches(tiles, flip=0.0, **options)
    seen = [next(batches) for _ in range(len(tiles) // 3)]
    batches.close()
    ids = np.concatenate([batch.image_id for batch in seen])
    assert sorted(ids) == [*range(12)]  # 2 x 3 and 3 x 2 tiles
    for batch in seen:
        for image, index in zip(batch.pyramid[0], batch.image_id, strict=True):
            np.testing.assert_array_equal(image, tiles.load_image(int(index)))


def test_neighbouring_tiles_decode_their_image_once():
    base = PictureSource([(8, 80)] * 3)
    grid, options = TileGrid((8, 8), 0.0), {"image_size": (8, 8), "levels": 1, "pad_multiple": 8}
    list(eval_batches(TiledSource(base, grid, min_visible=0.5), batch_size=6, **options))
    assert sorted(base.loaded) == [0, 1, 2]
    without = TiledSource(PictureSource([(8, 80)]), grid, min_visible=0.5, cache_bytes=0)
    for index in range(10):
        without.load_image(index)
    assert without.base.loaded == [0] * 10


def test_the_cache_keeps_the_last_used_within_its_bytes():
    loaded = []

    def load(index):
        loaded.append(index)
        return np.full((1, index, 3), index, np.uint8)  # 3 bytes times the index

    cache = ImageCache(load, 3 * 7)
    for index in (2, 3, 2, 4, 2, 3):  # the 4 takes the place of the 3, and the 3 that of the 4
        assert cache(index).shape == (1, index, 3)
    assert loaded == [2, 3, 4, 3]
    for index in (8, 2, 3):  # the 8 is too large to be kept, and takes no place
        cache(index)
    assert loaded == [2, 3, 4, 3, 8]


@pytest.mark.parametrize("fails", [False, True])
def test_threads_wait_for_one_another_and_share_the_image_or_the_error(fails):
    loaded, results, start = [], [], threading.Barrier(8)

    def load(index):
        loaded.append(index)
        time.sleep(0.1)  # so that the others come meanwhile
        if fails:
            raise OSError("it is gone")
        return np.zeros((1, 1, 3), np.uint8)

    cache = ImageCache(load, 100)

    def ask():
        start.wait(10)
        try:
            results.append(id(cache(5)))
        except OSError as error:
            results.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(results) == 8
    assert len({*results}) == 1
    if fails:
        with pytest.raises(OSError, match="gone"):
            cache(5)  # an error is not kept
    else:
        assert loaded == [5]
