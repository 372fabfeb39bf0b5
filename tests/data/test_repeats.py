"""Repeat factors: LVIS's rule for rare classes, and images with small objects."""

import numpy as np
import pytest

from ipg_jax.data import DataReport, Source, TiledSource, repeat_factors
from ipg_jax.data.sources.base import build_records
from ipg_jax.images import TileGrid


class Squares(Source):
    """Images of 100x100 pixels, of which nobody looks at a pixel."""

    def load_image(self, index):
        raise NotImplementedError


def source_of(images):
    """Objects of two classes at (0, 0); each is (label, side) or (label, side, ignore)."""
    rows = [(i, *obj, *[False] * (3 - len(obj))) for i, objs in enumerate(images) for obj in objs]
    image, label, side, ignore = (np.array(x) for x in zip(*rows, strict=True))
    corner = np.zeros(len(side))
    report = DataReport("made")
    records = build_records(
        image_ids=list(range(len(images))),
        file_names=[f"{i}.png" for i in range(len(images))],
        sizes=np.full((len(images), 2), 100),
        image_index=image,
        boxes=np.stack([corner, corner, side, side], axis=1).astype(float),
        labels=label,
        ignore=ignore.astype(bool),
        area=np.full(len(rows), np.nan),
        keep=np.ones(len(images), bool),
        drop_empty=False,
        report=report,
    )
    classes = {"class_names": ["a", "b"], "category_ids": [1, 2]}
    return Squares(name="made", records=records, report=report, **classes)


def test_rare_classes_by_hand():
    # Class 0 is in all 4 images (twice in one), class 1 in one: f = 1 and 1/4. With t = 1 its
    # factor is sqrt(1 / (1/4)) = 2; with t = 1/2, sqrt(2).
    source = source_of([[(0, 50), (0, 40)], [(0, 50)], [(0, 50), (1, 50)], [(0, 50)]])
    np.testing.assert_allclose(repeat_factors(source, class_share=1.0), [1, 1, 2, 1])
    np.testing.assert_allclose(repeat_factors(source, class_share=0.5), [1, 1, np.sqrt(2), 1])
    np.testing.assert_allclose(repeat_factors(source), [1, 1, 1, 1])


def test_small_objects_and_the_larger_of_two_factors():
    # Sides of 31 and 32 pixels: the second has just the area of the limit, and is not small.
    source = source_of([[(0, 31), (1, 99)], [(0, 32)], [(0, 33)], []])
    np.testing.assert_allclose(repeat_factors(source, small_repeat=1.5), [1.5, 1, 1, 1])
    # Class 1 in one of four images: sqrt(1 / (1/4)) = 2.
    both = repeat_factors(source, small_repeat=1.5, class_share=1.0)
    np.testing.assert_allclose(both, [2, np.sqrt(4 / 3), np.sqrt(4 / 3), 1])


def test_what_training_leaves_out_counts_for_nothing():
    source = source_of([[(0, 50), (1, 10, True)], [(0, 50)]])
    found = repeat_factors(source, class_share=1.0, small_repeat=3.0)
    np.testing.assert_allclose(found, [1, 1])


def test_parts_of_objects_in_tiles_are_as_large_as_the_objects():
    # Tiles begin at 0 and 50. Of the object of 60 x 60 all four tiles have a part, of 10 x 10 in
    # the last; that of 20 x 20 is in the first one.
    source = source_of([[(0, 60)], [(0, 20)]])
    tiles = TiledSource(source, TileGrid((50, 50), 0.0), min_visible=0.0)
    assert tiles.records.boxes[3].tolist() == [0, 0, 10, 10]
    found = repeat_factors(tiles, small_repeat=3.0)
    np.testing.assert_allclose(found, [1, 1, 1, 1, 3, 1, 1, 1])


@pytest.mark.parametrize(
    "wrong",
    [{"class_share": 0.0}, {"class_share": 1.5}, {"small_repeat": 0.5}, {"small_side": 0.0}],
)
def test_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        repeat_factors(source_of([[(0, 50)]]), **wrong)
