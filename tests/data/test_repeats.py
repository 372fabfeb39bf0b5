"""Repeat factors: LVIS's rule for rare classes, and images with small objects."""

import numpy as np
import pytest

from ipg_jax.data import DataReport, repeat_factors
from ipg_jax.data.sources.base import build_records


def records_of(images):
    """Records of 100x100 images; an object is (label, side) or (label, side, ignore)."""
    rows = [(i, *obj, *[False] * (3 - len(obj))) for i, objs in enumerate(images) for obj in objs]
    image, label, side, ignore = (np.array(x) for x in zip(*rows, strict=True))
    corner = np.zeros(len(side))
    return build_records(
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
        report=DataReport("made"),
    )


def test_rare_classes_by_hand():
    # Class 0 is in all 4 images (twice in one), class 1 in one: f = 1 and 1/4. With t = 1 its
    # factor is sqrt(1 / (1/4)) = 2; with t = 1/2, sqrt(2).
    records = records_of([[(0, 50), (0, 40)], [(0, 50)], [(0, 50), (1, 50)], [(0, 50)]])
    np.testing.assert_allclose(repeat_factors(records, 2, class_share=1.0), [1, 1, 2, 1])
    np.testing.assert_allclose(repeat_factors(records, 2, class_share=0.5), [1, 1, np.sqrt(2), 1])
    np.testing.assert_allclose(repeat_factors(records, 2), [1, 1, 1, 1])


def test_small_objects_and_the_larger_of_two_factors():
    # Sides of 31 and 32 pixels: the second has just the area of the limit, and is not small.
    records = records_of([[(0, 31), (1, 99)], [(0, 32)], [(0, 33)], []])
    np.testing.assert_allclose(repeat_factors(records, 2, small_repeat=1.5), [1.5, 1, 1, 1])
    # Class 1 in one of four images: sqrt(1 / (1/4)) = 2.
    both = repeat_factors(records, 2, small_repeat=1.5, class_share=1.0)
    np.testing.assert_allclose(both, [2, np.sqrt(4 / 3), np.sqrt(4 / 3), 1])


def test_what_training_leaves_out_counts_for_nothing():
    records = records_of([[(0, 50), (1, 10, True)], [(0, 50)]])
    found = repeat_factors(records, 2, class_share=1.0, small_repeat=3.0)
    np.testing.assert_allclose(found, [1, 1])


@pytest.mark.parametrize(
    "wrong",
    [{"class_share": 0.0}, {"class_share": 1.5}, {"small_repeat": 0.5}, {"small_side": 0.0}],
)
def test_refuses(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        repeat_factors(records_of([[(0, 50)]]), 1, **wrong)
