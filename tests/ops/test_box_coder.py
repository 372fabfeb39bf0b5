import box_strategies
import jax
import numpy as np
import pytest
from hypothesis import given

from ipg_jax import ops

RCNN_WEIGHTS = (10.0, 10.0, 5.0, 5.0)


def test_by_hand():
    anchor = np.float32([[10, 20, 30, 60]])  # centre (20, 40), 20 wide, 40 high
    box = np.float32([[15, 30, 35, 70]])  # moved by (5, 10)
    np.testing.assert_allclose(ops.encode_boxes(box, anchor), [[0.25, 0.25, 0, 0]])
    wide = np.float32([[0, 30, 40, 50]])  # twice as wide, half as high
    expected = [[0, 0, 5 * np.log(2), -5 * np.log(2)]]
    np.testing.assert_allclose(ops.encode_boxes(wide, anchor, RCNN_WEIGHTS), expected, rtol=1e-6)


def test_matches_torchvision(golden):
    for weights, encoded, decoded in zip(
        golden["weights"].tolist(), golden["encoded"], golden["decoded"], strict=True
    ):
        np.testing.assert_allclose(
            ops.encode_boxes(golden["boxes"], golden["anchors"], weights),
            encoded,
            rtol=1e-5,
            atol=1e-5,
        )
        # The largest boxes are tens of thousands of pixels wide.
        np.testing.assert_allclose(
            ops.decode_boxes(golden["deltas"], golden["anchors"], weights),
            decoded,
            rtol=1e-5,
            atol=1e-4,
        )


@given(box_strategies.boxes(8, min_side=1), box_strategies.boxes(8, min_side=1))
@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0, 1.0), RCNN_WEIGHTS])
def test_decode_inverts_encode(weights, boxes, anchors):
    deltas = ops.encode_boxes(boxes, anchors, weights)
    np.testing.assert_allclose(ops.decode_boxes(deltas, anchors, weights), boxes, atol=1e-4)
    again = jax.jit(ops.encode_boxes, static_argnums=2)(boxes, anchors, weights)
    np.testing.assert_allclose(again, deltas, rtol=1e-5, atol=1e-6)


def test_decode_limits_growth():
    anchor = np.float32([[0, 0, 16, 16]])
    box = ops.decode_boxes(np.float32([[0, 0, 1e4, -1e4]]), anchor)
    np.testing.assert_allclose(box, [[8 - 500, 8, 8 + 500, 8]], rtol=1e-5)


def test_decode_of_one_box_per_class():
    anchors = np.float32([[0, 0, 10, 10], [5, 5, 9, 21]])
    deltas = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
    boxes = ops.decode_boxes(deltas, anchors[:, None])
    each = [ops.decode_boxes(deltas[:, k], anchors) for k in range(3)]
    np.testing.assert_array_equal(boxes, np.stack(each, axis=1))


def test_decode_takes_bfloat16():
    deltas = np.asarray(jax.numpy.ones((1, 4), jax.numpy.bfloat16))
    assert ops.decode_boxes(deltas, np.float32([[0, 0, 2, 2]])).dtype == np.float32


def test_padding_rows_stay_finite():
    zeros, box = np.zeros((1, 4), np.float32), np.float32([[0, 0, 8, 8]])
    for boxes, anchors in ((zeros, box), (box, zeros), (zeros, zeros)):
        assert np.isfinite(ops.encode_boxes(boxes, anchors)).all()
        gradients = jax.grad(lambda b, a: ops.encode_boxes(b, a).sum(), argnums=(0, 1))(
            boxes, anchors
        )
        assert np.isfinite(np.asarray(gradients)).all()
    huge = np.float32([[1e4, -1e4, 1e4, -1e4]])
    assert np.isfinite(jax.grad(lambda d: ops.decode_boxes(d, box).sum())(huge)).all()
