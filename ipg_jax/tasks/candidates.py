"""The best (anchor, class) pairs of a dense head, which enter NMS."""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ipg_jax import ops
from ipg_jax.models import DenseOutputs
from ipg_jax.types import Array


class Candidates(NamedTuple):
    """Scored boxes that enter NMS.

    Attributes:
      boxes: in pixels of the network input.
      scores: probabilities.
      labels: classes.
    """

    boxes: Float[Array, "*b k 4"]
    scores: Float[Array, "*b k"]
    labels: Int[Array, "*b k"]


def level_candidates(
    level: DenseOutputs, anchors: Float[Array, "n 4"], limit: int, *, per_position: int
) -> Candidates:
    """Returns the best (anchor, class) pairs of a level for each image.

    The best k pairs lie on the k positions with the best maxima, and on the k anchors there with
    the best: small sorts instead of one over all pairs, with the same result. A TPU finds the
    maxima over all pairs of a position while it convolves.

    Args:
      level: the head's outputs.
      anchors: of the level, those of a position one after another.
      limit: how many pairs at most.
      per_position: how many anchors a position has.

    Returns:
      Decoded boxes, scores and labels, best first.
    """
    images = level.logits.shape[0]  # may be symbolic, which len() refuses
    positions = len(anchors) // per_position
    if positions > limit:
        _, best = jax.lax.top_k(level.logits.reshape(images, positions, -1).max(axis=-1), limit)

        def taken(x: Array) -> Array:
            # With the positions first, as a TPU lays out feature maps, no map is copied.
            rows = x.reshape(images, positions, -1).swapaxes(0, 1)
            return rows[best, jnp.arange(images)[:, None]].reshape(images, -1, x.shape[-1])

        level = DenseOutputs(taken(level.logits), taken(level.deltas))
        anchors = anchors.reshape(positions, -1)[best].reshape(images, -1, 4)
    return jax.vmap(functools.partial(_image_candidates, limit=limit))(
        level, jnp.broadcast_to(anchors, (images, *anchors.shape[-2:]))
    )


def _image_candidates(
    level: DenseOutputs, anchors: Float[Array, "n 4"], *, limit: int
) -> Candidates:
    """Returns boxes, scores and labels of the best (anchor, class) pairs of one image."""
    _, rows = jax.lax.top_k(level.logits.max(axis=-1), min(limit, len(anchors)))
    scores = jax.nn.sigmoid(level.logits[rows].astype(jnp.float32))
    scores, pairs = jax.lax.top_k(scores.reshape(-1), min(limit, scores.size))
    classes = level.logits.shape[-1]
    rows, labels = rows[pairs // classes], pairs % classes
    boxes = ops.decode_boxes(level.deltas[rows].astype(jnp.float32), anchors[rows])
    return Candidates(boxes, scores, labels)
