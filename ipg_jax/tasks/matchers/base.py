"""What all matchers share: how they are called, and the regions to ignore."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ipg_jax import ops
from ipg_jax.types import Array

Levels: TypeAlias = tuple[Float[Array, "_ _ 4"], ...]
"""The anchors of each level, `[kinds, positions, 4]`: all anchors of one shape, then those of the
next. Those of one position have one centre."""


def anchors_by_kind(anchors: Sequence[Float[Array, "_ 4"]], kinds: int) -> Levels:
    """Returns the anchors of `ops.pyramid_anchors` in the order of `Levels`.

    The positions of the feature map, of which there are many, then come last, where accelerators
    want the long axes.

    Args:
      anchors: of each level, position by position.
      kinds: how many anchors a position has.
    """
    return tuple(level.reshape(-1, kinds, 4).swapaxes(0, 1) for level in anchors)


def flat(anchors: Levels) -> Float[Array, "a 4"]:
    """Returns the anchors of all levels in the order of a matcher's results."""
    return jnp.concatenate([level.reshape(-1, 4) for level in anchors])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Matcher(abc.ABC):
    """Assigns the anchors of one image to its objects; `jax.vmap` takes several images.

    A subclass says in `match` what is positive, negative or neither. No matcher needs memory for
    all pairs of an anchor and an object, see `ops.match_and_take`.

    Attributes:
      ignore_overlap: the part of an anchor's area from which on an object to ignore leaves it out
        of the loss, unless it is positive. With None these objects are only no targets, as in
        torchvision.
    """

    ignore_overlap: float | None = None

    @functools.partial(jax.jit, static_argnums=0, inline=True)
    def __call__(
        self,
        anchors: Levels,
        boxes: Float[Array, "m 4"],
        valid: Bool[Array, " m"],
        ignore: Bool[Array, " m"],
        values: Float[Array, "m c"],
    ) -> tuple[ops.Matches, Float[Array, "a c"]]:
        """Returns the matches of an image and the values of each anchor's object.

        Args:
          anchors: see `Levels`.
          boxes: the objects, in pixels as the anchors.
          valid: False for padding.
          ignore: objects that are no targets, such as crowds.
          values: what there is to know of each object.

        Returns:
          The matches of all anchors in their order, and values `[a, c]`, as little meant as the
          index where the state is not POSITIVE.
        """
        if boxes.shape[0] == 0:  # as much as one row of padding
            boxes, values = jnp.zeros((1, 4)), jnp.zeros((1, values.shape[1]))
            valid = ignore = jnp.zeros(1, bool)
        matches, taken = self.match_and_take(anchors, boxes, valid & ~ignore, values)
        if self.ignore_overlap is not None:
            every = flat(anchors)
            matches = ops.ignore_covered(
                matches, every, boxes, valid & ignore, threshold=self.ignore_overlap
            )
        return matches, taken

    @abc.abstractmethod
    def match(
        self,
        anchors: Levels,
        boxes: Float[Array, "m 4"],
        valid: Bool[Array, " m"],
    ) -> ops.Matches:
        """Returns the matches with the valid objects; see `__call__`. There is at least one row."""

    def match_and_take(
        self,
        anchors: Levels,
        boxes: Float[Array, "m 4"],
        valid: Bool[Array, " m"],
        values: Float[Array, "m c"],
    ) -> tuple[ops.Matches, Float[Array, "a c"]]:
        """Returns `match` and the values by its index, for subclasses that have both at once."""
        matches = self.match(anchors, boxes, valid)
        return matches, jnp.asarray(values, jnp.float32)[matches.index]
