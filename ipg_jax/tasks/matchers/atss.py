"""By a threshold that each object's nearest anchors set themselves (ATSS)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Bool, Float

from ipg_jax import ops
from ipg_jax.tasks.matchers.base import Levels, Matcher, flat
from ipg_jax.tasks.matchers.ranked import match_states
from ipg_jax.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class AtssMatcher(Matcher):
    """Adaptive training sample selection (Zhang et al., 2020, arXiv 1912.02424, algorithm 1).

    An object's candidates are the anchors at the `k` positions of each level that are nearest to
    its centre. Those are positive whose IoU with it is at least the mean plus the standard
    deviation of all its candidates', and whose centre lies inside of it. All else is negative. An
    object between the positions of all levels has no positive anchor.

    Of several anchors at a position all are candidates, as in the authors' code (mmdetection counts
    anchors instead). The deviation is that of a sample, divided by the number of candidates less
    one, as in both. A centre on the edge is not inside; the code wants it 0.01 pixels away. IoUs
    that differ from the threshold by a millionth reach it, or rounding would decide where all
    candidates are alike. An anchor that several objects choose goes to the one of largest IoU.

    Attributes (besides those of `Matcher`):
      k: how many positions of each level.
    """

    k: int = 9

    def match(
        self,
        anchors: Levels,
        boxes: Float[Array, "m 4"],
        valid: Bool[Array, " m"],
    ) -> ops.Matches:
        """Returns the matches; see `Matcher.match`."""
        every = flat(anchors)
        candidates, start = [], 0
        for level in anchors:
            kinds, positions = level.shape[:2]
            nearest = self._nearest_positions(level[0], boxes, valid)
            first = start + positions * jnp.arange(kinds, dtype=jnp.int32)
            candidates.append((first + nearest[:, :, None]).reshape(boxes.shape[0], -1))
            start += kinds * positions
        index = jnp.concatenate(candidates, axis=1)

        chosen = every[index]
        iou = ops.paired_iou(chosen, boxes[:, None])
        mean = iou.mean(axis=1, keepdims=True)
        squares = ((iou - mean) ** 2).sum(axis=1, keepdims=True)
        threshold = mean + jnp.sqrt(squares / max(index.shape[1] - 1, 1))
        x, y, _, _ = ops.center_size(chosen)
        x1, y1, x2, y2 = jnp.unstack(boxes[:, :, None], axis=1)
        inside = (x > x1) & (x < x2) & (y > y1) & (y < y2)
        claims = valid[:, None] & inside & (iou >= threshold * (1 - ops.ROUNDING))
        owner, positive = ops.settle_claims(index, iou, claims, anchors=every.shape[0])
        return ops.Matches(owner, match_states(positive))

    def _nearest_positions(self, anchors: Array, boxes: Array, valid: Array) -> Array:
        """Returns the anchors whose centres are the `k` nearest to that of each box."""
        x, y, _, _ = ops.center_size(anchors)

        def nearness(boxes: Array) -> Array:
            bx, by, _, _ = ops.center_size(boxes)
            return -((bx[:, None] - x) ** 2 + (by[:, None] - y) ** 2)

        return ops.nearest_anchors(nearness, boxes, valid, self.k, anchors=len(x)).index
