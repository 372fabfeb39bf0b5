"""Boxes as offsets from anchors, the form in which detectors regress them.

With `(xa, ya, wa, ha)` the centre and size of an anchor and `(x, y, w, h)` those of a box,

    dx = wx (x - xa) / wa    dw = ww log(w / wa)    x = xa + wa dx / wx    w = wa exp(dw / ww)
    dy = wy (y - ya) / ha    dh = wh log(h / ha)    y = ya + ha dy / wy    h = ha exp(dh / wh)

where `(wx, wy, ww, wh)` are constant weights that bring the four numbers to a like spread
(Girshick et al., "Rich feature hierarchies", 2014; the weights are those of Fast R-CNN).
"""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.ops.boxes import center_size
from ipg_jax.types import Array

MAX_LOG_SCALE = math.log(1000 / 16)
"""Decoding limits `dw / ww` and `dh / wh` to this, so that `exp` cannot overflow."""

_MIN_SIDE = 1e-6
"""Sides are at least this long (in pixels) when encoded: padding rows have no logarithm."""


def encode_boxes(
    boxes: Float[Array, "*n 4"],
    anchors: Float[Array, "*n 4"],
    weights: Sequence[int | float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*n 4"]:
    """Offsets of boxes from anchors; the inverse of `decode_boxes`.

    Args:
      boxes: the boxes, one for each anchor. Boxes and anchors without extent (padding) give
        finite numbers without meaning.
      anchors: the anchors.
      weights: `(wx, wy, ww, wh)`.

    Returns:
      Float32 `(dx, dy, dw, dh)` for each box.
    """
    xa, ya, wa, ha = center_size(anchors)
    x, y, w, h = center_size(boxes)
    wa, ha, w, h = (jnp.maximum(side, _MIN_SIDE) for side in (wa, ha, w, h))
    wx, wy, ww, wh = weights
    return jnp.stack(
        [
            wx * (x - xa) / wa,
            wy * (y - ya) / ha,
            ww * jnp.log(w / wa),
            wh * jnp.log(h / ha),
        ],
        axis=-1,
    )


def decode_boxes(
    deltas: Float[Array, "*n 4"],
    anchors: Float[Array, "*#n 4"],
    weights: Sequence[int | float] = (1.0, 1.0, 1.0, 1.0),
) -> Float[Array, "*n 4"]:
    """Boxes at offsets from anchors; the inverse of `encode_boxes`.

    Args:
      deltas: `(dx, dy, dw, dh)`. For one box per class, `[n, classes, 4]` with anchors
        `[n, 1, 4]`.
      anchors: the anchors.
      weights: `(wx, wy, ww, wh)`, as they were encoded.

    Returns:
      Float32 boxes, not clipped to the image. A side is at most `1000 / 16` times the anchor's.
    """
    xa, ya, wa, ha = center_size(anchors)
    dx, dy, dw, dh = jnp.unstack(jnp.asarray(deltas, jnp.float32), axis=-1)
    wx, wy, ww, wh = weights
    x = xa + wa * (dx / wx)
    y = ya + ha * (dy / wy)
    half_w = 0.5 * wa * jnp.exp(jnp.minimum(dw / ww, MAX_LOG_SCALE))
    half_h = 0.5 * ha * jnp.exp(jnp.minimum(dh / wh, MAX_LOG_SCALE))
    return jnp.stack([x - half_w, y - half_h, x + half_w, y + half_h], axis=-1)
