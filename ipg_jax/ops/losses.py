"""Losses of detectors, elementwise and in float32 whatever the inputs' type.

Nothing is reduced here, because what to divide by is the task's decision. RetinaNet divides, for
each image, the sum over anchors by `max(1, number of positive anchors)` and then takes the mean
over images.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ipg_jax.ops.boxes import center_size, paired_intersection
from ipg_jax.ops.gaussians import normalized_wasserstein
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


def quality_focal_loss(
    logits: Float[Array, "*n"], qualities: Float[Array, "*n"], beta: float = 2.0
) -> Float[Array, "*n"]:
    """Focal loss with a quality in [0, 1] as the target, unreduced.

    `|y - p|^beta` times the binary cross entropy of `p = sigmoid(logit)` and the quality `y` (Li et
    al., "Generalized Focal Loss", 2020, eq. 2). The least value, 0, is at `p = y`.

    Args:
      logits: the logits; bfloat16 is taken to float32 first.
      qualities: of the right class of a positive, the IoU of its box; 0 else. No gradient is taken.
      beta: exponent of the focusing factor.

    Returns:
      Float32 losses.
    """
    p, cross_entropy, y = _soft_cross_entropy(logits, qualities)
    return jnp.abs(y - p) ** beta * cross_entropy


def varifocal_loss(
    logits: Float[Array, "*n"],
    qualities: Float[Array, "*n"],
    alpha: float = 0.75,
    gamma: float = 2.0,
) -> Float[Array, "*n"]:
    """Binary cross entropy weighted by the quality of positives, focal for negatives; unreduced.

    With `p = sigmoid(logit)` and the quality `q`, it is `-q (q log p + (1 - q) log(1 - p))` where
    `q > 0`, and `-alpha p^gamma log(1 - p)` where it is 0 (Zhang et al., "VarifocalNet", 2021,
    eq. 2). Of a positive the least value is at `p = q`, and is not 0.

    Args:
      logits: the logits; bfloat16 is taken to float32 first.
      qualities: of the right class of a positive, the IoU of its box; 0 else. No gradient is taken.
      alpha: weight of the negatives.
      gamma: exponent of their focusing factor.

    Returns:
      Float32 losses.
    """
    p, cross_entropy, q = _soft_cross_entropy(logits, qualities)
    return jnp.where(q > 0, q, alpha * p**gamma) * cross_entropy


def _soft_cross_entropy(logits: Array, targets: Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Probabilities, their cross entropies with targets in [0, 1], and the targets as constants."""
    logits = jnp.asarray(logits, jnp.float32)
    targets = jax.lax.stop_gradient(jnp.asarray(targets, jnp.float32))
    cross_entropy = targets * jax.nn.softplus(-logits) + (1 - targets) * jax.nn.softplus(logits)
    return jax.nn.sigmoid(logits), cross_entropy, targets


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
    intersection, union, hull = _overlaps(boxes, targets)
    hull_area = hull[0] * hull[1]
    return 1 - intersection / (union + eps) + (hull_area - union) / (hull_area + eps)


@functools.partial(jax.jit, static_argnames="eps", inline=True)
def diou_loss(
    boxes: Float[Array, "*n 4"], targets: Float[Array, "*n 4"], eps: float = 1e-7
) -> Float[Array, "*n"]:
    """One minus the distance IoU of paired boxes, unreduced, float32, in [0, 2].

    `1 - IoU + d^2 / c^2` with the distance `d` of the centres and the diagonal `c` of the smallest
    box around both (Zheng et al., "Distance-IoU Loss", 2020, eq. 7).

    Args:
      boxes: predicted boxes.
      targets: the box that each should be.
      eps: added to the denominators, in square pixels, against boxes without extent.

    Returns:
      Float32 losses.
    """
    intersection, union, (width, height) = _overlaps(boxes, targets)
    x, y, _, _ = center_size(boxes)
    tx, ty, _, _ = center_size(targets)
    distance = (x - tx) ** 2 + (y - ty) ** 2
    return 1 - intersection / (union + eps) + distance / (width**2 + height**2 + eps)


@functools.partial(jax.jit, static_argnames="eps", inline=True)
def ciou_loss(
    boxes: Float[Array, "*n 4"], targets: Float[Array, "*n 4"], eps: float = 1e-7
) -> Float[Array, "*n"]:
    """One minus the complete IoU of paired boxes, unreduced, float32.

    The distance IoU's loss plus `alpha v`, with `v = 4 / pi^2 (atan(w'/h') - atan(w/h))^2` and
    `alpha = v / (1 - IoU + v)`, which is a constant to the gradient (Zheng et al., "Distance-IoU
    Loss", 2020, eq. 8 to 11). The gradient of `v` is the exact one; the paper's code leaves out its
    factor `1 / (w^2 + h^2)`, with sides in units of the image.

    Args:
      boxes: predicted boxes.
      targets: the box that each should be.
      eps: added to the denominators, in square pixels, and the shortest side of a shape.

    Returns:
      Float32 losses.
    """
    intersection, union, _ = _overlaps(boxes, targets)
    _, _, w, h = center_size(boxes)
    _, _, tw, th = center_size(targets)
    w, h, tw, th = (jnp.maximum(side, eps) for side in (w, h, tw, th))
    v = 4 / math.pi**2 * (jnp.arctan2(tw, th) - jnp.arctan2(w, h)) ** 2
    alpha = jax.lax.stop_gradient(v / (1 - intersection / (union + eps) + v + eps))
    return diou_loss(boxes, targets, eps) + alpha * v


def nwd_loss(
    boxes: Float[Array, "*n 4"], targets: Float[Array, "*n 4"], constant: float = 12.7
) -> Float[Array, "*n"]:
    """One minus the similarity of paired boxes as Gaussians, unreduced, float32, in [0, 1].

    It has a gradient where boxes do not overlap. See `normalized_wasserstein` (Wang et al., "A
    Normalized Gaussian Wasserstein Distance for Tiny Object Detection", 2021, section 3.3).

    Args:
      boxes: predicted boxes.
      targets: the box that each should be.
      constant: a length in pixels, about the mean side of the objects; 12.7 is that of AI-TOD.

    Returns:
      Float32 losses.
    """
    return 1 - normalized_wasserstein(boxes, targets, constant)


def _overlaps(boxes: Array, targets: Array) -> tuple[Array, Array, tuple[Array, Array]]:
    """Intersection and union of paired boxes, and width and height of the hull around both."""
    x1, y1, x2, y2 = jnp.unstack(jnp.asarray(boxes, jnp.float32), axis=-1)
    tx1, ty1, tx2, ty2 = jnp.unstack(jnp.asarray(targets, jnp.float32), axis=-1)
    intersection = paired_intersection(boxes, targets)
    union = (x2 - x1) * (y2 - y1) + (tx2 - tx1) * (ty2 - ty1) - intersection
    hull = jnp.maximum(x2, tx2) - jnp.minimum(x1, tx1), jnp.maximum(y2, ty2) - jnp.minimum(y1, ty1)
    return intersection, union, hull
