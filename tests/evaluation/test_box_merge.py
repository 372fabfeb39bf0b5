"""Merging boxes of tiles: equal to SAHI's results, and to the definition in plain loops."""

import pathlib

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given

from ipg_jax.evaluation import BoxMerge

SAHI = np.load(pathlib.Path(__file__).parents[1] / "golden" / "sahi.npz")


def merged(merge, boxes, scores, labels):
    """What is kept as rows `[x0, y0, x1, y1, score, label]`, best first."""
    scores, labels = np.asarray(scores, np.float32), np.asarray(labels)
    found, index = merge(np.asarray(boxes, np.float32).reshape(-1, 4), scores, labels)
    return np.concatenate([found, scores[index, None], labels[index, None]], axis=1)


def in_any_order(rows):
    return rows[np.lexsort(rows.T)]


@pytest.mark.parametrize("name", [name for name in SAHI if "nm" in name])
def test_equals_sahi(name):
    case, method, metric, threshold = name.split("/")
    merge = BoxMerge(method=method, metric=metric, threshold=float(threshold))
    found = merged(merge, *(SAHI[f"{case}/{what}"] for what in ("boxes", "scores", "labels")))
    np.testing.assert_array_equal(in_any_order(found), in_any_order(SAHI[name]))
    assert (np.diff(found[:, 4]) <= 0).all()


def growing(**fields) -> BoxMerge:
    """SAHI's merging by default."""
    return BoxMerge(**{"method": "greedy_nmm", "metric": "ios"} | fields)


def test_doubtful_boxes_leave_good_ones_as_they_are():
    rng = np.random.default_rng(0)
    corners = 40.0 * np.stack(np.divmod(np.arange(16), 4), axis=1)
    good = np.concatenate([corners, corners + 20], axis=1)
    low = rng.uniform(0, 60, (200, 2))
    doubtful = np.concatenate([low, low + rng.uniform(40, 100, (200, 2))], axis=1)
    boxes = np.concatenate([good, doubtful])
    scores = np.concatenate([np.full(16, 0.9), np.full(200, 0.05)])
    found = merged(BoxMerge(), boxes, scores, np.zeros(216, int))
    np.testing.assert_array_equal(in_any_order(found[:16, :4]), in_any_order(good))
    found = merged(growing(), boxes, scores, np.zeros(216, int))
    assert (found[found[:, 4] > 0.5, 2] > 70).any()  # one is more than three times as wide


def test_parts_of_one_object_become_the_box_around_them():
    # The parts have 50 and 40 columns, of which 20 are common: IoS = 20 / 40, IoU = 20 / 70.
    parts = [[0, 0, 50, 10], [30, 0, 70, 10]]
    both = merged(growing(), parts, [0.5, 0.75], [0, 0])
    np.testing.assert_array_equal(both, [[0, 0, 70, 10, 0.75, 0]])
    best = merged(growing(method="nms"), parts, [0.5, 0.75], [0, 0])
    np.testing.assert_array_equal(best, [[30, 0, 70, 10, 0.75, 0]])
    assert len(merged(growing(threshold=0.51), parts, [0.5, 0.75], [0, 0])) == 2
    assert len(merged(growing(metric="iou", threshold=0.29), parts, [0.5, 0.75], [0, 0])) == 2
    assert len(merged(growing(metric="iou", threshold=0.28), parts, [0.5, 0.75], [0, 0])) == 1
    assert len(merged(growing(), parts, [0.5, 0.75], [0, 1])) == 2  # of different classes


def test_nobody_is_compared_but_with_the_box_that_is_kept():
    # A chain: the second matches both others, which do not match each other.
    chain = [[0, 0, 40, 10], [20, 0, 60, 10], [40, 0, 80, 10]]
    found = merged(growing(), chain, [0.9, 0.8, 0.7], [0, 0, 0])
    np.testing.assert_array_equal(found[:, :4], [[0, 0, 60, 10], [40, 0, 80, 10]])
    found = merged(growing(), chain, [0.8, 0.9, 0.7], [0, 0, 0])
    np.testing.assert_array_equal(found[:, :4], [[0, 0, 80, 10]])


