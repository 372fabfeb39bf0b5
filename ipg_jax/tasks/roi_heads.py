"""ROI heads: what the box heads are trained for, one or a cascade of them, and what they find."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Float, Int

from ipg_jax import ops
from ipg_jax.kernels import replicate
from ipg_jax.models import BoxOutputs, FasterRCNN
from ipg_jax.tasks.proposals import Rois
from ipg_jax.types import Array, Batch

MIN_SIDE = 1e-2
"""Pixels; detections with a shorter side are dropped, as in torchvision."""


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class RoiHeads:
    """Sampling, losses and post-processing of the box heads, as in torchvision's `RoIHeads`.

    Stages after the first take the boxes that their predecessor refined of the same rois, matched
    anew. Scores are the mean of all stages' probabilities, boxes are the last stage's.

    Attributes:
      stages: one for each box head of the model.
      rois_per_image: how many rois the heads are trained on.
      positive_fraction: at most this part of them is positive.
      smooth_l1_beta: where the box losses turn from square to linear.
      sampling_ratio: of `ops.multilevel_roi_align`.
      ignore_overlap: the part of a roi's area from which on an object to ignore makes it no
        background; with None these objects are only no targets, as in torchvision.
    """

    stages: tuple[CascadeStage, ...] = FASTER_RCNN
    rois_per_image: int = 512
    positive_fraction: float = 0.25
    smooth_l1_beta: float = 1 / 9
    sampling_ratio: int = 2
    ignore_overlap: float | None = None

    @property
    def suffixes(self) -> tuple[str, ...]:
        """What the names of each stage's metrics end with."""
        if len(self.stages) == 1:
            return ("",)
        return tuple(f"_{i}" for i in range(len(self.stages)))

    def losses(
        self,
        model: FasterRCNN,
        features: tuple[Float[Array, "b _ _ c"], ...],
        proposals: Rois,
        batch: Batch,
        rng: jax.Array,
    ) -> dict[str, Float[Array, ""]]:
        """Samples rois and returns every stage's losses on them, not yet weighted.

        Args:
          model: the detector, bound to its variables.
          features: the FPN's outputs, finest first.
          proposals: of the batch's images.
          batch: ground truth; images of weight 0 count for nothing.
          rng: a key for each image, to sample rois with.
        """
        sampled = self.sample(proposals, batch, rng)
        stages = self._cascade(model, features, sampled, batch.image_size, train=True)
        metrics: dict[str, Array] = {}
        for i, (rois, outputs) in enumerate(stages):
            metrics |= self.stage_losses(outputs, rois, batch, stage=i)
        return metrics

    def predict(
        self,
        model: FasterRCNN,
        features: tuple[Float[Array, "b _ _ c"], ...],
        proposals: Rois,
        image_size: Int[Array, "b 2"],
    ) -> tuple[Float[Array, "b m 4"], Float[Array, "b m"], Int[Array, "b m"]]:
        """Returns boxes, scores and labels of all candidates; see `candidates`.

        Args:
          model: the detector, bound to its variables.
          features: the FPN's outputs, finest first.
          proposals: of the same images.
          image_size: height and width of each image's content, to which boxes are clipped.
        """
        stages = list(self._cascade(model, features, proposals, image_size, train=False))
        logits = jnp.stack([outputs.logits for _, outputs in stages]).astype(jnp.float32)
        scores = jax.nn.softmax(logits).mean(axis=0)
        rois, outputs = stages[-1]
        return self.candidates(outputs.deltas, scores, rois, image_size)

    def sample(self, proposals: Rois, batch: Batch, rng: jax.Array) -> Rois:
        """Returns the rois to train on, `[b, rois_per_image, 4]`, of the proposals and the objects.

        Args:
          proposals: of the batch's images.
          batch: ground truth; images of weight 0 have no rois.
          rng: a key for each image.
        """

        def image_rois(proposals: Rois, image: Batch, rng: jax.Array) -> Rois:
            usable = image.valid & ~image.ignore
            rois = Rois(
                jnp.concatenate([proposals.boxes, image.boxes]),
                jnp.concatenate([proposals.valid, usable]),
            )
            state = self._match(rois, image, stage=0).state
            index, sampled = ops.sample_matches(
                rng, state, self.rois_per_image, self.positive_fraction
            )
            sampled &= image.weight > 0
            return Rois(jnp.where(sampled[:, None], rois.boxes[index], 0.0), sampled)

        return jax.vmap(image_rois)(proposals, batch, rng)

    def stage_losses(
        self, outputs: BoxOutputs, rois: Rois, batch: Batch, *, stage: int
    ) -> dict[str, Float[Array, ""]]:
        """Returns a stage's losses of class and box, means over the rois of the batch.

        Args:
          outputs: the stage's head's, `[b, n, ...]`.
          rois: what the head was applied to.
          batch: ground truth.
          stage: which one.
        """
        background = outputs.logits.shape[-1] - 1

        def image_losses(
            outputs: BoxOutputs, rois: Rois, image: Batch
        ) -> tuple[Array, Array, Array, Array]:
            matches = self._match(rois, image, stage=stage)
            positive = matches.state == ops.MatchState.POSITIVE
            counted = matches.state != ops.MatchState.IGNORE
            labels = jnp.where(positive, image.labels[matches.index], background)
            cross_entropy = optax.softmax_cross_entropy_with_integer_labels(
                outputs.logits.astype(jnp.float32), labels
            )
            column = jnp.minimum(labels, outputs.deltas.shape[1] - 1)
            deltas = jnp.take_along_axis(outputs.deltas, column[:, None, None], axis=1)[:, 0]
            targets = ops.encode_boxes(
                image.boxes[matches.index], rois.boxes, self.stages[stage].weights
            )
            error = ops.smooth_l1_loss(deltas, targets, beta=self.smooth_l1_beta).sum(-1)
            return (
                jnp.where(counted, cross_entropy, 0.0).sum(),
                jnp.where(positive, error, 0.0).sum(),
                counted.sum().astype(jnp.float32),
                positive.sum().astype(jnp.float32),
            )

        classes, box, count, positive = jax.vmap(image_losses)(outputs, rois, batch)
        total = jnp.maximum((count * batch.weight).sum(), 1.0)
        images = jnp.maximum(batch.weight.sum(), 1.0)
        suffix = self.suffixes[stage]
        return {
            f"loss_class{suffix}": (classes * batch.weight).sum() / total,
            f"loss_box{suffix}": (box * batch.weight).sum() / total,
            f"positive_rois{suffix}": (positive * batch.weight).sum() / images,
        }

    def candidates(
        self,
        deltas: Float[Array, "b n d 4"],
        scores: Float[Array, "b n k"],
        rois: Rois,
        image_size: Int[Array, "b 2"],
    ) -> tuple[Float[Array, "b m 4"], Float[Array, "b m"], Int[Array, "b m"]]:
        """Returns every class of every roi as a candidate: boxes, scores and labels.

        Args:
          deltas: the last stage's, of each class, or one for all.
          scores: probabilities of each class, the background's last.
          rois: the last stage's.
          image_size: height and width of each image's content, to which boxes are clipped.

        Returns:
          As many candidates as rois times classes; the score is minus infinity for those of padded
          rois and those whose box is empty.
        """
        num_classes = scores.shape[-1] - 1

        def image_candidates(
            deltas: Array, scores: Array, rois: Rois, image_size: Array
        ) -> tuple[Array, Array, Array]:
            scores = scores[:, :num_classes]
            boxes = ops.decode_boxes(
                deltas.astype(jnp.float32), rois.boxes[:, None], self.stages[-1].weights
            )
            boxes = ops.clip_boxes(boxes, image_size)
            large = (ops.box_sizes(boxes) >= MIN_SIDE).all(axis=-1)
            scores = jnp.where(rois.valid[:, None] & large, scores, -jnp.inf)
            boxes = jnp.broadcast_to(boxes, (*scores.shape, 4))
            labels = jnp.broadcast_to(jnp.arange(num_classes, dtype=jnp.int32), scores.shape)
            return boxes.reshape(-1, 4), scores.reshape(-1), labels.reshape(-1)

        return jax.vmap(image_candidates)(deltas, scores, rois, image_size)

    def _match(self, rois: Rois, image: Batch, *, stage: int) -> ops.Matches:
        """Matches rois with an image's objects: positive from the stage's IoU on, else negative.

        Padding is ignored, and so is background in regions to ignore.
        """
        matches = ops.match_anchors(
            rois.boxes,
            image.boxes,
            image.valid & ~image.ignore,
            positive_threshold=self.stages[stage].iou,
            negative_threshold=self.stages[stage].iou,
            low_quality=False,
        )
        if self.ignore_overlap is not None:
            regions = image.valid & image.ignore
            matches = ops.ignore_covered(
                matches, rois.boxes, image.boxes, regions, threshold=self.ignore_overlap
            )
        state = jnp.where(rois.valid, matches.state, ops.MatchState.IGNORE)
        return matches._replace(state=state)

    def _cascade(
        self,
        model: FasterRCNN,
        features: tuple[Float[Array, "b _ _ c"], ...],
        rois: Rois,
        image_size: Int[Array, "b 2"],
        *,
        train: bool,
    ) -> Iterator[tuple[Rois, BoxOutputs]]:
        """Yields the rois of each stage and the outputs of its head."""
        for i, stage in enumerate(self.stages):
            outputs = self._classify(model, features, rois, stage=i, train=train)
            yield rois, outputs
            if i + 1 < len(self.stages):
                rois = refine(rois, outputs, stage.weights, image_size)

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


def refine(
    rois: Rois,
    outputs: BoxOutputs,
    weights: tuple[float, float, float, float],
    image_size: Int[Array, "b 2"],
) -> Rois:
    """Returns rois moved to where a class-agnostic head puts them, without gradient.

    Args:
      rois: of a batch, `[b, n, 4]`.
      outputs: the head's.
      weights: of the box coder, `ops.encode_boxes`.
      image_size: height and width of each image's content, to which boxes are clipped.
    """
    deltas = jax.lax.stop_gradient(outputs.deltas[..., 0, :]).astype(jnp.float32)

    def image_boxes(deltas: Array, boxes: Array, image_size: Array) -> Array:
        return ops.clip_boxes(ops.decode_boxes(deltas, boxes, weights), image_size)

    boxes = jax.vmap(image_boxes)(deltas, rois.boxes, image_size)
    return Rois(jnp.where(rois.valid[..., None], boxes, 0.0), rois.valid)
