"""Losses of detectors, elementwise and in float32 whatever the inputs' type.

Nothing is reduced here, because what to divide by is the task's decision. RetinaNet divides, for
each image, the sum over anchors by `max(1, number of positive anchors)` and then takes the mean
over images.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ipg_jax.types import Array


@functools.partial(jax.jit, static_argnames=("alpha", "gamma"), inline=True)
def sigmoid_focal_loss(
    logits: Float[Array, "*n"],
    targets: Float[Array, "*n"] | Int[Array, "*n"] | Bool[Array, "*n"],
    alpha: float | None = 0.25,
    gamma: float = 2.0,
) -> Float[Array, "*n"]:
    """Focal loss of independent binary classifiers, unreduced.

    `-alpha_t (1 - p_t)^gamma log(p_t)`, where `p_t` is the probability given to the right answer
    and `alpha_t` is `alpha` for positives and `1 - alpha` for negatives (Lin et al., "Focal Loss
    for Dense Object Detection", 2017, eq. 5). Finite, with finite gradients, for every logit.

    Args:
      logits: the logits; bfloat16 is taken to float32 first.
      targets: 0 or 1 for each logit.
      alpha: weight of the positives, or None for no weighting.
      gamma: exponent of the focusing factor; 0 gives the cross entropy.

    Returns:
      Float32 losses.
    """
    logits = jnp.asarray(logits, jnp.float32)
    positive = jnp.asarray(targets, bool)
    z = jnp.where(positive, logits, -logits)  # p_t = sigmoid(z)
    # -log(p_t) = softplus(-z), which in `jax.nn` has a derivative of its own
    cross_entropy = jnp.maximum(-z, 0) + jnp.log1p(jnp.exp(-jnp.abs(z)))
    focus = jnp.exp(-gamma * (cross_entropy + z))  # (1 - p_t)^gamma, as log(1 - p_t) = log(p_t) - z
    loss = focus * cross_entropy
    return loss if alpha is None else jnp.where(positive, alpha, 1 - alpha) * loss


def l1_loss(predictions: Float[Array, "*n"], targets: Float[Array, "*n"]) -> Float[Array, "*n"]:
    """Absolute difference, unreduced, float32."""
    return jnp.abs(jnp.asarray(predictions, jnp.float32) - jnp.asarray(targets, jnp.float32))


def smooth_l1_loss(
    predictions: Float[Array, "*n"], targets: Float[Array, "*n"], beta: float = 1.0
) -> Float[Array, "*n"]:
    """Absolute difference `d`, made quadratic below `beta`; unreduced, float32.

    `d^2 / (2 beta)` if `d < beta`, else `d - beta / 2` (Girshick, "Fast R-CNN", 2015, eq. 3, where
    `beta` is 1).

    Args:
      predictions: the predictions.
      targets: their targets.
      beta: the difference at which the two forms meet.

    Returns:
      Float32 losses.

    Raises:
      ValueError: `beta` is not positive; its limit at 0 is `l1_loss`.
    """
    if beta <= 0:
        raise ValueError(f"beta must be positive, got {beta}; use l1_loss for the limit at 0.")
    d = l1_loss(predictions, targets)
    return jnp.where(d < beta, d**2 / (2 * beta), d - beta / 2)


@functools.partial(jax.jit, inline=True)
def giou_loss(
    boxes: Float[Array, "*n 4"], targets: Float[Array, "*n 4"], eps: float = 1e-7
) -> Float[Array, "*n"]:
    """One minus the generalised IoU of paired boxes, unreduced, float32, in [0, 2].

    `GIoU = IoU - (area of hull - area of union) / area of hull`, the hull being the smallest box
    around both (Rezatofighi et al., "Generalized Intersection over Union", 2019).

    Args:
      boxes: predicted boxes.
      targets: the box that each should be.
      eps: added to the denominators, in square pixels, against boxes without extent.

    Returns:
      Float32 losses.
    """
    x1, y1, x2, y2 = jnp.unstack(jnp.asarray(boxes, jnp.float32), axis=-1)
    tx1, ty1, tx2, ty2 = jnp.unstack(jnp.asarray(targets, jnp.float32), axis=-1)
    width = jnp.maximum(jnp.minimum(x2, tx2) - jnp.maximum(x1, tx1), 0)
    height = jnp.maximum(jnp.minimum(y2, ty2) - jnp.maximum(y1, ty1), 0)
    intersection = width * height
    union = (x2 - x1) * (y2 - y1) + (tx2 - tx1) * (ty2 - ty1) - intersection
    hull = (jnp.maximum(x2, tx2) - jnp.minimum(x1, tx1)) * (
        jnp.maximum(y2, ty2) - jnp.minimum(y1, ty1)
    )
    return 1 - intersection / (union + eps) + (hull - union) / (hull + eps)
