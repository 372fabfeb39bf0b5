"""Matching by rank: each object claims the anchors that are most similar to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ipg_jax import ops
from ipg_jax.types import Array


class Ranked(NamedTuple):
    """The result of `match_ranked`.

    Attributes:
      index: int32 `[a]`, each anchor's object; 0 where it has none.
      positive: bool `[a]`, whether it has one.
      best: float32 `[a]`, its largest similarity with an object; minus infinity without any.
    """

    index: Int[Array, " a"]  # type: ignore[assignment]  # hides `tuple.index`, which is no loss
    positive: Bool[Array, " a"]
    best: Float[Array, " a"]


def match_ranked(
    similarity: Callable[[Float[Array, "c 4"]], Float[Array, "c a"]],
    boxes: Float[Array, "m 4"],
    valid: Bool[Array, " m"],
    k: int,
    *,
    anchors: int,
) -> Ranked:
    """Gives each object the `k` anchors most similar to it, and those of several the most similar.

    Args:
      similarity: see `ops.nearest_anchors`, not below 0.
      boxes: the objects.
      valid: which of them count.
      k: how many anchors an object claims.
      anchors: how many there are.
    """
    nearest = ops.nearest_anchors(similarity, boxes, valid, k, anchors=anchors)
    claims = jnp.broadcast_to(valid[:, None], nearest.index.shape)
    index, positive = ops.settle_claims(nearest.index, nearest.similarity, claims, anchors=anchors)
    return Ranked(index, positive, nearest.best)


def match_states(
    positive: Bool[Array, " a"], ignored: Bool[Array, " a"] | bool = False
) -> Int[Array, " a"]:
    """Returns states: of what is not positive, the ignored is IGNORE and the rest NEGATIVE."""
    state = jnp.where(ignored, ops.MatchState.IGNORE, ops.MatchState.NEGATIVE)
    return jnp.where(positive, ops.MatchState.POSITIVE, state).astype(jnp.int32)
