"""The anchors most similar to each box, by any measure, and who gets those that several claim."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ipg_jax.ops.chunks import PAIRS, fold_boxes
from ipg_jax.ops.matching import ROUNDING
from ipg_jax.types import Array


class Nearest(NamedTuple):
    """The result of `nearest_anchors`.

    Attributes:
      index: int32 `[m, k]`, the anchors most similar to each box, best first.
      similarity: float32 `[m, k]`, how similar they are; minus infinity for boxes that are not
        valid.
      best: float32 `[a]`, each anchor's largest similarity with a valid box; minus infinity without
        any.
    """

    index: Int[jax.Array, "m k"]  # type: ignore[assignment]  # hides `tuple.index`, which is no loss
    similarity: Float[jax.Array, "m k"]
    best: Float[jax.Array, " a"]


def nearest_anchors(
    similarity: Callable[[Float[Array, "c 4"]], Float[Array, "c a"]],
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    k: int,
    *,
    anchors: int,
    pairs: int = PAIRS // 4,
) -> Nearest:
    """Ranks anchors for each box, in chunks of boxes (see `fold_boxes`).

    Args:
      similarity: from boxes to their similarities with all anchors.
      boxes: the ground truth.
      valid: which boxes count.
      k: how many anchors of each box; all, if there are fewer. Of equals the first.
      anchors: how many there are.
      pairs: see `fold_boxes`. Ranking takes more memory for each pair than comparing does.
    """
    count, k = boxes.shape[0], min(k, anchors)

    def step(carry: Nearest, start: Array, chunk: tuple[Array, Array]) -> Nearest:
        boxes, valid = chunk
        similar = jnp.where(valid[:, None], similarity(boxes), -jnp.inf)
        top, index = jax.lax.top_k(similar, k)
        # The last chunk may be longer than the boxes that are left: those rows are dropped.
        rows = start + jnp.arange(boxes.shape[0], dtype=jnp.int32)
        return Nearest(
            carry.index.at[rows].set(index.astype(jnp.int32), mode="drop"),
            carry.similarity.at[rows].set(top, mode="drop"),
            jnp.maximum(carry.best, similar.max(axis=0)),
        )

    nothing = Nearest(
        jnp.zeros((count, k), jnp.int32),
        jnp.full((count, k), -jnp.inf),
        jnp.full(anchors, -jnp.inf),
    )
    return fold_boxes(step, nothing, (boxes, valid), valid, anchors=anchors, pairs=pairs)


def settle_claims(
    index: Int[Array, "m k"],
    quality: Float[Array, "m k"],
    claims: Bool[Array, "m k"],
    *,
    anchors: int,
) -> tuple[Int[Array, " a"], Bool[Array, " a"]]:
    """Gives each anchor to the box that claims it with the largest quality.

    Qualities that differ by a millionth are equal, and the first of equals wins.

    Args:
      index: anchors of each box.
      quality: how well each of them suits the box, not below 0.
      claims: which of them the box claims.
      anchors: how many there are.

    Returns:
      For each anchor, the box that it goes to, 0 where there is none, and whether there is one.
    """
    none = index.shape[0]
    best = jnp.full(anchors, -1.0).at[index].max(jnp.where(claims, quality, -1.0))
    wins = claims & (quality >= best[index] * (1 - ROUNDING))
    boxes = jnp.broadcast_to(jnp.arange(none, dtype=jnp.int32)[:, None], index.shape)
    owner = jnp.full(anchors, none, jnp.int32).at[index].min(jnp.where(wins, boxes, none))
    return jnp.where(owner < none, owner, 0), owner < none
