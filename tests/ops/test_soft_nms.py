import box_strategies
import hypothesis.extra.numpy as hnp
import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipg_jax import ops

SETTINGS = {"iou_threshold": 0.3, "sigma": 0.5, "score_threshold": 0.001}


def selected(result):
    """Indices and scores of the filled slots."""
    indices, scores, valid = map(np.asarray, result)
    assert (indices.dtype, scores.dtype, valid.dtype) == (np.int32, np.float32, bool)
    assert (valid[:-1] >= valid[1:]).all()  # unused slots are at the end, and 0
    assert not indices[~valid].any()
    assert not scores[~valid].any()
    return indices[valid].tolist(), scores[valid].tolist()


def slow_iou(a, b):
    sides = np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2])
    common = np.prod(np.maximum(sides, 0))
    union = np.prod(a[2:] - a[:2]) + np.prod(b[2:] - b[:2]) - common
    return common / union if union > 0 else 0.0


def slow_soft_nms(
    boxes, scores, labels, count, valid, *, method, iou_threshold, sigma, score_threshold
):
    """The paper's figure 2 for each class, then the best of all classes."""
    scores, chosen = scores.astype(np.float64), []
    for label in set(labels.tolist()):
        left = [i for i in range(len(boxes)) if valid[i] and labels[i] == label]
        while left := [i for i in left if scores[i] > score_threshold]:
            best = max(left, key=lambda i: (scores[i], -i))
            chosen.append(best)
            left.remove(best)
            for i in left:
                iou = slow_iou(boxes[best].astype(np.float64), boxes[i].astype(np.float64))
                if method == "gaussian":
                    scores[i] *= np.exp(-(iou**2) / sigma)
                elif iou > iou_threshold:
                    scores[i] *= 1 - iou
    chosen = sorted(chosen, key=lambda i: -scores[i])[:count]
    return chosen, scores[chosen].tolist()


# A-B and B-C overlap by 4/10, A-C by 1/13.
CHAIN = np.float32([[0, 0, 7, 1], [3, 0, 10, 1], [6, 0, 13, 1]])
CHAIN_SCORES = np.float32([0.9, 0.8, 0.7])


def test_linear_by_hand():
    # A lowers B to 0.8 * 0.6 = 0.48 and leaves C, which comes next and lowers B again.
    result = ops.soft_nms(
        CHAIN, CHAIN_SCORES, np.zeros(3, np.int32), 3, method="linear", **SETTINGS
    )
    indices, scores = selected(result)
    assert indices == [0, 2, 1]
    assert scores == pytest.approx([0.9, 0.7, 0.8 * 0.6 * 0.6])


def test_gaussian_by_hand():
    result = ops.soft_nms(
        CHAIN, CHAIN_SCORES, np.zeros(3, np.int32), 3, method="gaussian", **SETTINGS
    )
    indices, scores = selected(result)
    assert indices == [0, 2, 1]
    far, near = np.exp(-((1 / 13) ** 2) / 0.5), np.exp(-(0.4**2) / 0.5)
    assert scores == pytest.approx([0.9, 0.7 * far, 0.8 * near * near])


@pytest.mark.parametrize("method", ["linear", "gaussian"])
def test_classes_do_not_touch_each_other(method):
    labels = np.int32([0, 1, 0])
    indices, scores = selected(
        ops.soft_nms(CHAIN, CHAIN_SCORES, labels, 2, method=method, **SETTINGS)
    )
    assert indices == [0, 1]
    assert scores == pytest.approx([0.9, 0.8])


def test_scores_at_the_threshold_are_dropped_before_and_after():
    boxes = np.float32([[0, 0, 2, 1], [0, 0, 1, 1], [5, 0, 6, 1]])  # IoU 1/2
    scores, labels = np.float32([1.0, 0.5, 0.25]), np.zeros(3, np.int32)

    def indices(score_threshold, iou_threshold=0.3):
        result = ops.soft_nms(
            boxes,
            scores,
            labels,
            3,
            method="linear",
            score_threshold=score_threshold,
            iou_threshold=iou_threshold,
        )
        return selected(result)[0]

    assert indices(0.2) == [0, 1, 2]  # equal lowered scores keep the order of index
    assert indices(0.25) == [0]
    assert indices(0.2, iou_threshold=0.5) == [0, 1, 2]  # only strictly more lowers:
    assert indices(0.3, iou_threshold=0.5) == [0, 1]


def test_a_box_twice_is_dropped_by_linear_whatever_the_threshold():
    same = np.float32([[0, 0, 1, 1], [0, 0, 1, 1]])
    scores = np.float32([0.5, 0.5])
    result = ops.soft_nms(
        same, scores, np.zeros(2, np.int32), 2, method="linear", score_threshold=0.0
    )
    assert selected(result) == ([0], [0.5])


@given(
    box_strategies.boxes(12, extent=12),
    hnp.arrays(np.int64, (12,), elements=st.integers(0, 16)),
    hnp.arrays(np.int32, (12,), elements=st.integers(0, 2)),
    box_strategies.masks(12),
    st.sampled_from(["linear", "gaussian"]),
    st.sampled_from([0.03, 0.21]),
)
def test_equals_the_slow_twin(boxes, scores, labels, valid, method, score_threshold):
    # Scores are far enough apart for ties and thresholds to fall the same way in float32.
    scores = (scores / 16 + np.arange(12) / 1000).astype(np.float32)
    settings = {"method": method, "iou_threshold": 0.3, "sigma": 0.5}
    settings["score_threshold"] = score_threshold
    expected, expected_scores = slow_soft_nms(boxes, scores, labels, 8, valid, **settings)
    indices, got = selected(ops.soft_nms(boxes, scores, labels, 8, valid=valid, **settings))
    assert got == pytest.approx(expected_scores, rel=1e-5)
    near_ties = np.diff(expected_scores, append=0.0) > -1e-6
    if not near_ties[:-1].any():
        assert indices == expected


def test_vmap_equals_loop_and_padding_changes_nothing():
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 40, (3, 12, 2))
    boxes = np.concatenate([corner, corner + rng.uniform(5, 30, (3, 12, 2))], -1)
    boxes, scores = boxes.astype(np.float32), rng.uniform(size=(3, 12)).astype(np.float32)
    scores[1, 7:] = [np.nan, -np.inf, np.inf, np.nan, -1.0]  # take no part
    labels = rng.integers(0, 3, (3, 12), np.int32)

    def one(*args):
        return ops.soft_nms(*args, 8, method="linear", **SETTINGS)

    together = jax.jit(jax.vmap(one))(boxes, scores, labels)
    for i, n in enumerate((12, 7, 12)):
        alone = one(boxes[i, :n], scores[i, :n], labels[i, :n])
        assert selected([x[i] for x in together]) == selected(alone)


def test_empty():
    boxes, scores = np.zeros((0, 4), np.float32), np.zeros(0, np.float32)
    labels = np.zeros(0, np.int32)
    result = ops.soft_nms(boxes, scores, labels, 4, method="linear", score_threshold=0.0)
    assert [x.shape for x in result] == [(4,)] * 3
    assert selected(result) == ([], [])
