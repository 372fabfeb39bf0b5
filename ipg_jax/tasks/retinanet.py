"""RetinaNet: targets, losses and post-processing around `models.RetinaNet`."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ipg_jax import ops
from ipg_jax.models import DenseOutputs, RetinaNet
from ipg_jax.types import Array, Batch, Detections, Pyramid, PyTree

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetinaNetTask:
    """What a RetinaNet is trained for and how its outputs become boxes.

    Semantics follow torchvision's `RetinaNet`: anchors with an IoU of at least `foreground_iou`
    are positive, below `background_iou` negative, in between ignored; every object keeps its best
    anchors whatever their IoU. Both losses are summed over an image's anchors and divided by the
    number of its positive anchors (at least 1), then averaged over the images of the batch.

    Attributes:
      model: the detector.
      anchor_sizes: per level, sides in pixels of the square anchors.
      anchor_ratios: ratios height / width.
      foreground_iou: least IoU of a positive anchor.
      background_iou: IoU below which an anchor is negative.
      focal_alpha: weight of positives in the focal loss.
      focal_gamma: exponent of the focal loss.
      box_loss: `l1` on encoded boxes (torchvision), or `smooth_l1` with beta 1/9.
      candidates_per_level: how many of a level's best (anchor, class) pairs enter NMS.
      score_threshold: scores at or below it are dropped.
      nms_iou: IoU above which NMS removes a box of the same class.
      max_detections: boxes kept per image.
      image_mean: mean of the RGB channels, of images in [0, 1].
      image_std: standard deviation of the same.
    """

    model: RetinaNet
    anchor_sizes: tuple[tuple[float, ...], ...]
    anchor_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    foreground_iou: float = 0.5
    background_iou: float = 0.4
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_loss: Literal["l1", "smooth_l1"] = "l1"
    candidates_per_level: int = 1000
    score_threshold: float = 0.05
    nms_iou: float = 0.5
    max_detections: int = 100
    image_mean: tuple[float, float, float] = IMAGENET_MEAN
    image_std: tuple[float, float, float] = IMAGENET_STD

    def __post_init__(self) -> None:
        levels = len(self.model.strides)
        if len(self.anchor_sizes) != levels:
            raise ValueError(
                f"anchor_sizes has {len(self.anchor_sizes)} levels, the FPN gives {levels}"
            )
        per_position = {len(sizes) * len(self.anchor_ratios) for sizes in self.anchor_sizes}
        if per_position != {self.model.head.num_anchors}:
            raise ValueError(
                f"anchors per position are {sorted(per_position)} by anchor_sizes and "
                f"anchor_ratios, {self.model.head.num_anchors} by the head's num_anchors"
            )
        if self.box_loss not in ("l1", "smooth_l1"):
            raise ValueError(f"box_loss is l1 or smooth_l1, not {self.box_loss!r}")

    @property
    def num_classes(self) -> int:
        """Number of classes, which is also the background's label."""
        return self.model.head.num_classes

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
        dtype = self.model.backbone.dtype
        pyramid = tuple(
            jnp.zeros((1, side >> i, side >> i, 3), dtype) for i in range(self.pyramid_levels)
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
          batch: images and ground truth; images of weight 0 count for nothing.
          rng: not used by this task.
        """
        loss, (metrics, _) = self.loss_and_updates(variables, batch, rng=rng)
        return loss, metrics

    def loss_and_updates(
        self, variables: PyTree, batch: Batch, *, rng: jax.Array | None = None
    ) -> tuple[Float[Array, ""], tuple[dict[str, Float[Array, ""]], PyTree]]:
        """Like `loss`, and also returns the new `batch_stats`: `(loss, (metrics, batch_stats))`."""
        del rng
        outputs, updates = self.model.apply(
            variables,
            self._normalize(batch.pyramid, batch.image_size),
            train=True,
            mutable=["batch_stats"],
        )
        anchors = self._anchors(batch.pyramid[0])
        class_loss, box_loss, positives = jax.vmap(self._image_losses, in_axes=(0, None, 0))(
            outputs, anchors, batch
        )
        images = jnp.maximum(batch.weight.sum(), 1.0)
        metrics = {
            "loss_class": (class_loss * batch.weight).sum() / images,
            "loss_box": (box_loss * batch.weight).sum() / images,
            "positive_anchors": (positives * batch.weight).sum() / images,
        }
        loss = metrics["loss_class"] + metrics["loss_box"]
        # A model without batch norm has no updates to give.
        return loss, (metrics | {"loss": loss}, updates.get("batch_stats", {}))

    def predict(
        self, variables: PyTree, pyramid: Pyramid, image_size: Int[Array, "b 2"]
    ) -> Detections:
        """Returns the boxes of each image, best first, in pixels of the network input.

        Args:
          variables: `{"params": ..., "batch_stats": ...}`.
          pyramid: uint8 images, level `i` of shape `[B, H / 2^i, W / 2^i, 3]`.
          image_size: height and width of each image's content, to which boxes are clipped.
        """
        images = self._normalize(pyramid, image_size)
        outputs: Any = self.model.apply(variables, images, train=False)
        anchors = self._anchors(pyramid[0])
        return jax.vmap(self._image_detections, in_axes=(0, None, 0))(outputs, anchors, image_size)

    def _normalize(self, pyramid: Pyramid, image_size: Int[Array, "b 2"]) -> Pyramid:
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
            dtype=self.model.backbone.dtype,
        )

    def _anchors(self, image: Array) -> tuple[Float[Array, "_ 4"], ...]:
        """Returns the anchors of each level for (padded) images `[B, H, W, 3]`."""
        height, width = image.shape[1:3]
        shapes = [(-(-height // s), -(-width // s)) for s in self.model.strides]
        # As torchvision: the anchors' stride is the image size over the feature size, which is
        # not a power of two where the image is no multiple of the level's stride.
        strides = [(height // rows, width // columns) for rows, columns in shapes]
        return ops.pyramid_anchors(shapes, strides, self.anchor_sizes, self.anchor_ratios)

    def _image_losses(
        self,
        outputs: tuple[DenseOutputs, ...],
        anchors: tuple[Float[Array, "_ 4"], ...],
        image: Batch,
    ) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
        """Returns class loss, box loss and number of positive anchors of one image."""
        matches = ops.match_anchors(
            jnp.concatenate(anchors),
            image.boxes,
            image.valid & ~image.ignore,
            positive_threshold=self.foreground_iou,
            negative_threshold=self.background_iou,
            low_quality=True,
        )
        num_positive = (matches.state == ops.MatchState.POSITIVE).sum().astype(jnp.float32)
        class_losses, box_losses, start = [], [], 0
        # Level by level, so that the large logits are never concatenated.
        for level, boxes in zip(outputs, anchors, strict=True):
            state = matches.state[start : start + len(boxes)]
            index = matches.index[start : start + len(boxes)]
            start += len(boxes)
            positive = state == ops.MatchState.POSITIVE
            labels = jnp.where(positive, image.labels[index], self.num_classes)
            focal = ops.sigmoid_focal_loss_with_integer_labels(
                level.logits, labels, alpha=self.focal_alpha, gamma=self.focal_gamma
            )
            counts = state != ops.MatchState.IGNORE
            class_losses.append(jnp.where(counts, focal.sum(-1), 0.0).sum())

            targets = ops.encode_boxes(image.boxes[index], boxes)
            deltas = level.deltas.astype(jnp.float32)
            error = (
                ops.l1_loss(deltas, targets)
                if self.box_loss == "l1"
                else ops.smooth_l1_loss(deltas, targets, beta=1 / 9)
            )
            box_losses.append(jnp.where(positive, error.sum(-1), 0.0).sum())
        normalizer = jnp.maximum(num_positive, 1.0)
        return sum(class_losses) / normalizer, sum(box_losses) / normalizer, num_positive

    def _image_detections(
        self,
        outputs: tuple[DenseOutputs, ...],
        anchors: tuple[Float[Array, "_ 4"], ...],
        image_size: Int[Array, " 2"],
    ) -> Detections:
        """Returns the detections of one image."""
        candidates = [
            self._level_candidates(level, boxes)
            for level, boxes in zip(outputs, anchors, strict=True)
        ]
        boxes, scores, labels = (jnp.concatenate(x) for x in zip(*candidates, strict=True))
        inside = ops.clip_boxes(boxes, image_size)
        index, valid = ops.batched_nms(
            inside,
            scores,
            labels,
            iou_threshold=self.nms_iou,
            max_output_size=self.max_detections,
            valid=scores > self.score_threshold,
        )
        return Detections(
            boxes=jnp.where(valid[:, None], inside[index], 0.0),
            scores=jnp.where(valid, scores[index], 0.0),
            labels=jnp.where(valid, labels[index], 0),
            valid=valid,
        )

    def _level_candidates(
        self, level: DenseOutputs, anchors: Float[Array, "n 4"]
    ) -> tuple[Float[Array, "k 4"], Float[Array, " k"], Int[Array, " k"]]:
        """Returns decoded boxes, scores and labels of a level's best (anchor, class) pairs."""
        # The best k pairs lie on the k anchors with the best maxima: two small sorts instead of
        # one over all pairs, with the same result.
        k = min(self.candidates_per_level, len(anchors))
        _, rows = jax.lax.top_k(level.logits.max(axis=-1), k)
        scores = jax.nn.sigmoid(level.logits[rows].astype(jnp.float32))
        k = min(self.candidates_per_level, scores.size)
        scores, pairs = jax.lax.top_k(scores.reshape(-1), k)
        rows, labels = rows[pairs // self.num_classes], pairs % self.num_classes
        boxes = ops.decode_boxes(level.deltas[rows].astype(jnp.float32), anchors[rows])
        return boxes, scores, labels
