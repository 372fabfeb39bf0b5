import functools

import box_strategies
import hypothesis.extra.numpy as hnp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipg_jax import ops

ANCHORS = np.float32([[0, 0, 4, 4], [2, 0, 6, 4], [8, 8, 12, 12], [0, 0, 4, 4], [4, 4, 5, 5]])


def iou_with_anchors(boxes):
    return ops.pairwise_iou(boxes, ANCHORS)


@functools.partial(jax.jit, static_argnames=("k", "pairs"))
def nearest(boxes, valid, k=2, pairs=10**6):
    return ops.nearest_anchors(iou_with_anchors, boxes, valid, k, anchors=len(ANCHORS), pairs=pairs)


def test_nearest_by_hand():
    boxes = np.float32([[0, 0, 4, 4], [9, 8, 13, 12], [2, 0, 6, 4]])
    found = nearest(boxes, np.array([True, True, False]))
    # Equal anchors come in their order; the third box is not valid.
    np.testing.assert_array_equal(found.index[:2], [[0, 3], [2, 0]])
    np.testing.assert_allclose(found.similarity[:2], [[1, 1], [12 / 20, 0]], rtol=1e-6)
    assert (np.asarray(found.similarity[2]) == -np.inf).all()
    np.testing.assert_allclose(found.best, [1, 8 / 24, 12 / 20, 1, 0], rtol=1e-6)


@pytest.mark.parametrize("per_chunk", [1, 2, 3])
@given(box_strategies.boxes(4), box_strategies.masks(4))
def test_chunks_of_boxes_give_the_same(per_chunk, boxes, valid):
    whole, parts = nearest(boxes, valid), nearest(boxes, valid, pairs=per_chunk * len(ANCHORS))
    np.testing.assert_array_equal(whole.index[valid], parts.index[valid])
    np.testing.assert_array_equal(whole.similarity, parts.similarity)
    np.testing.assert_array_equal(whole.best, parts.best)


def test_more_than_there_are():
    found = nearest(np.float32([[0, 0, 4, 4]]), np.ones(1, bool), k=9)
    np.testing.assert_array_equal(np.sort(found.index), [np.arange(5)])


def slow_settle(index, quality, claims, anchors):
    """Claim by claim, the boxes in their order."""
    owner, best = np.zeros(anchors, int), np.full(anchors, -1.0)
    for box in range(len(index)):
        for a, q, claim in zip(index[box], quality[box], claims[box], strict=True):
            if claim and q > best[a]:
                owner[a], best[a] = box, q
    return owner, best >= 0


@given(
    hnp.arrays(np.int32, (4, 3), elements=st.integers(0, 5)),
    hnp.arrays(np.int32, (4, 3), elements=st.integers(0, 3)),
    hnp.arrays(np.bool_, (4, 3)),
)
def test_claims_are_settled_as_by_a_slow_twin(index, quarters, claims):
    quality = quarters.astype(np.float32) / 4
    settle = jax.jit(ops.settle_claims, static_argnames="anchors")
    owner, taken = settle(index, quality, claims, anchors=6)
    slow_owner, slow_taken = slow_settle(index, quality, claims, 6)
    np.testing.assert_array_equal(owner, slow_owner)
    np.testing.assert_array_equal(taken, slow_taken)


def test_qualities_that_differ_by_rounding_are_equal():
    quality = jnp.float32([[0.7], [0.7 * (1 + 1e-7)], [0.70001]])
    index, claims = np.zeros((3, 1), np.int32), np.array([[True], [True], [False]])
    assert ops.settle_claims(index, quality, claims, anchors=1)[0] == 0
    assert ops.settle_claims(index, quality, ~claims, anchors=1)[0] == 2
