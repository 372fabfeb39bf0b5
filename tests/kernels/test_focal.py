"""The focal loss of a dense head, against `ops.sigmoid_focal_loss` of each logit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import assert_close, assert_equal, every_form, every_type, normal, run

from ipg_jax import ops
from ipg_jax.kernels import dense_focal_loss


def make_level(height=4, width=3, anchors=2, classes=5, seed=0):
    """Logits, labels (the background among them) and which anchors count."""
    rng = np.random.default_rng(seed)
    logits = 3 * rng.normal(size=(height, width, anchors, classes)).astype(np.float32)
    labels = rng.integers(0, classes + 1, (height, width, anchors), np.int32)
    valid = rng.random((height, width, anchors)) < 0.7
    return jnp.asarray(logits), jnp.asarray(labels), jnp.asarray(valid)


def definition(logits, labels, valid, **options):
    targets = jax.nn.one_hot(labels, logits.shape[-1])  # no class for the background
    loss = ops.sigmoid_focal_loss(logits, targets, **options)
    return jnp.where(valid[..., None], loss, 0.0).sum()


def gradients(loss, logits, labels, valid):
    return jax.jit(jax.value_and_grad(lambda logits: loss(logits, labels, valid)))(logits)


@every_form
def test_values_by_hand(implementation):
    # p = 1/2: 0.25 * 0.25 * log 2 for a positive, 0.75 * 0.25 * log 2 for a negative.
    logits, valid = jnp.zeros((1, 1, 3, 2)), jnp.array([[[True, True, False]]])
    for labels, positives in (([0, 1, 1], 2), ([2, 1, 0], 1), ([2, 2, 2], 0)):
        got = dense_focal_loss(
            logits, jnp.asarray(labels).reshape(1, 1, 3), valid, implementation=implementation
        )
        want = np.log(2) * (positives + 3 * (4 - positives)) / 16
        np.testing.assert_allclose(got, want, rtol=1e-6)


@every_form
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((4, 3, 2, 5), {}),
        ((1, 1, 1, 1), {}),
        ((2, 5, 9, 3), {"alpha": None}),
        ((2, 5, 9, 3), {"alpha": 0.5, "gamma": 0.0}),
    ],
)
def test_values_and_gradients_by_the_definition(sizes, options, implementation):
    level = make_level(*sizes)
    loss = functools.partial(dense_focal_loss, implementation=implementation, **options)
    assert_close(
        gradients(loss, *level), gradients(functools.partial(definition, **options), *level)
    )


@every_form
@pytest.mark.parametrize("dtype", [jnp.int32, jnp.float32])
def test_labels_are_exact_and_have_no_gradient(dtype, implementation):
    """Of more classes than bfloat16 can tell apart."""
    logits, labels, valid = make_level(1, 40, 1, 300)
    loss = functools.partial(dense_focal_loss, implementation=implementation)
    want = gradients(definition, logits, labels, valid)
    labels = labels.astype(dtype)
    assert_close(gradients(loss, logits, labels, valid), want)
    if dtype == jnp.float32:
        by_labels = jax.grad(loss, argnums=1)(logits, labels, valid)
        assert_equal(by_labels, jnp.zeros_like(labels))


@every_form
def test_anchors_that_are_left_out_do_not_count(implementation):
    logits, labels, valid = make_level()
    loss = functools.partial(dense_focal_loss, implementation=implementation)
    nothing = gradients(loss, logits, labels, jnp.zeros_like(valid))
    assert_equal(nothing, (jnp.float32(0), jnp.zeros_like(logits)))
    others = jnp.where(valid[..., None], logits, 7.0)
    got, want = gradients(loss, others, labels, valid), gradients(loss, logits, labels, valid)
    assert_equal(got, want)


@every_form
@pytest.mark.parametrize("shape", [(0, 3, 2, 5), (3, 0, 2, 5)])
def test_no_positions(shape, implementation):
    labels = jnp.zeros(shape[:3], jnp.int32)
    loss = functools.partial(dense_focal_loss, implementation=implementation)
    got = gradients(loss, jnp.zeros(shape), labels, labels == 0)
    assert_equal(got, (jnp.float32(0), jnp.zeros(shape)))


@every_form
def test_extreme_logits_have_finite_gradients(implementation):
    logits = jnp.float32([-1e4, -80, -30, 0, 30, 80, 1e4]).reshape(1, 7, 1, 1)
    for label in (0, 1):
        labels = jnp.full((1, 7, 1), label)
        loss = functools.partial(dense_focal_loss, implementation=implementation)
        value, gradient = gradients(loss, logits, labels, labels == label)
        np.testing.assert_allclose(value, definition(logits, labels, labels == label), rtol=1e-5)
        assert np.isfinite(gradient).all()


@every_form
@every_type
def test_images_are_mapped_over_and_the_gradient_is_scaled(dtype, implementation):
    levels = [make_level(seed=seed) for seed in range(3)]
    logits, labels, valid = (jnp.stack(x) for x in zip(*levels, strict=True))
    logits, weights = logits.astype(dtype), jnp.float32([0.5, -2, 0])

    def weighted(loss):
        value, (by_logits,) = run(
            lambda logits: jax.vmap(loss)(logits, labels, valid), weights, logits
        )
        return value, by_logits

    value, by_logits = weighted(functools.partial(dense_focal_loss, implementation=implementation))
    want, want_by_logits = weighted(definition)
    assert (value.dtype, by_logits.dtype) == (jnp.float32, dtype)  # summed in float32
    assert_close(value, want)
    # The fast form rounds the gradient of bfloat16 once more.
    assert_close(by_logits, want_by_logits, 1e-2 if dtype == jnp.bfloat16 else 1e-5)


@every_type
def test_the_fast_form_keeps_the_gradient_instead_of_the_logits(dtype):
    logits, labels, valid = make_level()
    logits = logits.astype(dtype)
    loss = functools.partial(dense_focal_loss, implementation="fast")
    _, pull = jax.vjp(lambda logits: loss(logits, labels, valid), logits)
    (kept,) = jax.tree.leaves(pull)
    assert kept.dtype == dtype
    (by_logits,) = pull(jnp.float32(1))
    assert_equal(kept.reshape(by_logits.shape), by_logits)
    (doubled,) = pull(jnp.float32(2))
    assert_equal(doubled, 2 * by_logits)


def test_the_reference_is_differentiated_forwards():
    logits, labels, valid = make_level()
    loss = functools.partial(dense_focal_loss, implementation="reference")
    tangent = normal(1, *logits.shape)
    value, slope = jax.jvp(lambda x: loss(x, labels, valid), (logits,), (tangent,))
    want, gradient = gradients(definition, logits, labels, valid)
    assert_close((value, slope), (want, (gradient * tangent).sum()))
