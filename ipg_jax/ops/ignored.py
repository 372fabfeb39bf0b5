"""Regions to ignore: what lies in them is no background."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ipg_jax.ops.boxes import box_area, pairwise_intersection
from ipg_jax.ops.chunks import PAIRS, fold_boxes
from ipg_jax.ops.matching import Matches, MatchState
from ipg_jax.types import Array, PyTree


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
    nowhere. Boxes are looked at in chunks, see `fold_boxes`: in small ones, since such regions are
    few, and an image without any then costs nothing.

    Args:
      matches: of the anchors with the objects.
      anchors: the anchors or proposals.
      boxes: regions to ignore.
      valid: which of them count.
      threshold: the least part, in (0, 1].
      pairs: see `fold_boxes`.
    """
    area = box_area(anchors)

    def step(covered: jax.Array, start: Array, chunk: PyTree) -> jax.Array:
        del start
        regions, valid = chunk
        inside = pairwise_intersection(regions, anchors) >= threshold * area
        return covered | jnp.any(valid[:, None] & inside, axis=0)

    nothing = jnp.zeros(anchors.shape[0], bool)
    covered = fold_boxes(
        step, nothing, (boxes, valid), valid, anchors=anchors.shape[0], pairs=pairs
    )
    ignored = covered & (area > 0) & (matches.state != MatchState.POSITIVE)
    return matches._replace(state=jnp.where(ignored, MatchState.IGNORE, matches.state))
