"""Proposals: what the RPN is trained for, and how its outputs become regions to look at."""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Bool, Float, Int

from ipg_jax import ops
from ipg_jax.kernels import replicate
from ipg_jax.models import DenseOutputs
from ipg_jax.tasks.matchers import RPN_IOU, Matcher, anchors_by_kind
from ipg_jax.types import Array, Batch

MIN_SIDE = 1e-3
"""Pixels; proposals with a shorter side are dropped, as in torchvision."""


class Rois(NamedTuple):
    """Regions of interest: boxes that features are pooled from, padded.

    Attributes:
      boxes: float32 `[..., n, 4]`, in pixels.
      valid: bool `[..., n]`, False for padding.
    """

    boxes: Float[Array, "*b n 4"]
    valid: Bool[Array, "*b n"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposals:
    """Targets, losses and post-processing of the RPN, as in torchvision's `RegionProposalNetwork`.

    Attributes:
      matcher: which anchors are positive and negative.
      anchors_per_image: how many anchors the RPN is trained on.
      positive_fraction: at most this part of them is positive.
      candidates_per_level: how many of a level's best anchors enter NMS, in training and in
        prediction.
      per_image: how many proposals leave it, in training and in prediction.
      nms_iou: IoU above which a proposal removes another of the same level.
      smooth_l1_beta: where the box loss turns from square to linear.
    """

    matcher: Matcher = RPN_IOU
    anchors_per_image: int = 256
    positive_fraction: float = 0.5
    candidates_per_level: tuple[int, int] = (2000, 1000)
    per_image: tuple[int, int] = (2000, 1000)
    nms_iou: float = 0.7
    smooth_l1_beta: float = 1 / 9

    def losses(
        self,
        dense: tuple[DenseOutputs, ...],
        anchors: tuple[Float[Array, "_ 4"], ...],
        batch: Batch,
        rng: jax.Array,
        *,
        per_position: int,
    ) -> dict[str, Float[Array, ""]]:
        """Returns the losses of objectness and boxes, means over the sampled anchors of the batch.

        Args:
          dense: the RPN's outputs per level.
          anchors: of the same levels.
          batch: ground truth; images of weight 0 count for nothing.
          rng: a key for each image, to sample anchors with.
          per_position: how many anchors a position has.
        """
        all_anchors = jnp.concatenate(anchors)
        by_kind = anchors_by_kind(anchors, per_position)
        ends = [int(end) for end in np.cumsum([len(level) for level in anchors])]

        def by_position(of_anchors: Array) -> Array:
            parts = jnp.split(of_anchors, ends[:-1])
            return jnp.concatenate([part.reshape(per_position, -1).T.reshape(-1) for part in parts])

        def image_losses(
            logits: Array, deltas: Array, image: Batch, rng: jax.Array
        ) -> tuple[Array, Array, Array]:
            nothing = image.boxes[:, :0]
            matches, _ = self.matcher(by_kind, image.boxes, image.valid, image.ignore, nothing)
            matches = jax.tree.map(by_position, matches)
            index, sampled = ops.sample_matches(
                rng, matches.state, self.anchors_per_image, self.positive_fraction
            )
            positive = sampled & (matches.state[index] == ops.MatchState.POSITIVE)
            logits = logits[index].astype(jnp.float32)
            cross_entropy = optax.sigmoid_binary_cross_entropy(logits, positive.astype(jnp.float32))
            targets = ops.encode_boxes(image.boxes[matches.index[index]], all_anchors[index])
            error = ops.smooth_l1_loss(deltas[index], targets, beta=self.smooth_l1_beta).sum(-1)
            return (
                jnp.where(sampled, cross_entropy, 0.0).sum(),
                jnp.where(positive, error, 0.0).sum(),
                sampled.sum().astype(jnp.float32),
            )

        logits = jnp.concatenate([level.logits[..., 0] for level in dense], axis=1)
        deltas = jnp.concatenate([level.deltas for level in dense], axis=1)
        objectness, box, count = jax.vmap(image_losses)(logits, deltas, batch, rng)
        total = jnp.maximum((count * batch.weight).sum(), 1.0)
        return {
            "loss_objectness": (objectness * batch.weight).sum() / total,
            "loss_proposal": (box * batch.weight).sum() / total,
        }

    def select(
        self,
        dense: tuple[DenseOutputs, ...],
        anchors: tuple[Float[Array, "_ 4"], ...],
        image_size: Int[Array, "b 2"],
        *,
        train: bool,
    ) -> Rois:
        """Returns each image's best boxes, best first, `[b, n, 4]`, without gradient.

        Args:
          dense: the RPN's outputs per level.
          anchors: of the same levels.
          image_size: height and width of each image's content, to which boxes are clipped.
          train: whether the numbers for training or for prediction hold.
        """
        candidates = self.candidates_per_level[0 if train else 1]
        per_image = self.per_image[0 if train else 1]

        def image_proposals(dense: tuple[DenseOutputs, ...], image_size: Array) -> Rois:
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
                iou_threshold=self.nms_iou,
                max_output_size=per_image,
                valid=(ops.box_sizes(found) >= MIN_SIDE).all(axis=-1),
            )
            return Rois(jnp.where(valid[:, None], found[index], 0.0), valid)

        return jax.vmap(image_proposals)(jax.lax.stop_gradient(dense), image_size)
