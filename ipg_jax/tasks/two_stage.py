"""Faster and Cascade R-CNN: targets, losses and post-processing around `models.FasterRCNN`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Bool, Float, Int

from ipg_jax import ops
from ipg_jax.kernels import replicate
from ipg_jax.models import BoxOutputs, DenseOutputs, FasterRCNN
from ipg_jax.tasks.base import DetectionTask
from ipg_jax.types import Array, Batch, Detections, PackedPyramid, Pyramid, PyTree


class CascadeStage(NamedTuple):
    """One box head's part in training and decoding.

    Attributes:
      iou: least IoU of a positive roi.
      weights: of the box coder, `ops.encode_boxes`.
      loss_weight: weight of the stage's losses.
    """

    iou: float
    weights: tuple[float, float, float, float]
    loss_weight: float


FASTER_RCNN = (CascadeStage(0.5, (10.0, 10.0, 5.0, 5.0), 1.0),)
"""The one stage of Faster R-CNN."""

CASCADE_RCNN = (
    CascadeStage(0.5, (10.0, 10.0, 5.0, 5.0), 1.0),
    CascadeStage(0.6, (20.0, 20.0, 10.0, 10.0), 0.5),
    CascadeStage(0.7, (30.0, 30.0, 15.0, 15.0), 0.25),
)
"""The three stages of Cai and Vasconcelos, "Cascade R-CNN" (2018)."""

_LEAST_PROPOSAL = 1e-3  # pixels; proposals with a shorter side are dropped, as in torchvision
_LEAST_BOX = 1e-2  # the same of detections


class Rois(NamedTuple):
    """Boxes that features are taken of, padded.

    Attributes:
      boxes: float32 `[..., n, 4]`, in pixels.
      valid: bool `[..., n]`, False for padding.
    """

    boxes: Float[Array, "*b n 4"]
    valid: Bool[Array, "*b n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoStageTask(DetectionTask):
    """What a Faster or Cascade R-CNN is trained for and how its outputs become boxes.

    Semantics follow torchvision's `FasterRCNN`: the RPN's losses are means over the anchors sampled
    from the whole batch, each head's over the sampled rois; boxes cost smooth L1. Stages after
    the first take the boxes that their predecessor refined of the same rois, matched anew.
    Scores are the mean of all stages' probabilities, boxes are the last stage's.

    Attributes (besides those of `DetectionTask`):
      stages: one for each box head of the model.
      anchor_foreground_iou: least IoU of a positive anchor.
      anchor_background_iou: IoU below which an anchor is negative.
      anchors_per_image: how many anchors the RPN is trained on.
      anchor_positive_fraction: at most this part of them is positive.
      candidates_per_level: how many of a level's best anchors enter the RPN's NMS, in training and
        in prediction.
      proposals: how many leave it.
      proposal_nms_iou: IoU above which it removes a proposal of the same level.
      rois_per_image: how many rois the heads are trained on.
      roi_positive_fraction: at most this part of them is positive.
      smooth_l1_beta: where the box losses turn from square to linear.
      sampling_ratio: of `ops.multilevel_roi_align`.
    """

    model: FasterRCNN
    stages: tuple[CascadeStage, ...] = FASTER_RCNN
    anchor_foreground_iou: float = 0.7
    anchor_background_iou: float = 0.3
    anchors_per_image: int = 256
    anchor_positive_fraction: float = 0.5
    candidates_per_level: tuple[int, int] = (2000, 1000)
    proposals: tuple[int, int] = (2000, 1000)
    proposal_nms_iou: float = 0.7
    rois_per_image: int = 512
    roi_positive_fraction: float = 0.25
    smooth_l1_beta: float = 1 / 9
    sampling_ratio: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        heads = self.model.box_heads
        if len(self.stages) != len(heads):
            raise ValueError(f"{len(self.stages)} stages for {len(heads)} box heads")
        if not all(head.class_agnostic for head in heads[:-1]):
            raise ValueError("a box head that another one follows must be class_agnostic")

    @property
    def num_classes(self) -> int:
        """Number of classes, which is also the background's label."""
        return self.model.box_heads[0].num_classes

    @property
    def _anchors_per_position(self) -> int:
        return self.model.rpn.num_anchors

    def loss_and_updates(
        self, variables: PyTree, batch: Batch, *, rng: jax.Array | None = None
    ) -> tuple[Float[Array, ""], tuple[dict[str, Float[Array, ""]], PyTree]]:
        """See `DetectionTask`.

        Raises:
          ValueError: there is no `rng`.
        """
        if rng is None:
            raise ValueError("a two-stage detector is trained on random samples: pass rng=")
        anchors = self._anchors(batch.pyramid[0])
        rng_anchors, rng_rois = (
            jax.random.split(key, batch.weight.shape[0]) for key in jax.random.split(rng)
        )

        def losses(model: FasterRCNN, images: Pyramid | PackedPyramid) -> dict[str, Array]:
            features = model.features(images, train=True)
            dense = model.propose(features)
            metrics = self._rpn_losses(dense, anchors, batch, rng_anchors)
            proposals = self._proposals(dense, anchors, batch.image_size, train=True)
            rois = jax.vmap(self._sample)(proposals, batch, rng_rois)
            stages = self._stages(model, features, rois, batch.image_size, train=True)
            for i, (rois, outputs) in enumerate(stages):
                metrics |= self._head_losses(outputs, rois, batch, stage=i)
            return metrics

        metrics, updates = nn.apply(losses, self.model, mutable=["batch_stats"])(
            variables, self._normalize(batch.pyramid, batch.image_size)
        )
        loss = metrics["loss_objectness"] + metrics["loss_proposal"]
        for i, stage in enumerate(self.stages):
            suffix = self._suffix(i)
            stage_loss = metrics[f"loss_class{suffix}"] + metrics[f"loss_box{suffix}"]
            loss += stage.loss_weight * stage_loss
        return loss, (metrics | {"loss": loss}, updates.get("batch_stats", {}))

    def predict(
        self, variables: PyTree, pyramid: Pyramid | PackedPyramid, image_size: Int[Array, "b 2"]
    ) -> Detections:
        """See `DetectionTask`."""
        anchors = self._anchors(pyramid[0])

        def detections(model: FasterRCNN, images: Pyramid | PackedPyramid) -> Detections:
            features = model.features(images, train=False)
            dense = model.propose(features)
            proposals = self._proposals(dense, anchors, image_size, train=False)
            stages = list(self._stages(model, features, proposals, image_size, train=False))
            logits = jnp.stack([outputs.logits for _, outputs in stages]).astype(jnp.float32)
            scores = jax.nn.softmax(logits).mean(axis=0)
            rois, outputs = stages[-1]
            return jax.vmap(self._image_detections)(outputs.deltas, scores, rois, image_size)

        return nn.apply(detections, self.model)(variables, self._normalize(pyramid, image_size))

    def _suffix(self, stage: int) -> str:
        """What the names of a stage's metrics end with."""
        return f"_{stage}" if len(self.stages) > 1 else ""

    def _rpn_losses(
        self,
        dense: tuple[DenseOutputs, ...],
        anchors: tuple[Float[Array, "_ 4"], ...],
        batch: Batch,
        rng: jax.Array,
    ) -> dict[str, Float[Array, ""]]:
        """Returns the losses of objectness and proposals, means over the sampled anchors."""
        every = jnp.concatenate(anchors)

        def of_image(
            logits: Array, deltas: Array, image: Batch, rng: jax.Array
        ) -> tuple[Array, Array, Array]:
            matches = ops.match_anchors(
                every,
                image.boxes,
                image.valid & ~image.ignore,
                positive_threshold=self.anchor_foreground_iou,
                negative_threshold=self.anchor_background_iou,
                low_quality=True,
            )
            index, sampled = ops.sample_matches(
                rng, matches.state, self.anchors_per_image, self.anchor_positive_fraction
            )
            positive = sampled & (matches.state[index] == ops.MatchState.POSITIVE)
            logits = logits[index].astype(jnp.float32)
            cross_entropy = optax.sigmoid_binary_cross_entropy(logits, positive.astype(jnp.float32))
            targets = ops.encode_boxes(image.boxes[matches.index[index]], every[index])
            error = ops.smooth_l1_loss(deltas[index], targets, beta=self.smooth_l1_beta).sum(-1)
            return (
                jnp.where(sampled, cross_entropy, 0.0).sum(),
                jnp.where(positive, error, 0.0).sum(),
                sampled.sum().astype(jnp.float32),
            )

        logits = jnp.concatenate([level.logits[..., 0] for level in dense], axis=1)
        deltas = jnp.concatenate([level.deltas for level in dense], axis=1)
        objectness, box, count = jax.vmap(of_image)(logits, deltas, batch, rng)
        total = jnp.maximum((count * batch.weight).sum(), 1.0)
        return {
            "loss_objectness": (objectness * batch.weight).sum() / total,
            "loss_proposal": (box * batch.weight).sum() / total,
        }

    def _proposals(
        self,
        dense: tuple[DenseOutputs, ...],
        anchors: tuple[Float[Array, "_ 4"], ...],
        image_size: Int[Array, "b 2"],
        *,
        train: bool,
    ) -> Rois:
        """Returns the best boxes of the RPN, best first, without gradient."""
        candidates = self.candidates_per_level[0 if train else 1]
        kept = self.proposals[0 if train else 1]

        def of_image(dense: tuple[DenseOutputs, ...], image_size: Array) -> Rois:
            boxes, scores, levels = [], [], []
            for number, (outputs, level_anchors) in enumerate(zip(dense, anchors, strict=True)):
                k = min(candidates, len(level_anchors))
                logits, index = jax.lax.top_k(outputs.logits[:, 0], k)
                deltas = outputs.deltas[index].astype(jnp.float32)
                boxes.append(ops.decode_boxes(deltas, level_anchors[index]))
                scores.append(jax.nn.sigmoid(logits.astype(jnp.float32)))
                levels.append(jnp.full(k, number, jnp.int32))
            found, score, level = replicate(
                (
                    ops.clip_boxes(jnp.concatenate(boxes), image_size),
                    jnp.concatenate(scores),
                    jnp.concatenate(levels),
                )
            )
            index, valid = ops.batched_nms(
                found,
                score,
                level,
                iou_threshold=self.proposal_nms_iou,
                max_output_size=kept,
                valid=(ops.box_sizes(found) >= _LEAST_PROPOSAL).all(axis=-1),
            )
            return Rois(jnp.where(valid[:, None], found[index], 0.0), valid)

        return jax.vmap(of_image)(jax.lax.stop_gradient(dense), image_size)

    def _sample(self, proposals: Rois, image: Batch, rng: jax.Array) -> Rois:
        """Returns the rois of one image to train on, of the proposals and the objects."""
        usable = image.valid & ~image.ignore
        rois = Rois(
            jnp.concatenate([proposals.boxes, image.boxes]),
            jnp.concatenate([proposals.valid, usable]),
        )
        state = self._match(rois, image, self.stages[0]).state
        index, sampled = ops.sample_matches(
            rng, state, self.rois_per_image, self.roi_positive_fraction
        )
        return Rois(jnp.where(sampled[:, None], rois.boxes[index], 0.0), sampled)

    def _match(self, rois: Rois, image: Batch, stage: CascadeStage) -> ops.Matches:
        """Matches rois with the objects of one image; padding is ignored."""
        matches = ops.match_anchors(
            rois.boxes,
            image.boxes,
            image.valid & ~image.ignore,
            positive_threshold=stage.iou,
            negative_threshold=stage.iou,
            low_quality=False,
        )
        state = jnp.where(rois.valid, matches.state, ops.MatchState.IGNORE)
        return matches._replace(state=state)

    def _stages(
        self,
        model: FasterRCNN,
        features: tuple[Float[Array, "b _ _ c"], ...],
        rois: Rois,
        image_size: Int[Array, "b 2"],
        *,
        train: bool,
    ) -> Iterator[tuple[Rois, BoxOutputs]]:
        """Yields the rois of each stage and what its head says of them."""
        for i, stage in enumerate(self.stages):
            outputs = self._classify(model, features, rois, stage=i, train=train)
            yield rois, outputs
            if i + 1 < len(self.stages):
                rois = self._refine(outputs, rois, stage, image_size)

    def _classify(
        self,
        model: FasterRCNN,
        features: tuple[Float[Array, "b _ _ c"], ...],
        rois: Rois,
        *,
        stage: int,
        train: bool,
    ) -> BoxOutputs:
        """Returns a head's outputs for the rois of a batch, `[b, n, ...]`."""

        def align(features: tuple[Array, ...], boxes: Array) -> Array:
            return ops.multilevel_roi_align(
                replicate(features),
                boxes,
                model.roi_size,
                strides=model.roi_strides,
                sampling_ratio=self.sampling_ratio,
            )

        aligned = jax.vmap(align)(features[: len(model.roi_strides)], rois.boxes)
        batch = rois.valid.shape
        outputs = model.classify(
            aligned.reshape(-1, *aligned.shape[2:]),
            rois.valid.reshape(-1),
            stage=stage,
            train=train,
        )
        return BoxOutputs(*(x.reshape(*batch, *x.shape[1:]) for x in outputs))

    def _head_losses(
        self, outputs: BoxOutputs, rois: Rois, batch: Batch, *, stage: int
    ) -> dict[str, Float[Array, ""]]:
        """Returns a stage's losses of class and box, means over the rois."""
        weights = self.stages[stage].weights

        def of_image(
            outputs: BoxOutputs, rois: Rois, image: Batch
        ) -> tuple[Array, Array, Array, Array]:
            matches = self._match(rois, image, self.stages[stage])
            positive = matches.state == ops.MatchState.POSITIVE
            labels = jnp.where(positive, image.labels[matches.index], self.num_classes)
            cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
                outputs.logits.astype(jnp.float32), labels
            )
            column = jnp.minimum(labels, outputs.deltas.shape[1] - 1)
            deltas = jnp.take_along_axis(outputs.deltas, column[:, None, None], axis=1)[:, 0]
            targets = ops.encode_boxes(image.boxes[matches.index], rois.boxes, weights)
            error = ops.smooth_l1_loss(deltas, targets, beta=self.smooth_l1_beta).sum(-1)
            return (
                jnp.where(rois.valid, cross_entropy, 0.0).sum(),
                jnp.where(positive, error, 0.0).sum(),
                rois.valid.sum().astype(jnp.float32),
                positive.sum().astype(jnp.float32),
            )

        classes, box, count, positive = jax.vmap(of_image)(outputs, rois, batch)
        total = jnp.maximum((count * batch.weight).sum(), 1.0)
        images = jnp.maximum(batch.weight.sum(), 1.0)
        suffix = self._suffix(stage)
        return {
            f"loss_class{suffix}": (classes * batch.weight).sum() / total,
            f"loss_box{suffix}": (box * batch.weight).sum() / total,
            f"positive_rois{suffix}": (positive * batch.weight).sum() / images,
        }

    def _refine(
        self, outputs: BoxOutputs, rois: Rois, stage: CascadeStage, image_size: Int[Array, "b 2"]
    ) -> Rois:
        """Returns rois moved to where a class-agnostic head puts them, without gradient."""
        deltas = jax.lax.stop_gradient(outputs.deltas[..., 0, :]).astype(jnp.float32)
        boxes = ops.decode_boxes(deltas, rois.boxes, stage.weights)
        boxes = jax.vmap(ops.clip_boxes)(boxes, image_size)
        return Rois(jnp.where(rois.valid[..., None], boxes, 0.0), rois.valid)

    def _image_detections(
        self,
        deltas: Float[Array, "n d 4"],
        scores: Float[Array, "n k"],
        rois: Rois,
        image_size: Int[Array, " 2"],
    ) -> Detections:
        """Returns the detections of one image: every class of every roi is a candidate."""
        scores = scores[:, : self.num_classes]
        boxes = ops.decode_boxes(
            deltas.astype(jnp.float32), rois.boxes[:, None], self.stages[-1].weights
        )
        boxes = ops.clip_boxes(boxes, image_size)
        large = (ops.box_sizes(boxes) >= _LEAST_BOX).all(axis=-1)
        scores = jnp.where(rois.valid[:, None] & large, scores, -jnp.inf)
        boxes = jnp.broadcast_to(boxes, (*scores.shape, 4))
        labels = jnp.broadcast_to(jnp.arange(self.num_classes, dtype=jnp.int32), scores.shape)
        return self.select(boxes.reshape(-1, 4), scores.reshape(-1), labels.reshape(-1), image_size)
