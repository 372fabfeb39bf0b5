"""Faster and Cascade R-CNN: the proposals and the ROI heads around `models.FasterRCNN`."""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
from jaxtyping import Int

from ipg_jax.models import FasterRCNN
from ipg_jax.tasks.base import DetectionTask, LossAndUpdates
from ipg_jax.tasks.proposals import Proposals
from ipg_jax.tasks.roi_heads import RoiHeads
from ipg_jax.types import Array, Batch, Detections, PackedPyramid, Pyramid, PyTree


@dataclasses.dataclass(frozen=True, kw_only=True)
class TwoStageTask(DetectionTask):
    """What a Faster or Cascade R-CNN is trained for and how its outputs become boxes.

    Semantics follow torchvision's `FasterRCNN`: the RPN's losses are means over the anchors sampled
    from the whole batch, each head's over the sampled rois; boxes cost smooth L1.

    Attributes (besides those of `DetectionTask`):
      proposals: the first stage, from the RPN's outputs to boxes without a class.
      roi_heads: the second stage, from proposals to detections.
    """

    model: FasterRCNN
    proposals: Proposals = dataclasses.field(default_factory=Proposals)
    roi_heads: RoiHeads = dataclasses.field(default_factory=RoiHeads)

    def __post_init__(self) -> None:
        super().__post_init__()
        stages, heads = self.roi_heads.stages, self.model.box_heads
        if len(stages) != len(heads):
            raise ValueError(f"{len(stages)} stages for {len(heads)} box heads")
        if not all(head.class_agnostic for head in heads[:-1]):
            raise ValueError("a box head that another one follows must be class_agnostic")

    @property
    def num_classes(self) -> int:
        """Number of classes, which is also the background's label."""
        return self.model.box_heads[0].num_classes

    @property
    def _anchors_per_position(self) -> int:
        return self.model.rpn.num_anchors

    def _loss_and_updates(
        self, variables: PyTree, batch: Batch, rng: jax.Array | None
    ) -> LossAndUpdates:
        if rng is None:
            raise ValueError("a two-stage detector is trained on random samples: pass rng=")
        anchors = self._anchors(batch.pyramid[0])
        rng_anchors, rng_rois = (
            jax.random.split(key, batch.weight.shape[0]) for key in jax.random.split(rng)
        )

        def losses(model: FasterRCNN, images: Pyramid | PackedPyramid) -> dict[str, Array]:
            features = model.features(images, train=True)
            dense = model.propose(features)
            metrics = self.proposals.losses(
                dense, anchors, batch, rng_anchors, per_position=self._anchors_per_position
            )
            rois = self.proposals.select(dense, anchors, batch.image_size, train=True)
            return metrics | self.roi_heads.losses(model, features, rois, batch, rng_rois)

        metrics, updates = nn.apply(losses, self.model, mutable=["batch_stats"])(
            variables, self._normalize(batch.pyramid, batch.image_size)
        )
        loss = metrics["loss_objectness"] + metrics["loss_proposal"]
        for stage, suffix in zip(self.roi_heads.stages, self.roi_heads.suffixes, strict=True):
            stage_loss = metrics[f"loss_class{suffix}"] + metrics[f"loss_box{suffix}"]
            loss += stage.loss_weight * stage_loss
        return loss, (metrics | {"loss": loss}, updates.get("batch_stats", {}))

    def _predict(
        self, variables: PyTree, pyramid: Pyramid | PackedPyramid, image_size: Int[Array, "b 2"]
    ) -> Detections:
        anchors = self._anchors(pyramid[0])

        def detections(model: FasterRCNN, images: Pyramid | PackedPyramid) -> Detections:
            features = model.features(images, train=False)
            dense = model.propose(features)
            rois = self.proposals.select(dense, anchors, image_size, train=False)
            candidates = self.roi_heads.predict(model, features, rois, image_size)
            return jax.vmap(self.select)(*candidates, image_size)

        return nn.apply(detections, self.model)(variables, self._normalize(pyramid, image_size))
