import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax import ops


def exact_focal(logits, targets, alpha, gamma):
    """The definition, in float64."""
    logits = np.asarray(logits, np.float64)
    z = np.where(targets > 0, logits, -logits)
    log_p = -np.logaddexp(0, -z)
    weight = np.where(targets > 0, alpha, 1 - alpha)
    return -weight * np.exp(-gamma * np.logaddexp(0, z)) * log_p


def test_focal_by_hand():
    # p = 1/2: 0.25 * 0.25 * log 2 for a positive, 0.75 * 0.25 * log 2 for a negative.
    loss = ops.sigmoid_focal_loss(np.zeros(2, np.float32), np.float32([1, 0]))
    np.testing.assert_allclose(loss, [np.log(2) / 16, 3 * np.log(2) / 16], rtol=1e-6)


def test_focal_matches_torchvision(golden):
    logits, targets = golden["logits"], golden["targets"]
    for (alpha, gamma), expected in zip(
        golden["focal_settings"].tolist(), golden["focal"], strict=True
    ):
        loss = ops.sigmoid_focal_loss(logits, targets, alpha, gamma)
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda x: ops.sigmoid_focal_loss(x, targets).sum())(logits)
    np.testing.assert_allclose(gradient, golden["focal_gradient"], rtol=1e-5, atol=1e-6)


def test_focal_without_alpha_is_twice_that_with_one_half(golden):
    logits, targets = golden["logits"], golden["targets"]
    np.testing.assert_allclose(
        ops.sigmoid_focal_loss(logits, targets, None),
        2 * ops.sigmoid_focal_loss(logits, targets, 0.5),
        rtol=1e-6,
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_is_accurate_and_smooth_at_extreme_logits(gamma):
    logits = np.float32([-1e4, -80, -30, -10, -1, 0, 1, 10, 30, 80, 1e4])
    for target in (0, 1):
        targets = np.full(logits.shape, target)
        loss = ops.sigmoid_focal_loss(logits, targets, gamma=gamma)
        np.testing.assert_allclose(
            loss, exact_focal(logits, targets, 0.25, gamma), rtol=2e-5, atol=1e-37
        )
        gradient = jax.grad(lambda x, t=targets: ops.sigmoid_focal_loss(x, t, gamma=gamma).sum())
        assert np.isfinite(gradient(logits)).all()


def test_losses_of_bfloat16_are_those_of_the_same_numbers_in_float32(golden):
    logits = jnp.asarray(golden["logits"], jnp.bfloat16)
    targets = golden["targets"]
    loss = ops.sigmoid_focal_loss(logits, targets)
    assert loss.dtype == jnp.float32
    np.testing.assert_array_equal(loss, ops.sigmoid_focal_loss(logits.astype(jnp.float32), targets))
    gradient = jax.grad(lambda x: ops.sigmoid_focal_loss(x, targets).sum())
    assert gradient(logits).dtype == jnp.bfloat16
    predictions = jnp.asarray(golden["predictions"], jnp.bfloat16)
    for loss in (ops.l1_loss, ops.smooth_l1_loss):
        value = loss(predictions, golden["references"])
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(
            value, loss(predictions.astype(jnp.float32), golden["references"])
        )


def test_l1_and_smooth_l1_match_torch(golden):
    predictions, references = golden["predictions"], golden["references"]
    np.testing.assert_allclose(ops.l1_loss(predictions, references), golden["l1"], rtol=1e-6)
    for beta, expected in zip(golden["betas"].tolist(), golden["smooth_l1"], strict=True):
        loss = ops.smooth_l1_loss(predictions, references, beta)
        np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-7)


def test_smooth_l1_meets_at_beta_and_refuses_zero():
    x = np.float32([0, 0.5, 1, 3])
    loss = ops.smooth_l1_loss(x, np.zeros(4, np.float32), beta=1.0)
    np.testing.assert_array_equal(loss, [0, 0.125, 0.5, 2.5])
    slope = jax.grad(lambda x: ops.smooth_l1_loss(x, np.zeros(4, np.float32)).sum())(x)
    np.testing.assert_array_equal(slope, [0, 0.5, 1, 1])
    with pytest.raises(ValueError, match="use l1_loss"):
        ops.smooth_l1_loss(x, x, beta=0.0)


def test_giou_by_hand():
    boxes = np.float32([[0, 0, 2, 2], [0, 0, 2, 2], [0, 0, 1, 1]])
    targets = np.float32([[0, 0, 2, 2], [1, 0, 3, 2], [3, 0, 4, 1]])
    # Equal; IoU 1/3 and the hull is the union; apart, with half the hull empty.
    np.testing.assert_allclose(ops.giou_loss(boxes, targets), [0, 2 / 3, 1.5], atol=1e-6)


def test_giou_matches_torchvision(golden):
    boxes, other = golden["boxes"], golden["other"]
    np.testing.assert_allclose(ops.giou_loss(boxes, other), golden["giou"], rtol=1e-5, atol=1e-6)
    gradient = jax.grad(lambda b: ops.giou_loss(b, other[:20]).sum())(boxes[:20])
    np.testing.assert_allclose(gradient, golden["giou_gradient"], rtol=1e-4, atol=1e-6)


def test_giou_gradients_are_finite_for_boxes_without_extent():
    boxes = np.float32([[1, 1, 1, 1], [0, 0, 0, 0], [2, 2, 5, 5]])
    targets = np.float32([[1, 1, 1, 1], [3, 3, 3, 3], [4, 4, 4, 4]])
    gradient = jax.grad(lambda b, t: ops.giou_loss(b, t).sum(), argnums=(0, 1))(boxes, targets)
    assert np.isfinite(np.asarray(gradient)).all()
