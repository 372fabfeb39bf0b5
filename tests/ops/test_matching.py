import functools

import box_strategies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipg_jax import ops
from ipg_jax.ops import MatchState, matching

RPN = {"positive_threshold": 0.7, "negative_threshold": 0.3, "low_quality": True}
RETINANET = {"positive_threshold": 0.5, "negative_threshold": 0.4, "low_quality": True}
ROI_HEADS = {"positive_threshold": 0.5, "negative_threshold": 0.5, "low_quality": False}

static = ("low_quality", "pairs")
best_of_anchors = jax.jit(matching.best_of_anchors, static_argnames=static)
best_of_anchors_at_once = jax.jit(matching.best_of_anchors_at_once, static_argnames=static[:1])


def all_valid(boxes):
    return np.ones(len(boxes), bool)


def slow_match(anchors, boxes, valid, *, positive_threshold, negative_threshold, low_quality):
    """One anchor at a time, on the valid boxes only."""
    positive_threshold, negative_threshold = np.float32([positive_threshold, negative_threshold])
    rows = np.flatnonzero(valid)
    iou = np.asarray(ops.pairwise_iou(boxes, anchors))[rows]
    index, state = np.zeros(len(anchors), int), np.full(len(anchors), MatchState.NEGATIVE)
    for a in range(len(anchors)):
        if not len(rows):
            continue
        index[a], best = rows[iou[:, a].argmax()], iou[:, a].max()
        forced = low_quality and any(row[a] >= row.max() * (1 - 1e-6) > 0 for row in iou)
        if best >= positive_threshold or forced:
            state[a] = MatchState.POSITIVE
        elif best >= negative_threshold:
            state[a] = MatchState.IGNORE
    return index, state


def test_states_by_hand():
    box = np.float32([[0, 0, 10, 10]])
    anchors = np.float32([[0, 0, 10, 10], [0, 0, 10, 5], [0, 0, 10, 4], [0, 0, 10, 3]])
    index, state = ops.match_anchors(
        anchors, box, all_valid(box), positive_threshold=0.5, negative_threshold=0.4,
        low_quality=False,
    )  # fmt: skip
    np.testing.assert_array_equal(index, 0)
    assert [MatchState(s) for s in state.tolist()] == [
        MatchState.POSITIVE,
        MatchState.POSITIVE,
        MatchState.IGNORE,
        MatchState.NEGATIVE,
    ]


def test_low_quality_matches_tie_but_for_rounding():
    box = np.array([[50.1, 50.1, 59.8, 59.8]])
    anchors = np.float32(box + np.array([[-2.3], [2.3], [2.31]]) * [1, 0, 1, 0])
    box = np.float32(box)
    iou = np.asarray(ops.pairwise_iou(box, anchors))[0]
    assert iou[0] != iou[1]
    _, state = ops.match_anchors(anchors, box, all_valid(box), **RPN)
    np.testing.assert_array_equal(state == MatchState.POSITIVE, [True, True, False])


def test_low_quality_matches_keep_ties_and_their_own_box():
    boxes = np.float32([[0, 0, 10, 10], [0, 0, 2, 2]])
    # Both anchors have the largest IoU with the small box (0.04), but overlap the large one more.
    anchors = np.float32([[0, 0, 10, 10], [0, 0, 10, 10], [0, 5, 10, 15], [30, 30, 40, 40]])
    index, state = ops.match_anchors(anchors, boxes, all_valid(boxes), **RPN)
    np.testing.assert_array_equal(index[:3], 0)
    np.testing.assert_array_equal(
        state,
        [MatchState.POSITIVE, MatchState.POSITIVE, MatchState.IGNORE, MatchState.NEGATIVE],
    )


