"""By the distance of objects from the receptive fields of features, for tiny objects (RFLA)."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Bool, Float

from ipg_jax import ops
from ipg_jax.tasks.matchers.base import Levels, Matcher
from ipg_jax.tasks.matchers.ranked import Ranked, match_ranked, match_states
from ipg_jax.types import Array

_RESNET50 = {2: 35, 3: 91, 4: 267, 5: 427}


def receptive_field(level: int) -> float:
    """Returns the side of the theoretical receptive field of a feature of P2, P3 and so on.

    In pixels, for a ResNet-50 with an FPN as the code of RFLA counts it: the stem and pooling, the
    3x3 convolutions of each stage, and one of stride 2 for each level beyond P5. It serves as a
    prior on sizes, and is used for every backbone.
    """
    return float(_RESNET50[min(level, 5)] + sum(2 * 2**i for i in range(6, level + 1)))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RflaMatcher(Matcher):
    """Label assignment by Gaussian receptive fields (Xu et al., ECCV 2022, arXiv 2208.08738).

    A feature's receptive field is a Gaussian around its position. Its standard deviation is a
    quarter of the theoretical receptive field: the effective one is half as wide, and a box's
    Gaussian has half its side. With the divergence `D` of the field from the object's Gaussian,
    similarity is `1 / (1 + D)`. Each object first gets the `k` most similar positions. Then all
    fields shrink by `decay`, and each object gets the most similar position if it is still free.

    Positions are assigned, not anchors: all anchors of a position share its state. The published
    detectors have one there, as do ours with one octave and one ratio. Of free positions, those
    whose shrunk field has a similarity of at least `ignore_from` with an object are left out of the
    loss, as in the authors' code. In that code the last object of several gets a position, here the
    most similar one; and it shrinks the anchors that boxes are regressed from together with the
    fields, which is not done here.

    Attributes (besides those of `Matcher`):
      receptive_fields: sides in pixels of the theoretical receptive field of each level's features.
      k: how many positions each object gets at first.
      decay: by how much the fields shrink, `beta` in the paper.
      ignore_from: the least similarity of positions that are neither positive nor negative; more
        than 1 for none.
    """

    receptive_fields: tuple[float, ...]
    k: int = 3
    decay: float = 0.9
    ignore_from: float = 0.8

    def match(
        self,
        anchors: Levels,
        boxes: Float[Array, "m 4"],
        valid: Bool[Array, " m"],
    ) -> ops.Matches:
        """Returns the matches; see `Matcher.match`.

        Raises:
          ValueError: there are not as many levels as receptive fields.
        """
        if len(anchors) != len(self.receptive_fields):
            raise ValueError(
                f"receptive_fields has {len(self.receptive_fields)} levels, the anchors have "
                f"{len(anchors)}"
            )
        first = self._ranked(anchors, boxes, valid, k=self.k, scale=0.5)
        spare = self._ranked(anchors, boxes, valid, k=1, scale=0.5 * self.decay)
        index = jnp.where(first.positive, first.index, spare.index)
        state = match_states(first.positive | spare.positive, spare.best >= self.ignore_from)

        def of_anchors(of_positions: Array) -> Array:
            """Gives all anchors of a position its value."""
            parts, start = [], 0
            for level in anchors:
                kinds, positions = level.shape[:2]
                parts.append(jnp.tile(of_positions[start : start + positions], kinds))
                start += positions
            return jnp.concatenate(parts)

        return ops.Matches(of_anchors(index), of_anchors(state))

    def _ranked(
        self, anchors: Levels, boxes: Array, valid: Array, *, k: int, scale: float
    ) -> Ranked:
        """Returns the matches of positions with objects, by fields of a part of their size."""
        fields = jnp.concatenate(
            [
                _squares(level[0], scale * side)
                for level, side in zip(anchors, self.receptive_fields, strict=True)
            ]
        )

        def similarity(boxes: Array) -> Array:
            return 1 / (1 + ops.gaussian_divergence(fields[None], boxes[:, None]))

        return match_ranked(similarity, boxes, valid, k, anchors=fields.shape[0])


def _squares(anchors: Float[Array, "p 4"], side: float) -> Array:
    """Returns squares around the anchors' centres."""
    x, y, _, _ = ops.center_size(anchors)
    return jnp.stack([x - side / 2, y - side / 2, x + side / 2, y + side / 2], axis=-1)
