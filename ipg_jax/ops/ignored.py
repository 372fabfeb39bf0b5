"""Regions to ignore: what lies in them is no background."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ipg_jax.ops.boxes import box_area, pairwise_intersection
from ipg_jax.ops.chunks import PAIRS, fold_boxes
from ipg_jax.ops.matching import Matches, MatchState
from ipg_jax.types import Array


@functools.partial(jax.jit, static_argnames=("threshold", "pairs"), inline=True)
def ignore_covered(
    matches: Matches,
    anchors: Float[Array, "a 4"],
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    *,
    threshold: float,
    pairs: int = PAIRS // 16,
) -> Matches:
    """Sets anchors to IGNORE that lie in a region to ignore, unless they are POSITIVE.

    An anchor lies there if its intersection with one of the boxes is at least `threshold` of its
    own area, as by Detectron and by `ignore_iof_thr` of mmdetection. An anchor without area lies
    nowhere. On a CPU boxes are looked at in chunks, see `fold_boxes`: in small ones, since such
    regions are few, and an image without any then costs nothing. Elsewhere the compiler reduces the
    overlaps of all pairs while it computes them.

    Args:
      matches: of the anchors with the objects.
      anchors: the anchors or proposals.
      boxes: regions to ignore.
      valid: which of them count.
      threshold: the least part, in (0, 1].
      pairs: see `fold_boxes`.
    """
    inside = jax.lax.platform_dependent(
        anchors,
        boxes,
        valid,
        cpu=functools.partial(covered, threshold=threshold, pairs=pairs),
        default=functools.partial(covered_at_once, threshold=threshold),
    )
    ignored = inside & (matches.state != MatchState.POSITIVE)
    return matches._replace(state=jnp.where(ignored, MatchState.IGNORE, matches.state))


def covered(
    anchors: Float[Array, "a 4"],
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    *,
    threshold: float,
    pairs: int,
) -> Bool[Array, " a"]:
    """Returns which anchors lie in a region to ignore; see `ignore_covered` for the arguments."""

    def step(before: jax.Array, start: Array, chunk: tuple[Array, Array]) -> jax.Array:
        del start
        return before | covered_at_once(anchors, *chunk, threshold=threshold)

    count = anchors.shape[0]
    nothing = jnp.zeros(count, bool)
    return fold_boxes(step, nothing, (boxes, valid), valid, anchors=count, pairs=pairs)


def covered_at_once(
    anchors: Float[Array, "a 4"],
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    *,
    threshold: float,
) -> Bool[Array, " a"]:
    """Like `covered`, in one pass over all pairs."""
    area = box_area(anchors)
    inside = pairwise_intersection(boxes, anchors) >= threshold * area
    return jnp.any(valid[:, None] & inside & (area > 0), axis=0)
