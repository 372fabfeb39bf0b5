"""Assignment of anchors (or proposals) to ground-truth boxes by overlap."""

import enum
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ipg_jax.ops.boxes import pairwise_iou
from ipg_jax.types import Array


class MatchState(enum.IntEnum):
    """What an anchor is to the loss."""

    IGNORE = 0
    NEGATIVE = 1
    POSITIVE = 2


class Matches(NamedTuple):
    """The result of `match_anchors`.

    Attributes:
      index: int32 `[a]`, the box that each anchor overlaps most; has a meaning only where the
        state is POSITIVE, but is always a legal index.
      state: int32 `[a]`, values of `MatchState`.
    """

    index: Int[Array, " a"]  # type: ignore[assignment]  # hides `tuple.index`, which is no loss
    state: Int[Array, " a"]


def match_anchors(
    anchors: Float[Array, "a 4"],
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    *,
    positive_threshold: float,
    negative_threshold: float,
    low_quality: bool,
) -> Matches:
    """Matches each anchor with the box it overlaps most.

    With `q` an anchor's largest IoU over the valid boxes, the anchor is POSITIVE if
    `q >= positive_threshold`, NEGATIVE if `q < negative_threshold`, and IGNORE between.
    With `low_quality`, every anchor that has the largest IoU of all anchors with some box, ties
    included, is POSITIVE too (Ren et al., "Faster R-CNN", 2015, section 3.1.2). Its index stays
    the box that *it* overlaps most, which need not be the box that forced the match; this is what
    torchvision and Detectron2 do. Unlike there, a box that overlaps no anchor forces none: it
    would tie at 0 with nearly all of them.

    Args:
      anchors: the anchors or proposals.
      boxes: the ground truth.
      valid: which boxes to match with. False for padding and for objects that training leaves
        out (`batch.valid & ~batch.ignore`): these take no part. Without any valid box, every
        anchor is NEGATIVE.
      positive_threshold: IoU from which an anchor is POSITIVE.
      negative_threshold: IoU below which an anchor is NEGATIVE.
      low_quality: whether to match the best anchors of each box whatever their IoU.

    Returns:
      The matches.

    Raises:
      ValueError: `negative_threshold` is above `positive_threshold`.
    """
    if negative_threshold > positive_threshold:
        raise ValueError(
            f"negative_threshold={negative_threshold} is above "
            f"positive_threshold={positive_threshold}."
        )
    if boxes.shape[0] == 0:
        index = jnp.zeros(anchors.shape[0], jnp.int32)
        return Matches(index, jnp.full_like(index, MatchState.NEGATIVE))

    # Below any IoU, so that a box that is not valid neither wins nor forces a match.
    iou = jnp.where(valid[:, None], pairwise_iou(boxes, anchors), -1.0)
    index = jnp.argmax(iou, axis=0).astype(jnp.int32)
    best_of_anchor = jnp.max(iou, axis=0)
    positive = best_of_anchor >= positive_threshold
    if low_quality:
        best_of_box = jnp.max(iou, axis=1, keepdims=True, initial=-1.0)
        positive |= jnp.any((iou == best_of_box) & (best_of_box > 0), axis=0)
    state = jnp.where(best_of_anchor < negative_threshold, MatchState.NEGATIVE, MatchState.IGNORE)
    state = jnp.where(positive, MatchState.POSITIVE, state).astype(jnp.int32)
    return Matches(index, state)