def test_matches_torchvision(golden):
    anchors, boxes = golden["anchors"], golden["boxes"]
    for (high, low), low_quality, reference in zip(
        golden["thresholds"].tolist(), golden["low_quality"], golden["matches"], strict=True
    ):
        index, state = ops.match_anchors(
            anchors,
            boxes,
            all_valid(boxes),
            positive_threshold=high,
            negative_threshold=low,
            low_quality=bool(low_quality),
        )
        expected = np.select(
            [reference == -1, reference == -2],
            [MatchState.NEGATIVE, MatchState.IGNORE],
            MatchState.POSITIVE,
        )
        np.testing.assert_array_equal(state, expected)
        np.testing.assert_array_equal(index, golden["index"])
        if low_quality:
            # The case holds what it is there for: matches forced below the threshold, and ties.
            iou = np.asarray(ops.pairwise_iou(boxes, anchors))
            assert ((reference >= 0) & (iou.max(0) < high)).any()
            assert ((iou == iou.max(1, keepdims=True)).sum(1) > 1).any()


@pytest.mark.parametrize("settings", [RPN, RETINANET, ROI_HEADS])
@given(box_strategies.boxes(9), box_strategies.boxes(5), box_strategies.masks(5))
def test_matches_slow_twin(settings, anchors, boxes, valid):
    index, state = ops.match_anchors(anchors, boxes, valid, **settings)
    slow_index, slow_state = slow_match(anchors, boxes, valid, **settings)
    np.testing.assert_array_equal(state, slow_state)
    np.testing.assert_array_equal(index, slow_index)


@given(box_strategies.boxes(9), box_strategies.boxes(4), st.integers(0, 4))
def test_padding_changes_nothing(anchors, boxes, padding):
    index, state = ops.match_anchors(anchors, boxes, all_valid(boxes), **RPN)
    padded = np.concatenate([boxes, np.zeros((padding, 4), np.float32)])
    valid = np.arange(len(padded)) < len(boxes)
    padded_index, padded_state = ops.match_anchors(anchors, padded, valid, **RPN)
    np.testing.assert_array_equal(padded_index, index)
    np.testing.assert_array_equal(padded_state, state)


@pytest.mark.parametrize("num_boxes", [0, 3])
def test_without_ground_truth_all_is_negative(num_boxes):
    anchors = np.float32([[0, 0, 4, 4], [2, 2, 9, 9], [0, 0, 0, 0]])
    boxes = np.zeros((num_boxes, 4), np.float32)
    index, state = ops.match_anchors(anchors, boxes, np.zeros(num_boxes, bool), **RPN)
    np.testing.assert_array_equal(state, MatchState.NEGATIVE)
    np.testing.assert_array_equal(index, 0)


def test_a_box_that_overlaps_nothing_forces_nothing():
    anchors = np.float32([[0, 0, 4, 4], [50, 50, 60, 60]])
    boxes = np.float32([[0, 0, 4, 4], [20, 20, 20, 25]])
    _, state = ops.match_anchors(anchors, boxes, all_valid(boxes), **RPN)
    np.testing.assert_array_equal(state, [MatchState.POSITIVE, MatchState.NEGATIVE])


def test_without_anchors():
    boxes = np.float32([[0, 0, 4, 4]])
    index, state = ops.match_anchors(np.zeros((0, 4), np.float32), boxes, all_valid(boxes), **RPN)
    assert index.shape == state.shape == (0,)


def test_jit_and_vmap_equal_the_loop(golden):
    anchors, boxes = jnp.asarray(golden["anchors"]), golden["boxes"]
    batch = jnp.asarray(np.stack([boxes, boxes + 1.5, boxes * 0.7]))
    valid = jnp.asarray(np.arange(len(boxes)) < np.array([[14], [7], [0]]))

    def match(boxes, valid):
        return ops.match_anchors(anchors, boxes, valid, **RETINANET)

    mapped = jax.jit(jax.vmap(match))(batch, valid)
    for i in range(3):
        one = match(batch[i], valid[i])
        np.testing.assert_array_equal(mapped.index[i], one.index)
        np.testing.assert_array_equal(mapped.state[i], one.state)


