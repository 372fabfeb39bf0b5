import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from slow_matchers import slow_atss, slow_nwd, slow_rfla

from ipg_jax import ops
from ipg_jax.ops import MatchState
from ipg_jax.tasks.matchers import (
    MATCHERS,
    RETINANET_IOU,
    AtssMatcher,
    NwdMatcher,
    RflaMatcher,
    anchors_by_kind,
    flat,
    receptive_field,
)

FIELDS = (20.0, 60.0)
MATCHERS_HERE = {
    "iou": RETINANET_IOU,
    "atss": AtssMatcher(k=2),
    "nwd": NwdMatcher(),
    "rfla": RflaMatcher(receptive_fields=FIELDS),
}


@functools.cache
def anchors():
    """Two kinds on each of the 8x8 and 4x4 positions of 64x64 pixels, [kinds, positions, 4]."""
    levels = ops.pyramid_anchors(
        [(8, 8), (4, 4)], [(8, 8), (16, 16)], [(16.0,), (32.0,)], (0.5, 1.0)
    )
    return anchors_by_kind(levels, 2)


def test_the_order_of_anchors_by_hand():
    # Two kinds, at two positions and at one; the number is the corner of an anchor.
    levels = [np.float32([[0] * 4, [1] * 4, [2] * 4, [3] * 4]), np.float32([[4] * 4, [5] * 4])]
    two, one = anchors_by_kind(levels, 2)
    assert two[..., 0].tolist() == [[0, 2], [1, 3]]
    assert one[..., 0].tolist() == [[4], [5]]
    assert flat((two, one))[:, 0].tolist() == [0, 2, 1, 3, 4, 5]


def squares(centers, side):
    """One kind of anchor, `[1, n, 4]`, around centres (x, y)."""
    centers = np.asarray(centers, np.float32)
    return np.concatenate([centers - side / 2, centers + side / 2], axis=1)[None]


def match(matcher, levels, boxes, valid=None, ignore=None):
    """Index and state of each anchor."""
    boxes = np.asarray(boxes, np.float32)
    valid = np.ones(len(boxes), bool) if valid is None else np.asarray(valid)
    ignore = np.zeros(len(boxes), bool) if ignore is None else np.asarray(ignore)
    matches, taken = matcher(levels, boxes, valid, ignore, boxes)
    if len(boxes):
        np.testing.assert_array_equal(taken, boxes[matches.index])
    return np.asarray(matches.index), np.asarray(matches.state)


def random_boxes(seed, n=5, least=3, most=30):
    rng = np.random.default_rng(seed)
    center, size = rng.uniform(4, 60, (n, 2)), np.exp(rng.uniform(*np.log([least, most]), (n, 2)))
    return np.concatenate([center - size / 2, center + size / 2], axis=1).astype(np.float32)


def test_atss_by_hand():
    """IoUs 1, 1/3 and 0: mean 4/9, deviation sqrt((25 + 1 + 16) / 81 / 2) = 0.51, sum 0.95."""
    levels = (squares([(4, 4), (8, 4), (20, 4)], 8),)
    box = [[0, 0, 8, 8]]
    _, state = match(AtssMatcher(k=3), levels, box)
    np.testing.assert_array_equal(state == MatchState.POSITIVE, [True, False, False])
    assert not (state == MatchState.IGNORE).any()
    # Of two candidates the sum is 2/3 + 0.47, more than any IoU; of one it is its own.
    assert (match(AtssMatcher(k=2), levels, box)[1] == MatchState.NEGATIVE).all()
    assert match(AtssMatcher(k=1), levels, box)[1][0] == MatchState.POSITIVE


def test_atss_wants_the_centre_inside():
    levels = (squares([(8, 4), (12, 4)], 8),)
    for right, positive in ((8.0, False), (8.5, True)):
        _, state = match(AtssMatcher(k=1), levels, [[0, 0, right, 8]])
        assert (state[0] == MatchState.POSITIVE) == positive


def test_nwd_by_hand():
    """Of anchors with the object's shape, W is the distance: 4, 8, 15 and 16 pixels."""
    levels = (squares([(4, 0), (8, 0), (15, 0), (16, 0)], 4),)
    _, state = match(NwdMatcher(), levels, [[-2, -2, 2, 2]])
    # exp(-15 / 12.7) = 0.307 is neither positive nor negative, exp(-16 / 12.7) = 0.284 negative.
    np.testing.assert_array_equal(state, [2, 2, 0, 1])
    _, state = match(NwdMatcher(k=1, ignore_from=2.0), levels, [[-2, -2, 2, 2]])
    np.testing.assert_array_equal(state, [2, 1, 1, 1])


