"""Assignment of anchors (or proposals) to ground-truth boxes by overlap."""

import enum
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ipg_jax.ops.boxes import pairwise_iou
from ipg_jax.ops.chunks import PAIRS, fold_boxes
from ipg_jax.types import Array, PyTree


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
    torchvision and Detectron2 do. Unlike there, IoUs tie that differ by a millionth, as those of
    one pair do that are computed twice and rounded differently; and a box that overlaps no anchor
    forces none: it would tie at 0 with nearly all of them.

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
    matches, _ = match_and_take(
        anchors,
        boxes,
        valid,
        jnp.zeros((boxes.shape[0], 0), jnp.float32),
        positive_threshold=positive_threshold,
        negative_threshold=negative_threshold,
        low_quality=low_quality,
    )
    return matches


@functools.partial(
    jax.jit,
    static_argnames=("positive_threshold", "negative_threshold", "low_quality"),
    inline=True,
)
def match_and_take(
    anchors: Float[Array, "a 4"],
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    values: Float[Array, "m c"],
    *,
    positive_threshold: float,
    negative_threshold: float,
    low_quality: bool,
) -> tuple[Matches, Float[Array, "a c"]]:
    """Matches as `match_anchors` does and takes values of the boxes along: `values[index]`.

    On a TPU that costs less than to gather them by the index afterwards. It does not keep the IoUs
    of all pairs: elsewhere boxes are looked at in chunks, see `fold_boxes`, so that an image of
    2,667 objects and 806,000 anchors takes 133 MiB, and a batch that for each of its images.

    Args:
      anchors: see `match_anchors`, as for the other arguments and the errors.
      boxes: the ground truth.
      valid: which boxes to match with.
      values: what there is to know of each box, such as its corners and its label.
      positive_threshold: IoU from which an anchor is POSITIVE.
      negative_threshold: IoU below which an anchor is NEGATIVE.
      low_quality: whether to match the best anchors of each box whatever their IoU.

    Returns:
      The matches, and the values of each anchor's box, as little meant as `index` where the state
      is not POSITIVE.
    """
    if negative_threshold > positive_threshold:
        raise ValueError(
            f"negative_threshold={negative_threshold} is above "
            f"positive_threshold={positive_threshold}."
        )
    if boxes.shape[0] == 0:
        index = jnp.zeros(anchors.shape[0], jnp.int32)
        nothing = jnp.zeros((anchors.shape[0], values.shape[1]), jnp.float32)
        return Matches(index, jnp.full_like(index, MatchState.NEGATIVE)), nothing

    match = jax.lax.platform_dependent(
        anchors,
        boxes,
        valid,
        jnp.asarray(values, jnp.float32),
        tpu=functools.partial(best_of_anchors_at_once, low_quality=low_quality),
        default=functools.partial(best_of_anchors, low_quality=low_quality),
    )
    state = jnp.where(match.iou < negative_threshold, MatchState.NEGATIVE, MatchState.IGNORE)
    positive = (match.iou >= positive_threshold) | match.forced
    state = jnp.where(positive, MatchState.POSITIVE, state).astype(jnp.int32)
    return Matches(match.index, state), match.values


ROUNDING = 1e-6
"""By how much of itself an IoU may differ from one of the same boxes. XLA computes them where they
are needed, and rounds each time as it happens to combine the operations."""


class Best(NamedTuple):
    """Of each anchor: its largest IoU, with which box, that box's values, whether it is forced."""

    iou: Float[Array, " a"]
    index: Int[Array, " a"]  # type: ignore[assignment]
    values: Float[Array, "a c"]
    forced: Bool[Array, " a"]


def best_of_anchors(
    anchors: Float[Array, "a 4"],
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    values: Float[Array, "m c"],
    *,
    low_quality: bool,
    pairs: int = PAIRS,
) -> Best:
    """Returns the best box of each anchor, the first among equals.

    Args:
      anchors: the anchors.
      boxes: the ground truth.
      valid: which boxes to match with; without any, the best IoU is -1.
      values: of each box.
      low_quality: whether the best anchors of each box are forced to match.
      pairs: see `fold_boxes`.
    """

    def step(
        carry: tuple[jax.Array, jax.Array, jax.Array], start: Array, chunk: PyTree
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        best, index, forced = carry
        iou, wanted = _valid_iou(anchors, *chunk, low_quality=low_quality)
        better = jnp.max(iou, axis=0)
        nearest = start + jnp.argmax(iou, axis=0).astype(jnp.int32)
        return (
            jnp.maximum(best, better),
            jnp.where(better > best, nearest, index),
            forced | jnp.any(iou >= wanted[:, None], axis=0),
        )

    count = anchors.shape[0]
    nothing = jnp.full(count, -1.0), jnp.zeros(count, jnp.int32), jnp.zeros(count, bool)
    best, index, forced = fold_boxes(
        step, nothing, (boxes, valid), valid, anchors=count, pairs=pairs
    )
    return Best(best, index, values[index], forced)


def best_of_anchors_at_once(
    anchors: Float[Array, "a 4"],
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    values: Float[Array, "m c"],
    *,
    low_quality: bool,
) -> Best:
    """Like `best_of_anchors`, in one pass over all pairs, in which a TPU computes the IoUs anew.

    A TPU never writes the IoUs to memory. The pass takes the values along, since a TPU gathers a
    few numbers at a time.
    """
    iou, wanted = _valid_iou(anchors, boxes, valid, low_quality=low_quality)
    columns = jnp.unstack(values, axis=1)
    shape = iou.shape
    order = jax.lax.broadcasted_iota(jnp.int32, shape, 0)
    along = [jnp.broadcast_to(column[:, None], shape) for column in columns]

    def better(a: tuple[Array, ...], b: tuple[Array, ...]) -> tuple[Array, ...]:
        behind = jnp.maximum(a[-1], b[-1])
        first = (a[0] > b[0]) | ((a[0] == b[0]) & (a[1] < b[1]))
        return (*(jnp.where(first, x, y) for x, y in zip(a[:-1], b[:-1], strict=True)), behind)

    lowest = jnp.float32(-jnp.inf)
    best, index, *matched, behind = jax.lax.reduce(
        (iou, order, *along, iou - wanted[:, None]),
        (lowest, jnp.int32(shape[0]), *(jnp.float32(0) for _ in along), lowest),
        better,
        (0,),
    )
    taken = jnp.stack(matched, axis=-1) if matched else jnp.zeros((shape[1], 0), jnp.float32)
    return Best(best, index, taken, behind >= 0)


def _valid_iou(
    anchors: Array, boxes: Array, valid: Array, *, low_quality: bool
) -> tuple[Float[Array, "m a"], Float[Array, " m"]]:
    """Returns IoUs of boxes and anchors, and those from which each box forces anchors to match.

    A box that is not valid has IoUs below any other, so that it neither wins nor forces a match.
    """
    iou = jnp.where(valid[:, None], pairwise_iou(boxes, anchors), -1.0)
    best_of_box = jnp.max(iou, axis=1, initial=-1.0)
    forces = (best_of_box > 0) & low_quality
    return iou, jnp.where(forces, best_of_box * (1 - ROUNDING), 2.0)  # 2: more than any IoU
