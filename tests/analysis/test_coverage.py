"""Best overlaps without anchors equal those with all anchors and what the matcher makes of them."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ipg_jax import ops
from ipg_jax.analysis.coverage import AnchorLayout, best_overlaps

LAYOUT = AnchorLayout(
    strides=(4, 8, 16, 32),
    sizes=ops.level_anchor_sizes(range(2, 6), 3.0, 2),
    ratios=(1 / 3, 1.0, 2.0),
)
CANVAS = (72, 104)  # on which strides of 16 and 32 become 14 and 24, 14 and 26


def all_anchors():
    """As the tasks make them, level by level."""
    shapes = [(-(-CANVAS[0] // s), -(-CANVAS[1] // s)) for s in LAYOUT.strides]
    strides = [(CANVAS[0] // rows, CANVAS[1] // columns) for rows, columns in shapes]
    return ops.pyramid_anchors(shapes, strides, LAYOUT.sizes, LAYOUT.ratios)


ANCHORS = all_anchors()


def random_boxes(seed, count=20):
    """Boxes inside the canvas, whole and half numbers among them, some at its edges."""
    rng = np.random.default_rng(seed)
    sides = np.exp(rng.uniform(0, np.log(CANVAS), (count, 2)))
    corners = rng.uniform(0, 1, (count, 2)) * (CANVAS - sides)
    corners = np.where(
        rng.random((count, 2)) < 0.2, np.where(corners < 30, 0, CANVAS - sides), corners
    )
    boxes = np.concatenate([corners[:, ::-1], (corners + sides)[:, ::-1]], axis=1)
    halves = np.round(2 * boxes) / 2
    halves[:, 2:] = np.maximum(halves[:, 2:], halves[:, :2] + 0.5)
    return np.where(rng.random((count, 1)) < 0.5, halves, boxes)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_equals_the_largest_overlap_of_all_anchors(seed):
    boxes = random_boxes(seed)
    expected = [
        np.asarray(ops.pairwise_iou(jnp.asarray(boxes, jnp.float32), level)).max(axis=1)
        for level in ANCHORS
    ]
    found = best_overlaps(boxes, np.tile(CANVAS, (len(boxes), 1)), LAYOUT)
    np.testing.assert_allclose(found, np.stack(expected, axis=1), rtol=2e-5, atol=1e-6)


def test_says_what_the_matcher_does_with_an_object_alone():
    boxes = random_boxes(1)
    best = best_overlaps(boxes, np.tile(CANVAS, (len(boxes), 1)), LAYOUT).max(axis=1)
    assert (best >= 0.5).any()
    assert (best < 0.4).any()
    anchors = jnp.concatenate(ANCHORS)
    for box, overlap in zip(np.float32(boxes), best, strict=True):
        matches = {
            forced: ops.match_anchors(
                anchors,
                box[None],
                np.array([True]),
                positive_threshold=0.5,
                negative_threshold=0.4,
                low_quality=forced,
            )
            for forced in (False, True)
        }
        positive = matches[False].state == ops.MatchState.POSITIVE
        assert bool(positive.any()) == (overlap >= 0.5)
        near = matches[False].state != ops.MatchState.NEGATIVE
        assert bool(near.any()) == (overlap >= 0.4)
        assert (matches[True].state == ops.MatchState.POSITIVE).any()


def test_an_overlap_worked_out_by_hand():
    layout = AnchorLayout(strides=(8,), sizes=((16.0,),), ratios=(1.0,))
    # The anchor at (24, 16) is [16, 8, 32, 24]; the box is its left half, 128 of 256.
    found = best_overlaps(np.array([[16.0, 8, 24, 24]]), np.array([[64, 64]]), layout)
    assert found.tolist() == [[0.5]]
    # 64 x 64 has 8 x 8 positions, the last of which is 56: a box at the corner sees [48, 64] of it.
    found = best_overlaps(np.array([[56.0, 56, 64, 64]]), np.array([[64, 64]]), layout)
    assert found.tolist() == [[64 / 256]]


def test_more_objects_than_are_looked_at_in_one_go(monkeypatch):
    boxes, canvas = random_boxes(2), np.tile(CANVAS, (20, 1))
    whole = best_overlaps(boxes, canvas, LAYOUT)
    monkeypatch.setattr("ipg_jax.analysis.coverage._CHUNK", 7)
    np.testing.assert_array_equal(best_overlaps(boxes, canvas, LAYOUT), whole)
    assert best_overlaps(boxes[:0], canvas[:0], LAYOUT).shape == (0, 4)


def test_anchors_are_counted():
    assert LAYOUT.count(CANVAS) == sum(map(len, ANCHORS))


@pytest.mark.parametrize("portrait", [False, True])
def test_each_object_has_its_own_canvas(portrait):
    canvas = (104, 72) if portrait else CANVAS
    box = np.array([[30.0, 20, 60, 50]])
    alone = best_overlaps(box, np.array([canvas]), LAYOUT)
    both = best_overlaps(np.tile(box, (2, 1)), np.array([CANVAS, (104, 72)]), LAYOUT)
    np.testing.assert_array_equal(both[[int(portrait)]], alone)