def test_thresholds_must_be_ordered():
    boxes = np.float32([[0, 0, 4, 4]])
    with pytest.raises(ValueError, match=r"negative_threshold=0\.6 is above"):
        ops.match_anchors(
            boxes, boxes, all_valid(boxes), positive_threshold=0.5, negative_threshold=0.6,
            low_quality=False,
        )  # fmt: skip


@pytest.mark.parametrize("low_quality", [True, False])
@given(box_strategies.boxes(9), box_strategies.boxes(5), box_strategies.masks(5))
def test_one_pass_over_the_pairs_gives_the_same(low_quality, anchors, boxes, valid):
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    arguments = anchors, boxes, valid, values
    apart = best_of_anchors(*arguments, low_quality=low_quality)
    at_once = best_of_anchors_at_once(*arguments, low_quality=low_quality)
    jax.tree.map(np.testing.assert_array_equal, at_once, apart)


@pytest.mark.parametrize("per_chunk", [1, 2, 3])
@given(box_strategies.boxes(9), box_strategies.boxes(5), box_strategies.masks(5))
def test_chunks_of_boxes_give_the_same(per_chunk, anchors, boxes, valid):
    values = np.arange(10, dtype=np.float32).reshape(5, 2)
    arguments = anchors, boxes, valid, values
    whole = best_of_anchors(*arguments, low_quality=True)
    # Nine anchors: chunks of 1, of 2, 2 and 1, of 3 and 2 boxes.
    parts = best_of_anchors(*arguments, low_quality=True, pairs=9 * per_chunk + 5)
    jax.tree.map(np.testing.assert_array_equal, parts, whole)


def test_chunks_are_bit_equal_to_all_pairs_at_once():
    """With boxes and anchors of any size, whose IoUs are rounded, in one compiled program."""
    rng = np.random.default_rng(0)

    def random_boxes(n):
        corner, size = rng.uniform(0, 90, (n, 2)), rng.uniform(1, 30, (n, 2))
        return np.concatenate([corner, corner + size], axis=1).astype(np.float32)

    anchors, boxes, valid = random_boxes(3000), random_boxes(50), rng.random(50) < 0.8

    def of_chunks(pairs):
        return best_of_anchors(anchors, boxes, valid, boxes, low_quality=True, pairs=pairs)

    jax.tree.map(np.testing.assert_array_equal, of_chunks(7 * 3000), of_chunks(10**6))
    iou = np.where(valid[:, None], np.asarray(ops.pairwise_iou(boxes, anchors)), -1)
    np.testing.assert_array_equal(of_chunks(7 * 3000).iou, iou.max(axis=0))
    np.testing.assert_array_equal(of_chunks(7 * 3000).index, iou.argmax(axis=0))


def test_dense_scenes_are_matched_in_bounded_memory():
    """The most objects of an image of AI-TOD; nine anchors a position, P2 to P6 of 800x1344."""
    shapes = {"anchors": (806_000, 4), "boxes": (2667, 4), "values": (2667, 5)}
    arguments = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    arguments["valid"] = jax.ShapeDtypeStruct((2667,), jnp.bool_)
    match = jax.jit(functools.partial(ops.match_and_take, **RETINANET))
    memory = match.lower(**arguments).compile().memory_analysis()
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 300e6


@given(box_strategies.boxes(9), box_strategies.boxes(5), box_strategies.masks(5))
def test_values_are_those_of_the_index(anchors, boxes, valid):
    values = np.arange(15, dtype=np.float32).reshape(5, 3)
    matches, taken = ops.match_and_take(anchors, boxes, valid, values, **RETINANET)
    np.testing.assert_array_equal(taken, values[matches.index])
    want = ops.match_anchors(anchors, boxes, valid, **RETINANET)
    jax.tree.map(np.testing.assert_array_equal, matches, want)


def test_values_without_ground_truth():
    anchors, none = np.float32([[0, 0, 4, 4]]), np.zeros((0, 4), np.float32)
    _, taken = ops.match_and_take(
        anchors, none, np.zeros(0, bool), np.zeros((0, 3), np.float32), **RPN
    )
    np.testing.assert_array_equal(taken, np.zeros((1, 3)))
