"""What a network must have to be guided, and what a detector needs of one."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

from jaxtyping import Float

from ipg_jax.types import Array, PackedImage, PackedPyramid, Pyramid


@runtime_checkable
class Backbone(Protocol):
    """A Linen module of a stem and stages, whose submodules are made in `setup`.

    Stages count from 1; the output of stage `s` is the feature `c{s+1}`.
    """

    dtype: Any
    param_dtype: Any

    @property
    def strides(self) -> dict[str, int]:
        """Stride of each stage's output, `{"c2": 4, "c3": 8, ...}`."""

    @property
    def channels(self) -> dict[str, int]:
        """Channels of each stage's output, `{"c2": 256, "c3": 512, ...}`."""

    def stem(
        self, image: Float[Array, "b h w 3"] | PackedImage, *, train: bool
    ) -> Float[Array, "b _ _ _"]:
        """Returns what the first stage reads, of normalised images.

        Args:
          image: normalised images, whose height and width are multiples of 4.
          train: whether norms use and update statistics of the batch.
        """

    def stage(
        self, number: int, x: Float[Array, "b _ _ _"], *, train: bool
    ) -> Float[Array, "b _ _ _"]:
        """Returns the output of a stage.

        Args:
          number: of the stage, from 1.
          x: the output of the stage before, which guidance may have changed; or of the stem.
          train: as for `stem`.
        """


@runtime_checkable
class PyramidBackbone(Protocol):
    """A Linen module from an image pyramid to features, `IPGNet` or another: a detector's first."""

    @property
    def dtype(self) -> Any:
        """Type of the computation."""

    @property
    def strides(self) -> dict[str, int]:
        """Stride of each output, `{"c2": 4, "c3": 8, ...}`."""

    @property
    def pyramid_levels(self) -> int:
        """How many levels of the image pyramid are read."""

    def __call__(
        self, pyramid: Pyramid | PackedPyramid, *, train: bool
    ) -> dict[str, Float[Array, "b _ _ _"]]:
        """Returns the outputs by name.

        Args:
          pyramid: normalised images, level `i` at `1 / 2^i` of the size.
          train: whether norms use and update statistics of the batch.
        """