def test_rfla_by_hand():
    """Fields of standard deviation 20 / 4, objects of 5: `D = (distance / 5)^2 / 2`."""
    levels = (squares([(0, 0), (5, 0), (12, 0), (20, 0)], 99),)
    matcher = RflaMatcher(receptive_fields=(20.0,), k=2, ignore_from=0.2)
    _, state = match(matcher, levels, [[-5, -5, 5, 5]])
    # Fields of 4.5 next: D = 0.81 + (d / 5)^2 / 2 - 2 log(0.9) - 1 = 0.021 + (d / 5)^2 / 2, which
    # gives 1 / (1 + D) = 0.25 at 12 pixels and 0.11 at 20; the nearest has its object already.
    np.testing.assert_array_equal(state, [2, 2, 0, 1])


def test_rfla_gives_a_free_position_when_the_fields_have_shrunk():
    """Fields of 10.5 and of 8 pixels for an object of 9.

    With `r = field / 9`, `D = r^2 - 1 - 2 log r` is 0.053 and 0.026 at first, so the smaller field
    is taken; of fields shrunk by 0.9 it is 0.005 and 0.086, so then the larger one is.
    """
    levels = squares([(0, 0)], 30), squares([(0, 0)], 60)
    matcher = RflaMatcher(receptive_fields=(16.0, 21.0), k=1)
    _, state = match(matcher, levels, [[-4.5, -4.5, 4.5, 4.5]])
    np.testing.assert_array_equal(state, [MatchState.POSITIVE, MatchState.POSITIVE])


def test_receptive_fields_are_those_of_the_published_code():
    """7 of the stem, 4 of pooling, then convolutions with strides of 4, 8 and so on."""
    fields = [receptive_field(level) for level in range(2, 8)]
    assert fields[0] == 7 + 2 * 2 + 3 * 2 * 4
    assert fields[1] == fields[0] + 2 * 4 + 3 * 2 * 8
    assert fields[2] == fields[1] + 2 * 8 + 5 * 2 * 16
    assert fields[3] == fields[2] + 2 * 16 + 2 * 2 * 32
    assert fields[4:] == [fields[3] + 2 * 64, fields[3] + 2 * 64 + 2 * 128]


@pytest.mark.parametrize(("name", "positives"), [("nwd", {2}), ("rfla", {6, 8})])
def test_tiny_objects_get_their_positives_where_the_iou_gives_none(name, positives):
    """Nwd: k anchors. Rfla: the two anchors of k positions, and perhaps of one more."""
    corner = np.float32([[3, 5], [29, 9], [10, 42], [50, 51]])
    boxes = np.concatenate([corner, corner + 4], axis=1)
    every = np.concatenate([np.asarray(level).reshape(-1, 4) for level in anchors()])
    assert np.asarray(ops.pairwise_iou(boxes, every)).max() < 0.1
    index, state = match(MATCHERS_HERE[name], anchors(), boxes)
    counts = np.bincount(index[state == MatchState.POSITIVE], minlength=4)
    assert set(counts) <= positives


@pytest.mark.parametrize("name", ["atss", "nwd", "rfla"])
def test_an_anchor_of_several_objects_goes_to_the_most_similar(name):
    levels = (squares([(0, 0), (30, 0), (60, 0)], 8),)
    boxes = np.float32([[-2, -3, 7, 6], [-4, -4, 4, 4], [-5, -3, 4, 6]])
    matcher = {
        "atss": AtssMatcher(k=1),
        "nwd": NwdMatcher(k=1),
        "rfla": RflaMatcher(receptive_fields=(16.0,), k=1),
    }[name]
    index, state = match(matcher, levels, boxes)
    assert state[0] == MatchState.POSITIVE
    assert index[0] == 1


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("name", ["atss", "nwd", "rfla"])
def test_matches_slow_twin(name, seed):
    """One of the five boxes is padding."""
    boxes, valid = random_boxes(seed), np.array([True, False, True, True, True])
    levels = [np.asarray(level, np.float64) for level in anchors()]
    seen = boxes[valid].astype(np.float64)
    owner, slow_state = {
        "atss": lambda: slow_atss(levels, seen, 2),
        "nwd": lambda: slow_nwd(levels, seen, 2, 12.7, 0.3),
        "rfla": lambda: slow_rfla(levels, seen, FIELDS, 3, 0.9, 0.8),
    }[name]()
    index, state = match(MATCHERS_HERE[name], anchors(), boxes, valid)
    np.testing.assert_array_equal(state, slow_state)
    positive = state == MatchState.POSITIVE
    assert positive.any()
    np.testing.assert_array_equal(index[positive], np.flatnonzero(valid)[owner[positive]])


