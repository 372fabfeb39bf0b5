"""RetinaNet: targets, losses and post-processing around `models.RetinaNet`."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ipg_jax import ops
from ipg_jax.kernels import replicate
from ipg_jax.models import DenseOutputs, RetinaNet
from ipg_jax.tasks.base import DetectionTask, LossAndUpdates
from ipg_jax.tasks.candidates import Candidates, level_candidates
from ipg_jax.tasks.dense_losses import (
    AVERAGES,
    BOX_LOSSES,
    CLASS_LOSSES,
    Average,
    BoxLoss,
    ClassLoss,
    box_errors,
    class_error,
)
from ipg_jax.tasks.matchers import RETINANET_IOU, Levels, Matcher, anchors_by_kind
from ipg_jax.types import Array, Batch, Detections, PackedPyramid, Pyramid, PyTree


class _Targets(NamedTuple):
    """What the anchors of one level are trained for, kind by kind.

    Attributes:
      boxes: of each anchor's object, as little meant as in `Matcher` where it is not positive.
      labels: of the same; the background's where it is not positive.
      positive: whether the anchor is to find the object.
      counted: False where the anchor is left out of the loss.
    """

    boxes: Float[Array, "k h w 4"]
    labels: Float[Array, "k h w"]
    positive: Bool[Array, "k h w"]
    counted: Bool[Array, "k h w"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RetinaNetTask(DetectionTask):
    """What a RetinaNet is trained for and how its outputs become boxes.

    Semantics follow by default torchvision's `RetinaNet`, with the box loss `giou` its version 2.
    Both losses are summed over an image's anchors and divided by the number of its positive anchors
    (at least 1), then averaged over the images of the batch; or, with `average="batch"`, summed
    over the anchors of all images and divided by the number of all positive ones (at least one an
    image), as mmdetection does: then an object counts as much among many as alone.

    Attributes (besides those of `DetectionTask`):
      matcher: which anchors are positive and negative.
      class_loss: which loss of the classes.
      focal_alpha: weight of positives in the class loss `focal`.
      focal_gamma: exponent of the same.
      box_loss: which loss of the boxes.
      nwd_constant: of the box loss `nwd`, a length in pixels.
      average: what positive anchors a loss is divided by, those of the image or of the batch.
      candidates_per_level: how many of a level's best (anchor, class) pairs enter NMS.
    """

    model: RetinaNet
    matcher: Matcher = RETINANET_IOU
    class_loss: ClassLoss = "focal"
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    box_loss: BoxLoss = "l1"
    nwd_constant: float = 12.7
    average: Average = "image"
    candidates_per_level: int = 1000

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in (
            ("box_loss", BOX_LOSSES),
            ("class_loss", CLASS_LOSSES),
            ("average", AVERAGES),
        ):
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} is one of {', '.join(known)}, not {getattr(self, name)!r}"
                )

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
        mean_positives = (positives * batch.weight).sum() / images
        divisor = positives if self.average == "image" else mean_positives
        share = batch.weight / jnp.maximum(divisor, 1.0) / images
        metrics = {
            "loss_class": (class_loss * share).sum(),
            "loss_box": (box_loss * share).sum(),
            "positive_anchors": mean_positives,
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
        """Returns the sums of class and box loss and the number of positive anchors of an image."""
        by_kind = anchors_by_kind(anchors, self._anchors_per_position)
        targets = self._targets(by_kind, image, shapes)
        class_loss = box_loss = positives = jnp.float32(0)
        # Level by level, so that the large logits are never concatenated.
        for level, of_kind, target in zip(outputs, by_kind, targets, strict=True):
            of_classes, of_boxes = self._level_losses(level, of_kind, target)
            class_loss += of_classes
            box_loss += of_boxes
            positives += target.positive.sum().astype(jnp.float32)
        return class_loss, box_loss, positives

    def _targets(
        self, anchors: Levels, image: Batch, shapes: tuple[tuple[int, int], ...]
    ) -> list[_Targets]:
        """Returns what the anchors of each level of one image are trained for."""
        labels = image.labels[:, None].astype(jnp.float32)
        matches, matched = self.matcher(
            anchors,
            image.boxes,
            image.valid,
            image.ignore,
            jnp.concatenate([image.boxes, labels], axis=-1),
        )
        positive = matches.state == ops.MatchState.POSITIVE
        counted = matches.state != ops.MatchState.IGNORE
        *corners, labels = jnp.unstack(matched, axis=-1)
        labels = jnp.where(positive, labels, self.num_classes)

        targets, start = [], 0
        for shape in shapes:
            kinds_shape = (self._anchors_per_position, *shape)
            part = slice(start, start := start + math.prod(kinds_shape))
            *of_corners, of_labels, of_positive, of_counted = (
                x[part].reshape(kinds_shape) for x in (*corners, labels, positive, counted)
            )
            boxes = jnp.stack(of_corners, axis=-1)
            targets.append(_Targets(boxes, of_labels, of_positive, of_counted))
        return targets

    def _level_losses(
        self, outputs: DenseOutputs, anchors: Float[Array, "k p 4"], targets: _Targets
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """Returns class loss and box loss of one level of one image, summed."""
        kinds, *shape = targets.positive.shape
        anchors = anchors.reshape(kinds, *shape, 4)
        deltas = outputs.deltas.reshape(*shape, kinds, 4).transpose(2, 0, 1, 3)

        def qualities() -> Float[Array, "h w k"]:
            found = ops.decode_boxes(deltas, anchors)
            return ops.paired_iou(found, targets.boxes).transpose(1, 2, 0)

        class_loss = class_error(
            self.class_loss,
            outputs.logits.reshape(*shape, kinds, self.num_classes),
            targets.labels.transpose(1, 2, 0),
            targets.counted.transpose(1, 2, 0),
            qualities,
            alpha=self.focal_alpha,
            gamma=self.focal_gamma,
        )
        box_loss = box_errors(
            self.box_loss, deltas, anchors, targets.boxes, nwd_constant=self.nwd_constant
        )
        return class_loss, jnp.where(targets.positive, box_loss, 0.0).sum()
