import box_strategies
import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipg_jax import ops


def kept(result):
    indices, valid = map(np.asarray, result)
    assert indices.dtype == np.int32
    assert valid.dtype == bool
    assert (valid[:-1] >= valid[1:]).all()  # unused slots are at the end, with index 0
    assert (indices[~valid] == 0).all()
    return indices[valid].tolist()


def slow_nms(boxes, scores, labels, iou_threshold, max_output_size, valid):
    """Greedy suppression, one box at a time."""
    iou = np.asarray(ops.pairwise_iou(boxes, boxes))
    keep = []
    for i in np.argsort(-scores, kind="stable"):
        if valid[i] and not any(
            labels[i] == labels[j] and iou[i, j] > np.float32(iou_threshold) for j in keep
        ):
            keep.append(int(i))
    return keep[:max_output_size]


def clustered_boxes(rng, n):
    center = rng.uniform(0, 500, (n // 15 + 1, 2))[rng.integers(0, n // 15 + 1, n)]
    center = center + rng.normal(0, 8, (n, 2))
    half = rng.uniform(15, 40, (n, 2))
    return np.concatenate([center - half, center + half], axis=1).astype(np.float32)


def test_chain_keeps_what_only_a_suppressed_box_overlaps():
    # A-B and B-C overlap by 4/10, A-C by 1/13. B is suppressed by A and may not suppress C.
    boxes = np.float32([[0, 0, 7, 1], [3, 0, 10, 1], [6, 0, 13, 1]])
    scores = np.float32([0.9, 0.8, 0.7])
    assert kept(ops.nms(boxes, scores, 0.3, 3)) == [0, 2]
    assert kept(ops.nms(boxes, scores, 0.05, 3)) == [0]
    assert kept(ops.nms(boxes, scores, 0.45, 3)) == [0, 1, 2]


def test_only_strictly_more_than_the_threshold_suppresses():
    boxes = np.float32([[0, 0, 2, 1], [0, 0, 1, 1]])  # IoU exactly 1/2
    scores = np.float32([0.9, 0.8])
    assert kept(ops.nms(boxes, scores, 0.5, 2)) == [0, 1]
    assert kept(ops.nms(boxes, scores, 0.49, 2)) == [0]


def test_order_and_ties():
    boxes = np.float32([[i, 0, i + 1, 1] for i in range(0, 10, 2)])
    scores = np.float32([0.5, 0.9, 0.5, -1, 0.9])
    assert kept(ops.nms(boxes, scores, 0.5, 5)) == [1, 4, 0, 2, 3]
    same = np.zeros((4, 4), np.float32) + np.float32([0, 0, 1, 1])
    assert kept(ops.nms(same, np.ones(4, np.float32), 0.5, 4)) == [0]


def test_matches_torchvision(golden):
    boxes, scores = golden["boxes"], golden["scores"]
    labels = golden["labels"].astype(np.int32)
    for i, threshold in enumerate(golden["thresholds"].tolist()):
        expected = golden[f"keep_{i}"].tolist()
        assert kept(ops.nms(boxes, scores, threshold, len(boxes))) == expected
        assert kept(ops.nms(boxes, scores, threshold, 20)) == expected[:20]
        expected = golden[f"batched_keep_{i}"].tolist()
        assert kept(ops.batched_nms(boxes, scores, labels, threshold, len(boxes))) == expected
        assert len(expected) < len(boxes)


@pytest.mark.parametrize("n", [128, 129, 400])
@pytest.mark.parametrize("max_output_size", [30, 500])
def test_matches_slow_twin_over_several_tiles(n, max_output_size):
    rng = np.random.default_rng(n)
    boxes = clustered_boxes(rng, n)
    scores = (rng.integers(0, 200, n) / 200).astype(np.float32)
    labels, valid = rng.integers(0, 3, n, np.int32), rng.uniform(size=n) < 0.8
    for threshold in (0.2, 0.6):
        expected = slow_nms(boxes, scores, labels, threshold, max_output_size, valid)
        result = ops.batched_nms(boxes, scores, labels, threshold, max_output_size, valid)
        assert kept(result) == expected


def test_long_chain():
    # Each box overlaps its neighbours only, so that every other one is kept, across tiles too.
    x = 3.0 * np.arange(600, dtype=np.float32)
    boxes = np.stack([x, 0 * x, x + 5, 0 * x + 1], axis=1)
    scores = np.linspace(1, 0, 600, dtype=np.float32)
    assert kept(ops.nms(boxes, scores, 0.2, 600)) == list(range(0, 600, 2))


@given(
    box_strategies.boxes(14, extent=12),
    hnp.arrays(np.int64, (14,), elements=st.integers(0, 5)),
    hnp.arrays(np.int32, (14,), elements=st.integers(0, 2)),
    box_strategies.masks(14),
    st.sampled_from([0.0, 0.2, 0.5, 0.8]),
)
def test_properties(boxes, scores, labels, valid, threshold):
    scores = scores.astype(np.float32)
    result = ops.batched_nms(boxes, scores, labels, threshold, 14, valid)
    keep = kept(result)
    assert keep == slow_nms(boxes, scores, labels, threshold, 14, valid)
    iou = np.asarray(ops.pairwise_iou(boxes, boxes))
    over = (iou > threshold) & (labels[:, None] == labels)
    assert not np.triu(over[np.ix_(keep, keep)], k=1).any()
    for i in set(np.flatnonzero(valid)) - set(keep):
        assert any(over[i, j] and scores[j] >= scores[i] for j in keep)


def test_vmap_equals_loop():
    rng = np.random.default_rng(0)
    boxes = np.stack([clustered_boxes(rng, 400) for _ in range(3)])
    scores = rng.uniform(size=(3, 400)).astype(np.float32)
    labels = rng.integers(0, 4, (3, 400), np.int32)
    valid = np.arange(400) < np.array([[400], [130], [0]])  # images that end at different tiles

    def one(*args):
        return ops.batched_nms(*args[:3], 0.4, 60, args[3])

    indices, filled = jax.jit(jax.vmap(one))(boxes, scores, labels, valid)
    for i in range(3):
        assert kept((indices[i], filled[i])) == kept(one(boxes[i], scores[i], labels[i], valid[i]))
    assert not filled[2].any()


def test_padding_changes_nothing(golden):
    boxes, scores = golden["boxes"], golden["scores"]
    padded = np.concatenate([boxes, np.zeros((90, 4), np.float32)])
    padded_scores = np.concatenate([scores, np.full(90, 5, np.float32)])
    valid = np.arange(len(padded)) < len(boxes)
    assert kept(ops.nms(padded, padded_scores, 0.5, 150, valid)) == kept(
        ops.nms(boxes, scores, 0.5, 150)
    )


def test_scores_that_are_not_a_number_take_no_part():
    boxes = np.float32([[0, 0, 1, 1], [0, 0, 1, 1], [5, 5, 6, 6]])
    assert kept(ops.nms(boxes, np.float32([np.nan, 0.2, -np.inf]), 0.5, 3)) == [1, 2]
    assert kept(ops.nms(boxes, np.full(3, np.nan, np.float32), 0.5, 3)) == []


def test_empty():
    boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    indices, valid = ops.nms(boxes, scores, 0.5, 4)
    assert indices.shape == valid.shape == (4,)
    assert kept((indices, valid)) == []
    indices, _ = ops.nms(np.float32([[0, 0, 1, 1]]), np.ones(1, np.float32), 0.5, 0)
    assert indices.shape == (0,)


def test_classes_far_apart_keep_the_last_bits():
    # An offset of label * size would round these corners, half a pixel apart, to one another.
    boxes = np.float32([[0, 0, 1, 1], [0.5, 0, 1.5, 1]])  # IoU 1/3
    labels = np.full(2, 90_000_000, np.int32)
    assert kept(ops.batched_nms(boxes, np.float32([0.9, 0.8]), labels, 0.5, 2)) == [0, 1]