@pytest.mark.parametrize("name", MATCHERS)
def test_padding_changes_nothing_and_without_objects_all_is_negative(name):
    matcher, boxes = MATCHERS_HERE[name], random_boxes(0)
    index, state = match(matcher, anchors(), boxes)
    padded = np.concatenate([boxes, np.zeros((3, 4), np.float32)])
    got_index, got_state = match(matcher, anchors(), padded, np.arange(8) < 5)
    np.testing.assert_array_equal(got_state, state)
    positive = state == MatchState.POSITIVE
    np.testing.assert_array_equal(got_index[positive], index[positive])
    for none in (np.zeros((0, 4), np.float32), np.zeros((2, 4), np.float32)):
        index, state = match(matcher, anchors(), none, np.zeros(len(none), bool))
        assert (state == MatchState.NEGATIVE).all()
        assert (index == 0).all()


@pytest.mark.parametrize("name", MATCHERS)
def test_a_batch_equals_its_images(name):
    boxes = np.stack([random_boxes(1), random_boxes(2)])
    valid, ignore = np.ones((2, 5), bool), np.zeros((2, 5), bool)
    valid[0, 3:], ignore[1, 0] = False, True
    mapped, _ = jax.vmap(MATCHERS_HERE[name], in_axes=(None, 0, 0, 0, 0))(
        anchors(), boxes, valid, ignore, boxes
    )
    for i in range(2):
        index, state = match(MATCHERS_HERE[name], anchors(), boxes[i], valid[i], ignore[i])
        np.testing.assert_array_equal(mapped.state[i], state)
        np.testing.assert_array_equal(mapped.index[i], index)


@pytest.mark.parametrize("name", MATCHERS)
def test_regions_to_ignore(name):
    """A crowd over the left half of the image."""
    boxes = np.concatenate([random_boxes(3, least=8), np.float32([[0, 0, 32, 64]])])
    ignore = np.arange(6) == 5
    plain = MATCHERS_HERE[name]
    index, state = match(plain, anchors(), boxes, ignore=ignore)
    np.testing.assert_array_equal(state, match(plain, anchors(), boxes[:5])[1])
    ignoring = dataclasses.replace(plain, ignore_overlap=0.5)
    got_index, got_state = match(ignoring, anchors(), boxes, ignore=ignore)
    np.testing.assert_array_equal(got_index, index)
    every = np.concatenate([np.asarray(level).reshape(-1, 4) for level in anchors()])
    width = np.minimum(every[:, 2], 32) - np.maximum(every[:, 0], 0)
    height = np.minimum(every[:, 3], 64) - np.maximum(every[:, 1], 0)
    area = (every[:, 2:] - every[:, :2]).prod(1)
    covered = np.maximum(width, 0) * np.maximum(height, 0) >= 0.5 * area
    want = np.where(covered & (state != MatchState.POSITIVE), MatchState.IGNORE, state)
    np.testing.assert_array_equal(got_state, want)
    assert (want != state).any()
    assert (covered & (state == MatchState.POSITIVE)).any()


@pytest.mark.parametrize("name", MATCHERS)
def test_dense_scenes_are_matched_in_bounded_memory(name):
    """2,667 objects, the most in an image of AI-TOD; 805,707 anchors, P2 to P6 of 800x1344."""
    sides = [(200, 336), (100, 168), (50, 84), (25, 42), (13, 21)]
    levels = tuple(jax.ShapeDtypeStruct((9, h * w, 4), jnp.float32) for h, w in sides)
    boxes = jax.ShapeDtypeStruct((2667, 4), jnp.float32)
    mask = jax.ShapeDtypeStruct((2667,), jnp.bool_)
    options = {
        "iou": {"foreground_iou": 0.5, "background_iou": 0.4},
        "rfla": {"receptive_fields": tuple(receptive_field(level) for level in range(2, 7))},
    }
    matcher = MATCHERS[name](ignore_overlap=0.5, **options.get(name, {}))
    memory = jax.jit(matcher).lower(levels, boxes, mask, mask, boxes).compile().memory_analysis()
    assert memory.temp_size_in_bytes + memory.output_size_in_bytes < 300e6


def test_fields_and_levels_must_agree():
    with pytest.raises(ValueError, match="receptive_fields has 1 levels, the anchors have 2"):
        match(RflaMatcher(receptive_fields=(20.0,)), anchors(), random_boxes(0))