def test_a_box_that_has_grown_beyond_a_match_takes_it_out_and_not_in():
    # IoU of each with the first: 80 / 100. With the box around the first two the last has 80 / 110.
    boxes = [[20, 0, 110, 10], [10, 0, 100, 10], [30, 0, 120, 10]]
    merge = growing(metric="iou", threshold=0.8)
    found = merged(merge, boxes, [0.9, 0.8, 0.7], [0, 0, 0])
    np.testing.assert_allclose(found, [[10, 0, 110, 10, 0.9, 0]], rtol=1e-6)


def test_no_boxes_and_boxes_without_area():
    assert merged(growing(), [], [], np.zeros(0, int)).shape == (0, 6)
    flat = [[5, 5, 5, 9], [0, 0, 10, 10], [5, 5, 5, 9]]
    assert len(merged(growing(), flat, [0.9, 0.8, 0.7], [0, 0, 0])) == 3


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ({"method": "nmm"}, "method is one of nms, greedy_nmm, not 'nmm'"),
        ({"metric": "IOU"}, "metric is one of iou, ios"),
        ({"threshold": 0.0}, r"threshold=0\.0 is not above 0"),
    ],
)
def test_refuses(field, message):
    with pytest.raises(ValueError, match=message):
        BoxMerge(**field)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_boxes_and_scores_that_are_not_finite_are_no_boxes(value):
    boxes, scores, labels = np.eye(2, 4) * 9 + 1, np.array([0.5, 0.75]), np.array([0, 0])
    for broken in (boxes, scores):
        before, broken.flat[0] = broken.flat[0], value
        with pytest.raises(ValueError, match="one is infinite or NaN"):
            growing()(boxes, scores, labels)
        best = growing().select(
            boxes.astype(np.float32), np.float32(scores), np.int32(labels), np.array([20, 20])
        )
        np.testing.assert_array_equal(best.boxes, boxes[1:])
        broken.flat[0] = before


def slow_merge(merge, boxes, scores, labels):
    """The definition, a pair of boxes at a time."""

    def matches(a, b):
        width = min(a[2], b[2]) - max(a[0], b[0])
        height = min(a[3], b[3]) - max(a[1], b[1])
        if width <= 0 or height <= 0:
            return False
        common = width * height
        first, second = ((x[2] - x[0]) * (x[3] - x[1]) for x in (a, b))
        divisor = first + second - common if merge.metric == "iou" else min(first, second)
        return common / divisor >= merge.threshold

    left = sorted(range(len(boxes)), key=lambda i: (-scores[i], *boxes[i]))
    kept = []
    while left:
        best = left.pop(0)
        box = boxes[best]
        taken = [i for i in left if labels[i] == labels[best] and matches(boxes[i], box)]
        left = [i for i in left if i not in taken]
        for other in (boxes[i] for i in taken if merge.method == "greedy_nmm"):
            if matches(box, other):
                box = [*map(min, box[:2], other[:2]), *map(max, box[2:], other[2:])]
        kept.append([*box, scores[best], labels[best]])
    return kept


ROWS = st.lists(
    st.tuples(
        *[st.integers(0, 20)] * 2,  # a corner
        *[st.integers(1, 12)] * 2,  # sides
        st.sampled_from([0.25, 0.5, 0.75]),
        st.integers(0, 1),
    ),
    max_size=20,
)


@given(
    ROWS,
    st.builds(
        BoxMerge,
        method=st.sampled_from(["nms", "greedy_nmm"]),
        metric=st.sampled_from(["iou", "ios"]),
        threshold=st.sampled_from([0.1, 0.5, 1.0]),
    ),
)
def test_equals_the_definition(rows, merge):
    boxes = [[float(x), float(y), float(x + w), float(y + h)] for x, y, w, h, _, _ in rows]
    scores, labels = [row[4] for row in rows], [row[5] for row in rows]
    found = merged(merge, boxes, scores, np.array(labels, int))
    expected = slow_merge(merge, boxes, scores, labels)
    np.testing.assert_array_equal(found, np.reshape(expected, (-1, 6)))


def test_selects_as_views_are_joined():
    merge = growing()
    best = merge.select(
        np.float32([[0, 0, 50, 10], [0, 0, 0, 0], [30, 0, 70, 10], [0, 0, 0, 0]]),
        np.float32([0.5, -np.inf, 0.75, -np.inf]),  # padding
        np.int32([3, 0, 3, 0]),
        np.array([100, 100]),
    )
    np.testing.assert_array_equal(best.boxes, [[0, 0, 70, 10]])
    assert (best.scores.tolist(), best.labels.tolist(), best.valid.all()) == ([0.75], [3], True)
