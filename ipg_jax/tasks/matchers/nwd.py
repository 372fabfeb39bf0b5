"""By rank in the normalised Wasserstein distance, for tiny objects (NWD-RKA)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Bool, Float

from ipg_jax import ops
from ipg_jax.tasks.matchers.base import Matcher
from ipg_jax.types import Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class NwdMatcher(Matcher):
    """The anchors most similar to each object as Gaussians are positive, whatever they overlap.

    Similarity is `ops.normalized_wasserstein` (Wang et al., 2021, arXiv 2110.13389), the ranking
    that of Xu et al., "Detecting tiny objects in aerial images" (2022, arXiv 2206.13996). Of what
    is not positive, anchors with a similarity of at least `ignore_from` are left out of the loss.
    So does the second paper's code, from 0.3 on, though its comment calls all of the rest negative.
    There an anchor in the ranks of several objects goes to the last of them, here to the one that
    it is most similar to.

    Attributes (besides those of `Matcher`):
      k: how many anchors each object gets, 2 in the published configs.
      nwd_constant: a length in pixels, about the mean side of the objects; 12.7 is that of AI-TOD.
      ignore_from: the least similarity of anchors that are neither positive nor negative; more than
        1 for none.
    """

    k: int = 2
    nwd_constant: float = 12.7
    ignore_from: float = 0.3

    def match(
        self,
        anchors: tuple[Float[Array, "_ _ 4"], ...],
        boxes: Float[Array, "m 4"],
        valid: Bool[Array, " m"],
    ) -> ops.Matches:
        """Returns the matches; see `Matcher.match`."""
        every = jnp.concatenate([level.reshape(-1, 4) for level in anchors])
        count = every.shape[0]

        def similarity(boxes: Array) -> Array:
            return ops.normalized_wasserstein(boxes[:, None], every[None], self.nwd_constant)

        nearest = ops.nearest_anchors(similarity, boxes, valid, self.k, anchors=count)
        claims = jnp.broadcast_to(valid[:, None], nearest.index.shape)
        index, positive = ops.settle_claims(
            nearest.index, nearest.similarity, claims, anchors=count
        )
        return ops.Matches(index, ranked_state(positive, nearest.best >= self.ignore_from))


def ranked_state(positive: Bool[Array, " a"], similar: Bool[Array, " a"]) -> Array:
    """Returns states: of what is not positive, the similar is IGNORE and the rest NEGATIVE."""
    state = jnp.where(similar, ops.MatchState.IGNORE, ops.MatchState.NEGATIVE)
    return jnp.where(positive, ops.MatchState.POSITIVE, state).astype(jnp.int32)
