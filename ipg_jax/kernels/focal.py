"""The focal loss of a dense head, summed."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ipg_jax.kernels.dispatch import Implementation, dispatch
from ipg_jax.ops import sigmoid_focal_loss
from ipg_jax.types import Array


def dense_focal_loss(
    logits: Float[Array, "h w a k"],
    labels: Float[Array, "h w a"] | Int[Array, "h w a"],
    valid: Bool[Array, "h w a"],
    *,
    alpha: float | None = 0.25,
    gamma: float = 2.0,
    implementation: Implementation | None = None,
) -> Float[Array, ""]:
    """Returns the focal loss of one level of one image, summed over anchors and classes.

    The fast form takes the gradient with the value and keeps it, in the type of the logits, instead
    of these; in bfloat16 it is rounded once more. Labels get no gradient.

    Args:
      logits: before the sigmoids, of each class of each anchor of each position.
      labels: each anchor's class; `k` for the background.
      valid: False for anchors that are left out.
      alpha: see `ops.sigmoid_focal_loss`, as is `gamma`.
      gamma: exponent of the focusing factor.
      implementation: see `kernels.dispatch`.
    """
    return dispatch(
        logits,
        labels,
        valid,
        name="dense_focal_loss",
        reference=functools.partial(_reference, alpha=alpha, gamma=gamma),
        fast=functools.partial(_fast, alpha=alpha, gamma=gamma),
        platforms=("cpu", "tpu"),
        implementation=implementation,
    )


def _reference(
    logits: Array, labels: Array, valid: Array, *, alpha: float | None, gamma: float
) -> Array:
    targets = labels[..., None] == jnp.arange(logits.shape[-1], dtype=labels.dtype)
    loss = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
    return jnp.where(valid[..., None], loss, 0.0).sum()


def _fast(
    logits: Array, labels: Array, valid: Array, *, alpha: float | None, gamma: float
) -> Array:
    # The logits of a position lie side by side, as the head's convolution makes them, and there
    # their gradient stays, too.
    height, width, anchors, classes = logits.shape
    return _early(alpha, gamma, logits.reshape(height, width, anchors * classes), labels, valid)


def _summed(alpha: float | None, gamma: float, logits: Array, labels: Array, valid: Array) -> Array:
    # Labels come to the logits by a 1x1 convolution, exactly: a TPU is slow at moving values
    # between lanes.
    anchors = labels.shape[-1]
    classes = logits.shape[-1] // anchors
    exact = jnp.bfloat16 if classes <= 256 else jnp.float32
    of_anchors = jnp.where(valid, jnp.asarray(labels, exact), jnp.asarray(-1, exact))
    spread = jax.lax.conv_general_dilated(
        of_anchors.transpose(2, 0, 1)[None],
        jnp.repeat(jnp.eye(anchors, dtype=exact), classes, axis=1)[None, None],
        (1, 1),
        "VALID",
        dimension_numbers=("NCHW", "HWIO", "NHWC"),
        precision=jax.lax.Precision.HIGHEST,
    )[0]
    targets = spread == jnp.tile(jnp.arange(classes, dtype=exact), anchors)
    loss = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma)
    return jnp.where(spread >= 0, loss, 0.0).sum()


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _early(alpha: float | None, gamma: float, logits: Array, labels: Array, valid: Array) -> Array:
    return _summed(alpha, gamma, logits, labels, valid)


def _value_and_gradient(
    alpha: float | None, gamma: float, logits: Array, labels: Array, valid: Array
) -> tuple[Array, Array]:
    loss = functools.partial(_summed, alpha, gamma)
    value, gradient = jax.value_and_grad(loss)(logits, labels, valid)
    # Without the barrier XLA would keep the logits and compute the gradient later.
    return value, jax.lax.optimization_barrier(gradient)


def _scaled(
    alpha: float | None, gamma: float, gradient: Array, by: Array
) -> tuple[Array, None, None]:
    return (by * gradient.astype(by.dtype)).astype(gradient.dtype), None, None


_early.defvjp(_value_and_gradient, _scaled)
