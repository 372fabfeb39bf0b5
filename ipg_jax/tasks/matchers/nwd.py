"""By rank in the normalised Wasserstein distance, for tiny objects (NWD-RKA)."""

from __future__ import annotations

import dataclasses

from jaxtyping import Bool, Float

from ipg_jax import ops
from ipg_jax.tasks.matchers.base import Levels, Matcher, flat
from ipg_jax.tasks.matchers.ranked import match_ranked, match_states
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
        anchors: Levels,
        boxes: Float[Array, "m 4"],
        valid: Bool[Array, " m"],
    ) -> ops.Matches:
        """Returns the matches; see `Matcher.match`."""
        every = flat(anchors)

        def similarity(boxes: Array) -> Array:
            return ops.normalized_wasserstein(boxes[:, None], every[None], self.nwd_constant)

        ranked = match_ranked(similarity, boxes, valid, self.k, anchors=every.shape[0])
        state = match_states(ranked.positive, ranked.best >= self.ignore_from)
        return ops.Matches(ranked.index, state)
