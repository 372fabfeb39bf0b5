"""By thresholds of the IoU, as RetinaNet and the RPN have it."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Bool, Float

from ipg_jax import ops
from ipg_jax.tasks.matchers.base import Levels, Matcher, flat
from ipg_jax.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class IouMatcher(Matcher):
    """Positive from one IoU on, negative below another, and each object's best anchors positive.

    See `ops.match_anchors` with `low_quality`.

    Attributes (besides those of `Matcher`):
      foreground_iou: least IoU of a positive anchor.
      background_iou: IoU below which an anchor is negative.
    """

    foreground_iou: float
    background_iou: float

    def match(
        self,
        anchors: Levels,
        boxes: Float[Array, "m 4"],
        valid: Bool[Array, " m"],
    ) -> ops.Matches:
        """Returns the matches; see `Matcher.match`."""
        nothing = jnp.zeros((boxes.shape[0], 0), jnp.float32)
        return self.match_and_take(anchors, boxes, valid, nothing)[0]

    def match_and_take(
        self,
        anchors: Levels,
        boxes: Float[Array, "m 4"],
        valid: Bool[Array, " m"],
        values: Float[Array, "m c"],
    ) -> tuple[ops.Matches, Float[Array, "a c"]]:
        """Returns matches and values in one pass; see `Matcher.match_and_take`."""
        return ops.match_and_take(
            flat(anchors),
            boxes,
            valid,
            values,
            positive_threshold=self.foreground_iou,
            negative_threshold=self.background_iou,
            low_quality=True,
        )


RETINANET_IOU = IouMatcher(foreground_iou=0.5, background_iou=0.4)
"""What RetinaNet was published with."""

RPN_IOU = IouMatcher(foreground_iou=0.7, background_iou=0.3)
"""What the RPN of Faster R-CNN was published with."""
