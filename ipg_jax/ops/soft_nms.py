"""Soft non-maximum suppression (Bodla et al., "Soft-NMS", ICCV 2017) with static shapes."""

from __future__ import annotations

import functools
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ipg_jax.ops.boxes import pairwise_iou
from ipg_jax.types import Array


# Compiled, lest its loop be compiled anew at every call from outside a compiled function.
@functools.partial(jax.jit, static_argnames=("max_output_size", "method"))
def soft_nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    labels: Int[Array, " n"],
    max_output_size: int,
    *,
    method: Literal["linear", "gaussian"],
    score_threshold: float | Float[Array, ""],
    iou_threshold: float | Float[Array, ""] = 0.3,
    sigma: float | Float[Array, ""] = 0.5,
    valid: Bool[Array, " n"] | None = None,
) -> tuple[Int[Array, " k"], Float[Array, " k"], Bool[Array, " k"]]:
    """Lowers the scores of overlapping boxes of one class, where `batched_nms` removes them.

    Again and again the box with the best score is selected, and the scores of its class that are
    left are multiplied by a factor of their IoU with it (the paper's section 3):

        linear:    1 - IoU              where IoU > iou_threshold, else 1
        gaussian:  exp(-IoU^2 / sigma)

    This is the sequential definition, to the letter: a score only falls, so selecting the best of
    all classes gives the boxes and the order that class after class would.

    Args:
      boxes: the boxes, in any order.
      scores: their scores, not negative.
      labels: their classes; only boxes of the same class lower each other's scores.
      max_output_size: the number `k` of boxes to return at most, over all classes; may be larger
        than `n`.
      method: which factor.
      score_threshold: boxes whose score is or falls to it or below are dropped; 0.001 in the
        paper.
      iou_threshold: of `linear`: a score is lowered by boxes that overlap by strictly more.
      sigma: of `gaussian`.
      valid: False for boxes that take no part; by default all do.

    Returns:
      Int32 `[k]`, indices of the boxes in decreasing order of lowered score, equal scores in order
      of index; float32 `[k]`, these scores; and bool `[k]`, False for the unused slots at the end,
      whose index and score are 0.

    Raises:
      ValueError: an unknown method.
    """
    if method not in ("linear", "gaussian"):
        raise ValueError(f"method is linear or gaussian, not {method!r}")
    boxes, labels = jnp.asarray(boxes, jnp.float32), jnp.asarray(labels)
    if not len(boxes):
        nothing = jnp.zeros(max_output_size, jnp.int32)
        return nothing, nothing.astype(jnp.float32), nothing.astype(bool)

    def candidates(scores: Array, mask: Array) -> Array:
        """The scores of those that can still be selected, minus infinity for all others."""
        return jnp.where(mask & (scores > score_threshold), scores, -jnp.inf)

    def select(left: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        best = jnp.argmax(left).astype(jnp.int32)
        iou = pairwise_iou(boxes[best][None], boxes)[0]
        if method == "linear":
            factor = jnp.where(iou > iou_threshold, 1.0 - iou, 1.0)
        else:
            factor = jnp.exp(-jnp.square(iou) / sigma)
        lowered = jnp.where(labels == labels[best], left * factor, left)
        others = jnp.isfinite(left) & (jnp.arange(len(left)) != best)
        return candidates(lowered, others), (best, left[best])

    scores = jnp.asarray(scores, jnp.float32)
    takes_part = jnp.isfinite(scores) if valid is None else jnp.isfinite(scores) & valid
    _, (index, score) = jax.lax.scan(
        select, candidates(scores, takes_part), None, length=max_output_size
    )
    filled = jnp.isfinite(score)
    return jnp.where(filled, index, 0), jnp.where(filled, score, 0.0), filled
