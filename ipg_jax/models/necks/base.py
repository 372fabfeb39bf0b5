"""What a detector needs of a neck."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from jaxtyping import Float

from ipg_jax.types import Array


@runtime_checkable
class Neck(Protocol):
    """A Linen module from a backbone's features to levels of equal width.

    Attributes:
      in_features: the backbone's outputs that are read, finest first; each gives a level.
      extra_levels: how many coarser levels follow, each at half the size of the one before.
    """

    in_features: tuple[str, ...]
    extra_levels: int

    def __call__(
        self, features: dict[str, Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Returns the levels, finest first.

        Args:
          features: the backbone's outputs.
          train: whether norms use and update statistics of the batch.
        """
