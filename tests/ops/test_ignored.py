import functools
import re

import box_strategies
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ipg_jax import ops
from ipg_jax.ops import Matches, MatchState, ignored

IGNORE, NEGATIVE, POSITIVE = MatchState.IGNORE, MatchState.NEGATIVE, MatchState.POSITIVE
REGION = np.float32([[0, 0, 10, 10]])
TRUE = np.ones(1, bool)


def state_after(anchors, state, boxes, valid, **kwargs):
    matches = Matches(np.zeros(len(state), np.int32), np.asarray(state, np.int32))
    return np.asarray(ops.ignore_covered(matches, anchors, boxes, valid, **kwargs).state)


def test_states_by_hand():
    # Inside; three quarters, half, and a little less than half of them inside; outside; no area.
    anchors = np.float32(
        [
            [2, 2, 6, 6],
            [7, 0, 11, 4],
            [8, 0, 12, 4],
            [8.1, 0, 12.1, 4],
            [20, 0, 24, 4],
            [3, 3, 3, 3],
        ]
    )
    covered = [IGNORE, IGNORE, IGNORE, NEGATIVE, NEGATIVE, NEGATIVE]
    state = state_after(anchors, [NEGATIVE] * 6, REGION, TRUE, threshold=0.5)
    np.testing.assert_array_equal(state, covered)
    state = state_after(anchors, [POSITIVE] * 6, REGION, TRUE, threshold=0.5)
    np.testing.assert_array_equal(state, [POSITIVE] * 6)
    state = state_after(anchors, [NEGATIVE] * 6, REGION, ~TRUE, threshold=0.5)
    np.testing.assert_array_equal(state, [NEGATIVE] * 6)


def test_the_anchors_area_counts_and_not_the_regions():
    large = np.float32([[0, 0, 100, 100]])  # holds the region, which is a hundredth of it
    assert state_after(large, [NEGATIVE], REGION, TRUE, threshold=0.5) == NEGATIVE
    assert state_after(REGION, [NEGATIVE], large, TRUE, threshold=0.5) == IGNORE


def slow_covered(anchors, boxes, valid, threshold):
    covered = np.zeros(len(anchors), bool)
    for i, (x1, y1, x2, y2) in enumerate(anchors.astype(np.float64)):
        for u1, v1, u2, v2 in boxes[valid].astype(np.float64):
            inside = max(min(x2, u2) - max(x1, u1), 0) * max(min(y2, v2) - max(y1, v1), 0)
            area = (x2 - x1) * (y2 - y1)
            covered[i] |= area > 0 and inside >= threshold * area
    return covered


@pytest.mark.parametrize("pairs", [7, 15, 10**6])
@given(box_strategies.boxes(7), box_strategies.boxes(4), box_strategies.masks(4))
def test_matches_slow_twin_whatever_the_chunks(pairs, anchors, boxes, valid):
    state = state_after(anchors, [NEGATIVE] * 7, boxes, valid, threshold=0.5, pairs=pairs)
    np.testing.assert_array_equal(state == IGNORE, slow_covered(anchors, boxes, valid, 0.5))


@given(box_strategies.boxes(7), box_strategies.boxes(4), box_strategies.masks(4))
def test_the_forms_of_all_platforms_give_the_same(anchors, boxes, valid):
    chunks = ignored.covered(anchors, boxes, valid, threshold=0.5, pairs=7)
    at_once = ignored.covered_at_once(anchors, boxes, valid, threshold=0.5)
    np.testing.assert_array_equal(chunks, at_once)


def batch_over_eight_devices():
    """Matches, anchors, boxes and validity of eight images, one for each device, traced."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))

    def argument(shape, dtype, *names):
        return jax.ShapeDtypeStruct(
            shape, dtype, sharding=NamedSharding(mesh, PartitionSpec(*names))
        )

    of_anchors = argument((8, 100), jnp.int32, "data")
    ignore = functools.partial(ops.ignore_covered, threshold=0.5, pairs=200)
    return jax.jit(jax.vmap(ignore, in_axes=(0, None, 0, 0))).trace(
        Matches(of_anchors, of_anchors),
        argument((100, 4), jnp.float32),
        argument((8, 6, 4), jnp.float32, "data"),
        argument((8, 6), bool, "data"),
    )


def test_devices_do_not_talk_in_the_loop_over_chunks():
    text = batch_over_eight_devices().lower().compile().as_text()
    entry = text[text.index("\nENTRY") :]
    collective = r"= .*\b(?:all-|reduce-scatter|collective)[\w-]*\("
    assert " while(" in entry  # chunks of two boxes
    # That of the fullest image, ahead of the loop.
    assert len(re.findall(collective, text)) == len(re.findall(collective, entry)) == 1


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_accelerators_have_no_loop(platform):
    text = batch_over_eight_devices().lower(lowering_platforms=(platform,)).as_text()
    assert "while" not in text


def test_a_batch_equals_its_images():
    anchors = np.float32([[0, 0, 4, 4], [8, 8, 16, 16], [30, 30, 40, 40]])
    boxes = np.float32([[[0, 0, 5, 5], [8, 8, 20, 20]], [[29, 29, 50, 50], [0, 0, 9, 9]]])
    valid = np.array([[True, False], [True, True]])
    state = np.full((2, 3), NEGATIVE, np.int32)
    matches = Matches(np.zeros((2, 3), np.int32), state)
    ignore = functools.partial(ops.ignore_covered, threshold=0.5, pairs=3)
    mapped = jax.vmap(ignore, in_axes=(0, None, 0, 0))(matches, anchors, boxes, valid)
    np.testing.assert_array_equal(
        mapped.state, [[IGNORE, NEGATIVE, NEGATIVE], [IGNORE, NEGATIVE, IGNORE]]
    )


def test_without_regions():
    none = np.zeros((0, 4), np.float32)
    assert state_after(REGION, [NEGATIVE], none, np.zeros(0, bool), threshold=0.5) == NEGATIVE
