"""What the tasks of all detectors share: normalisation, anchors and the choice of detections."""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ipg_jax import kernels, ops
from ipg_jax.kernels import Implementation
from ipg_jax.layers import counting
from ipg_jax.tasks.postprocess import Nms, select_detections
from ipg_jax.types import Array, Batch, Detections, PackedImage, PackedPyramid, Pyramid, PyTree

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


LossAndUpdates: TypeAlias = tuple[Float[Array, ""], tuple[dict[str, Float[Array, ""]], PyTree]]
"""A loss, and beside it metrics and new statistics, `(loss, (metrics, batch_stats))`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectionTask(abc.ABC):
    """A detector, what it is trained for, and how its outputs become boxes.

    Attributes:
      model: the detector.
      anchor_sizes: per level, sides in pixels of the square anchors.
      anchor_ratios: ratios height / width.
      score_threshold: scores at or below it are dropped.
      nms_iou: see `select_detections`, as are `nms` and `nms_sigma`.
      max_detections: boxes kept per image.
      nms: how boxes of one class suppress each other.
      nms_sigma: width of `soft_gaussian`.
      kernels: the form of the kernels in the task's programs, see `kernels.use`; None leaves it to
        the context.
      image_mean: mean of the RGB channels, of images in [0, 1].
      image_std: standard deviation of the same.
    """

    model: Any
    anchor_sizes: tuple[tuple[float, ...], ...]
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 100
    nms: Nms = "greedy"
    nms_sigma: float = 0.5
    kernels: Implementation | None = None
    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    image_std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        levels = len(self.model.strides)
        if len(self.anchor_sizes) != levels:
            raise ValueError(
                f"anchor_sizes has {len(self.anchor_sizes)} levels, the FPN gives {levels}"
            )
        per_position = {len(sizes) * len(self.anchor_ratios) for sizes in self.anchor_sizes}
        if per_position != {self._anchors_per_position}:
            raise ValueError(
                f"anchors per position are {sorted(per_position)} by anchor_sizes and "
                f"anchor_ratios, {self._anchors_per_position} by the head's num_anchors"
            )

    @property
    @abc.abstractmethod
    def num_classes(self) -> int:
        """Number of classes, which is also the background's label."""

    @property
    @abc.abstractmethod
    def _anchors_per_position(self) -> int:
        """Anchors per position that the model's dense head is made for."""

    @property
    def dtype(self) -> Any:
        """Type that the model computes in."""
        return self.model.backbone.dtype

    @property
    def pyramid_levels(self) -> int:
        """How many levels of the image pyramid the model reads."""
        return self.model.backbone.pyramid_levels

    def init(self, rng: jax.Array) -> PyTree:
        """Returns fresh variables, `{"params": ..., "batch_stats": ...}`.

        Args:
          rng: a key of `jax.random`.
        """
        side = 4 * 2**self.pyramid_levels  # the model is convolutional: any size will do
        pyramid = tuple(
            jnp.zeros((1, side >> i, side >> i, 3), self.dtype) for i in range(self.pyramid_levels)
        )
        variables = jax.jit(self.model.init)(rng, pyramid)
        return {"batch_stats": {}} | {
            key: value for key, value in variables.items() if key in ("params", "batch_stats")
        }

    def loss(
        self, variables: PyTree, batch: Batch, *, rng: jax.Array | None = None
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Returns the training loss of a batch and a dict of scalars that says what it is made of.

        Args:
          variables: `{"params": ..., "batch_stats": ...}`.
          batch: images and ground truth; images of weight 0 count for nothing, not in the
            statistics of batch norms either.
          rng: key of the random choices, for tasks that sample.

        Returns:
          The loss, NaN if an object that counts has a label that is no class of the model's.
        """
        loss, (metrics, _) = self.loss_and_updates(variables, batch, rng=rng)
        return loss, metrics

    def loss_and_updates(
        self, variables: PyTree, batch: Batch, *, rng: jax.Array | None = None
    ) -> LossAndUpdates:
        """Like `loss`, and also returns the new `batch_stats`: `(loss, (metrics, batch_stats))`.

        Raises:
          ValueError: the task samples, and there is no `rng`; or the pyramid has too few levels.
        """
        with self._use_kernels(), counting(batch.weight > 0):
            loss, (metrics, batch_stats) = self._loss_and_updates(variables, batch, rng)
        # No host sees the labels of a batch here. A wrong one would else cost next to nothing.
        labels = jnp.asarray(batch.labels)
        counted = batch.valid & ~batch.ignore & (batch.weight > 0)[:, None]
        known = (labels >= 0) & (labels < self.num_classes)
        factor = jnp.where((known | ~counted).all(), 1.0, jnp.nan)
        metrics = metrics | {"loss": metrics["loss"] * factor}
        return loss * factor, (metrics, batch_stats)

    def predict(
        self, variables: PyTree, pyramid: Pyramid | PackedPyramid, image_size: Int[Array, "b 2"]
    ) -> Detections:
        """Returns the boxes of each image, best first, in pixels of the network input.

        Args:
          variables: `{"params": ..., "batch_stats": ...}`.
          pyramid: uint8 images, level `i` of shape `[B, H / 2^i, W / 2^i, 3]`, plain or packed.
          image_size: height and width of each image's content, to which boxes are clipped.
        """
        with self._use_kernels():
            return self._predict(variables, pyramid, image_size)

    @abc.abstractmethod
    def _loss_and_updates(
        self, variables: PyTree, batch: Batch, rng: jax.Array | None
    ) -> LossAndUpdates:
        """What `loss_and_updates` returns."""

    @abc.abstractmethod
    def _predict(
        self, variables: PyTree, pyramid: Pyramid | PackedPyramid, image_size: Int[Array, "b 2"]
    ) -> Detections:
        """What `predict` returns."""

    def _use_kernels(self) -> contextlib.AbstractContextManager[Any]:
        return kernels.use(self.kernels) if self.kernels else contextlib.nullcontext()

    def _normalize(
        self, pyramid: Pyramid | PackedPyramid, image_size: Int[Array, "b 2"]
    ) -> Pyramid | PackedPyramid:
        if len(pyramid) < self.pyramid_levels:
            raise ValueError(
                f"the model reads {self.pyramid_levels} pyramid levels, the batch has "
                f"{len(pyramid)}"
            )
        return ops.normalize_pyramid(
            pyramid[: self.pyramid_levels],
            image_size,
            mean=self.image_mean,
            std=self.image_std,
            dtype=self.dtype,
        )

    def _level_shapes(self, image: Array | PackedImage) -> tuple[tuple[int, int], ...]:
        """Returns height and width of each level for the pyramid's first level."""
        height, width = image.shape[1:3]
        return tuple((-(-height // s), -(-width // s)) for s in self.model.strides)

    def _anchors(self, image: Array | PackedImage) -> tuple[Float[Array, "_ 4"], ...]:
        """Returns the anchors of each level for the pyramid's first level."""
        height, width = image.shape[1:3]
        shapes = self._level_shapes(image)
        # As torchvision: the anchors' stride is the image size over the feature size, which is
        # not a power of two where the image is no multiple of the level's stride.
        strides = [(height // rows, width // columns) for rows, columns in shapes]
        return ops.pyramid_anchors(shapes, strides, self.anchor_sizes, self.anchor_ratios)

    def select(
        self,
        boxes: Float[Array, "n 4"],
        scores: Float[Array, " n"],
        labels: Int[Array, " n"],
        image_size: Int[Array, " 2"],
    ) -> Detections:
        """Returns the detections of one image from all of its scored boxes (`select_detections`).

        It merges those of several views of an image too.
        """
        return select_detections(
            boxes,
            scores,
            labels,
            image_size,
            score_threshold=self.score_threshold,
            nms_iou=self.nms_iou,
            max_detections=self.max_detections,
            nms=self.nms,
            nms_sigma=self.nms_sigma,
        )
