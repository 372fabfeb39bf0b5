import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax import ops

LOGITS = np.float32([-80, -9, -2, -0.3, 0, 1.7, 6, 30, 80])
QUALITIES = np.float32([0, 1e-3, 0.25, 0.5, 0.9, 1])


def cross_entropy(logits, targets):
    """In float64."""
    return targets * np.logaddexp(0, -logits) + (1 - targets) * np.logaddexp(0, logits)


def slow_quality_focal(logits, y):
    p = 1 / (1 + np.exp(-logits))
    return np.abs(y - p) ** 2 * cross_entropy(logits, y)


def slow_varifocal(logits, q):
    p = 1 / (1 + np.exp(-logits))
    return np.where(q > 0, q, 0.75 * p**2) * cross_entropy(logits, q)


LOSSES = {
    "quality_focal": (ops.quality_focal_loss, slow_quality_focal),
    "varifocal": (ops.varifocal_loss, slow_varifocal),
}


@pytest.mark.parametrize("name", LOSSES)
def test_values_and_gradients_match_a_slow_twin(name):
    loss, slow = LOSSES[name]
    logits, qualities = (x.ravel() for x in np.meshgrid(LOGITS, QUALITIES))
    value, pull = jax.vjp(loss, logits, qualities)
    gradient, of_qualities = pull(jnp.ones(len(logits)))
    exact, q = logits.astype(np.float64), qualities.astype(np.float64)
    np.testing.assert_allclose(value, slow(exact, q), rtol=2e-5, atol=1e-12)
    differences = (slow(exact + 1e-5, q) - slow(exact - 1e-5, q)) / 2e-5
    np.testing.assert_allclose(gradient, differences, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(of_qualities, 0)


def test_values_by_hand():
    # p = 1/2 for a quality of 1, of 1/2 and of 0; the cross entropy is log 2 each time.
    logits, qualities = np.zeros(3, np.float32), np.float32([1, 0.5, 0])
    want = np.log(2) * np.array([0.25, 0, 0.25])
    np.testing.assert_allclose(ops.quality_focal_loss(logits, qualities), want, rtol=1e-6)
    want = np.log(2) * np.array([1, 0.5, 0.75 * 0.25])
    np.testing.assert_allclose(ops.varifocal_loss(logits, qualities), want, rtol=1e-6)


def test_targets_of_0_and_1_without_weights_give_the_focal_loss():
    targets = np.arange(len(LOGITS)) % 2
    want = ops.sigmoid_focal_loss(LOGITS, targets, alpha=None)
    got = ops.quality_focal_loss(LOGITS, targets.astype(np.float32))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-30)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_of_bfloat16_are_those_of_the_same_numbers_in_float32(name):
    loss, _ = LOSSES[name]
    logits = jnp.asarray(LOGITS, jnp.bfloat16)
    value = loss(logits, jnp.full(len(LOGITS), 0.3))
    assert value.dtype == jnp.float32
    np.testing.assert_array_equal(value, loss(logits.astype(jnp.float32), np.full(9, 0.3, "f4")))
