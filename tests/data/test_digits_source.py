import sys

import numpy as np
import pytest

from ipg_jax.data import DigitsSource
from ipg_jax.data.sources.digits import load_glyphs


@pytest.fixture(scope="module")
def train():
    return DigitsSource("train", num_scenes=60, seed=3)


def test_records(train):
    records = train.records
    assert len(train) == 60
    assert train.class_names == tuple("0123456789")
    np.testing.assert_array_equal(records.sizes, np.full((60, 2), 192))
    sides = records.boxes[:, 2:] - records.boxes[:, :2]
    longest = sides.max(axis=1)
    assert longest.min() >= 8
    assert longest.max() <= 40
    assert sides.min() >= 3
    assert set(records.labels) == set(range(10))
    counts = np.diff(records.offsets)
    assert counts.min() >= 3
    assert counts.max() <= 12
    assert train.report.counts == {}


def test_scenes_are_a_pure_function_of_seed_split_and_index(train):
    again = DigitsSource("train", num_scenes=5, seed=3)
    count = again.records.offsets[-1]
    np.testing.assert_array_equal(again.records.boxes, train.records.boxes[:count])
    np.testing.assert_array_equal(again.load_image(4), train.load_image(4))
    for other in (
        DigitsSource("train", num_scenes=5, seed=4),
        DigitsSource("eval", num_scenes=5, seed=3),
    ):
        assert not np.array_equal(other.records.objects(0).boxes, train.records.objects(0).boxes)
        assert not np.array_equal(other.load_image(0), train.load_image(0))


def test_digits_hardly_cover_each_other(train):
    for i in range(len(train)):
        boxes = train.records.objects(i).boxes
        low = np.maximum(boxes[:, None, :2], boxes[None, :, :2])
        high = np.minimum(boxes[:, None, 2:], boxes[None, :, 2:])
        areas = np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)
        covered = np.prod(np.maximum(high - low, 0), axis=2) / np.minimum(areas[:, None], areas)
        np.fill_diagonal(covered, 0)
        assert covered.max() <= 0.1


def test_boxes_are_tight_around_the_ink(train, monkeypatch):
    """Painting over a flat background shows exactly which pixels have ink."""
    monkeypatch.setattr(
        "ipg_jax.data.sources.digits.background", lambda size, rng: np.full((size, size, 3), 100.0)
    )
    for i in range(10):
        # The sensor noise has a standard deviation of 3; ink at the edge stands out by far more.
        ink = np.abs(train.load_image(i).astype(float) - 100).mean(axis=2) > 10
        expected = np.zeros_like(ink)
        for x0, y0, x1, y1 in train.records.objects(i).boxes.astype(int):
            expected[y0:y1, x0:x1] = True
            patch = ink[y0:y1, x0:x1]
            assert patch[0].any()
            assert patch[-1].any()
            assert patch[:, 0].any()
            assert patch[:, -1].any()
        assert not (ink & ~expected).any()


def test_splits_share_no_digit(monkeypatch):
    """Every digit is replaced by its number in binary, written in faint and full ink."""
    bits = (np.arange(40)[:, None] >> np.arange(64)) & 1
    numbered = np.where(bits, 5.0, 16.0), np.arange(40) % 10
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda **_: numbered)
    found = {}
    for split in ("train", "eval"):
        glyphs, labels = load_glyphs(split)
        numbers = [int(((glyph.ravel() < 1) * 2 ** np.arange(64)).sum()) for glyph in glyphs]
        np.testing.assert_array_equal(labels, np.array(numbers) % 10)
        found[split] = set(numbers)
    assert found["train"] | found["eval"] == set(range(40))
    assert not found["train"] & found["eval"]
    assert len(found["eval"]) == 8


def test_errors(monkeypatch):
    with pytest.raises(ValueError, match="at least 48 x 48"):
        DigitsSource("train", num_scenes=1, scene_size=40)
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r"ipg-jax\[demo\]"):
        DigitsSource("train", num_scenes=1)
