"""RetinaNet: targets, losses and post-processing around `models.RetinaNet`."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ipg_jax import ops
from ipg_jax.kernels import dense_focal_loss, replicate
from ipg_jax.models import DenseOutputs, RetinaNet
from ipg_jax.tasks.base import DetectionTask, LossAndUpdates
from ipg_jax.types import Array, Batch, Detections, PackedPyramid, Pyramid, PyTree


class Candidates(NamedTuple):
    """Scored boxes that enter NMS.

    Attributes:
      boxes: in pixels of the network input.
      scores: probabilities.
      labels: classes.
    """

    boxes: Float[Array, "*b k 4"]
    scores: Float[Array, "*b k"]
    labels: Int[Array, "*b k"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetinaNetTask(DetectionTask):
    """What a RetinaNet is trained for and how its outputs become boxes.

    Semantics follow torchvision's `RetinaNet`: anchors with an IoU of at least `foreground_iou`
    are positive, below `background_iou` negative, in between ignored; every object keeps its best
    anchors whatever their IoU. Both losses are summed over an image's anchors and divided by the
    number of its positive anchors (at least 1), then averaged over the images of the batch.

    Attributes (besides those of `DetectionTask`):
      foreground_iou: least IoU of a positive anchor.
      background_iou: IoU below which an anchor is negative.
      focal_alpha: weight of positives in the focal loss.
      focal_gamma: exponent of the focal loss.
      box_loss: `l1` on encoded boxes (torchvision), `smooth_l1` with beta 1/9, or `giou` on
        decoded boxes (torchvision's version 2).
      candidates_per_level: how many of a level's best (anchor, class) pairs enter NMS.
    """

    model: RetinaNet
    foreground_iou: float = 0.5
    background_iou: float = 0.4
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_loss: Literal["l1", "smooth_l1", "giou"] = "l1"
    candidates_per_level: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.box_loss not in ("l1", "smooth_l1", "giou"):
            raise ValueError(f"box_loss is l1, smooth_l1 or giou, not {self.box_loss!r}")

    @property
    def num_classes(self) -> int:
        """Number of classes, which is also the background's label."""
        return self.model.head.num_classes

    @property
    def _anchors_per_position(self) -> int:
        return self.model.head.num_anchors

    def _loss_and_updates(
        self, variables: PyTree, batch: Batch, rng: jax.Array | None
    ) -> LossAndUpdates:
        del rng
        outputs, updates = self.model.apply(
            variables,
            self._normalize(batch.pyramid, batch.image_size),
            train=True,
            mutable=["batch_stats"],
        )
        anchors = self._anchors(batch.pyramid[0])
        class_loss, box_loss, positives = jax.vmap(
            functools.partial(self._image_losses, shapes=self._level_shapes(batch.pyramid[0])),
            in_axes=(0, None, 0),
        )(outputs, anchors, batch)
        images = jnp.maximum(batch.weight.sum(), 1.0)
        metrics = {
            "loss_class": (class_loss * batch.weight).sum() / images,
            "loss_box": (box_loss * batch.weight).sum() / images,
            "positive_anchors": (positives * batch.weight).sum() / images,
        }
        loss = metrics["loss_class"] + metrics["loss_box"]
        # A model without batch norm has no updates to give.
        return loss, (metrics | {"loss": loss}, updates.get("batch_stats", {}))

    def _predict(
        self, variables: PyTree, pyramid: Pyramid | PackedPyramid, image_size: Int[Array, "b 2"]
    ) -> Detections:
        images = self._normalize(pyramid, image_size)
        outputs: Any = self.model.apply(variables, images, train=False)
        return self.detections(outputs, self._anchors(pyramid[0]), image_size)

    def detections(
        self,
        outputs: tuple[DenseOutputs, ...],
        anchors: tuple[Float[Array, "_ 4"], ...],
        image_size: Int[Array, "b 2"],
    ) -> Detections:
        """Returns the detections of a batch from the head's outputs.

        Args:
          outputs: of each level.
          anchors: of each level.
          image_size: height and width of each image's content.
        """
        candidates = [
            level_candidates(
                level,
                boxes,
                self.candidates_per_level,
                per_position=self._anchors_per_position,
            )
            for level, boxes in zip(outputs, anchors, strict=True)
        ]

        def of_image(candidates: list[Candidates], image_size: Array) -> Detections:
            joined = Candidates(*map(jnp.concatenate, zip(*candidates, strict=True)))
            boxes, scores, labels = replicate(joined)
            return self.select(boxes, scores, labels, image_size)

        return jax.vmap(of_image)(candidates, image_size)

    def _image_losses(
        self,
        outputs: tuple[DenseOutputs, ...],
        anchors: tuple[Float[Array, "_ 4"], ...],
        image: Batch,
        *,
        shapes: tuple[tuple[int, int], ...],
    ) -> tuple[Float[Array, ""], Float[Array, ""], Float[Array, ""]]:
        """Returns class loss, box loss and number of positive anchors of one image."""
        # Anchors of one kind after another: the positions of the feature map, of which there are
        # many, come last, where accelerators want the long axes.
        kinds = self._anchors_per_position
        by_kind = [
            level.reshape(*shape, kinds, 4).transpose(2, 0, 1, 3)
            for level, shape in zip(anchors, shapes, strict=True)
        ]
        labels = image.labels[:, None].astype(jnp.float32)
        matches, matched = ops.match_and_take(
            jnp.concatenate([level.reshape(-1, 4) for level in by_kind]),
            image.boxes,
            image.valid & ~image.ignore,
            jnp.concatenate([image.boxes, labels], axis=-1),
            positive_threshold=self.foreground_iou,
            negative_threshold=self.background_iou,
            low_quality=True,
        )
        positive = matches.state == ops.MatchState.POSITIVE
        *boxes, labels = jnp.unstack(matched, axis=-1)
        labels = jnp.where(positive, labels, self.num_classes)
        counted = matches.state != ops.MatchState.IGNORE

        class_loss, box_loss, start = jnp.float32(0), jnp.float32(0), 0
        # Level by level, so that the large logits are never concatenated.
        for level, of_kind in zip(outputs, by_kind, strict=True):
            shape = of_kind.shape[:3]
            part = slice(start, start := start + math.prod(shape))
            class_loss += dense_focal_loss(
                level.logits.reshape(*shape[1:], kinds, self.num_classes),
                labels[part].reshape(shape).transpose(1, 2, 0),
                counted[part].reshape(shape).transpose(1, 2, 0),
                alpha=self.focal_alpha,
                gamma=self.focal_gamma,
            )
            error = self._box_errors(
                level.deltas.reshape(*shape[1:], kinds, 4).transpose(2, 0, 1, 3),
                of_kind,
                jnp.stack([corner[part].reshape(shape) for corner in boxes], axis=-1),
            )
            box_loss += jnp.where(positive[part].reshape(shape), error, 0.0).sum()
        num_positive = positive.sum().astype(jnp.float32)
        normalizer = jnp.maximum(num_positive, 1.0)
        return class_loss / normalizer, box_loss / normalizer, num_positive

    def _box_errors(
        self,
        deltas: Float[Array, "a h w 4"],
        anchors: Float[Array, "a h w 4"],
        boxes: Float[Array, "a h w 4"],
    ) -> Float[Array, "a h w"]:
        """Returns the loss of each anchor's deltas, were it to become its row of `boxes`."""
        deltas = deltas.astype(jnp.float32)
        if self.box_loss == "giou":
            return ops.giou_loss(ops.decode_boxes(deltas, anchors), boxes)
        targets = ops.encode_boxes(boxes, anchors)
        if self.box_loss == "l1":
            return ops.l1_loss(deltas, targets).sum(-1)
        return ops.smooth_l1_loss(deltas, targets, beta=1 / 9).sum(-1)


def level_candidates(
    level: DenseOutputs, anchors: Float[Array, "n 4"], limit: int, *, per_position: int
) -> Candidates:
    """Returns the best (anchor, class) pairs of a level for each image.

    The best k pairs lie on the k positions with the best maxima, and on the k anchors there with
    the best: small sorts instead of one over all pairs, with the same result. A TPU finds the
    maxima over all pairs of a position while it convolves.

    Args:
      level: the head's outputs.
      anchors: of the level, those of a position one after another.
      limit: how many pairs at most.
      per_position: how many anchors a position has.

    Returns:
      Decoded boxes, scores and labels, best first.
    """
    images = len(level.logits)
    positions = len(anchors) // per_position
    if positions > limit:
        _, best = jax.lax.top_k(level.logits.reshape(images, positions, -1).max(axis=-1), limit)

        def taken(x: Array) -> Array:
            # With the positions first, as a TPU lays out feature maps, no map is copied.
            rows = x.reshape(images, positions, -1).swapaxes(0, 1)
            return rows[best, jnp.arange(images)[:, None]].reshape(images, -1, x.shape[-1])

        level = DenseOutputs(taken(level.logits), taken(level.deltas))
        anchors = anchors.reshape(positions, -1)[best].reshape(images, -1, 4)
    return jax.vmap(functools.partial(_image_candidates, limit=limit))(
        level, jnp.broadcast_to(anchors, (images, *anchors.shape[-2:]))
    )


def _image_candidates(
    level: DenseOutputs, anchors: Float[Array, "n 4"], *, limit: int
) -> Candidates:
    """Returns boxes, scores and labels of the best (anchor, class) pairs of one image."""
    _, rows = jax.lax.top_k(level.logits.max(axis=-1), min(limit, len(anchors)))
    scores = jax.nn.sigmoid(level.logits[rows].astype(jnp.float32))
    scores, pairs = jax.lax.top_k(scores.reshape(-1), min(limit, scores.size))
    classes = level.logits.shape[-1]
    rows, labels = rows[pairs // classes], pairs % classes
    boxes = ops.decode_boxes(level.deltas[rows].astype(jnp.float32), anchors[rows])
    return Candidates(boxes, scores, labels)
