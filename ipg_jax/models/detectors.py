"""Whole detectors: a backbone, a neck and a head."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ipg_jax.models.backbones import PyramidBackbone
from ipg_jax.models.heads import BoxHead, BoxOutputs, DenseOutputs, RetinaNetHead, RPNHead
from ipg_jax.models.necks import Neck
from ipg_jax.types import Array, PackedPyramid, Pyramid


def level_strides(backbone: PyramidBackbone, fpn: Neck) -> tuple[int, ...]:
    """Returns the stride of every output of the neck `fpn` on `backbone`, finest first."""
    strides = [backbone.strides[name] for name in fpn.in_features]
    for _ in range(fpn.extra_levels):
        strides.append(2 * strides[-1])
    return tuple(strides)


class RetinaNet(nn.Module):
    """A one-stage detector: (guided) backbone, neck, RetinaNet head."""

    backbone: PyramidBackbone
    fpn: Neck
    head: RetinaNetHead

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of every level that the head sees, finest first."""
        return level_strides(self.backbone, self.fpn)

    def __call__(
        self, pyramid: Pyramid | PackedPyramid, *, train: bool = False
    ) -> tuple[DenseOutputs, ...]:
        """Returns the head's outputs per level, finest first.

        Args:
          pyramid: normalised images (`ops.normalize_pyramid`).
          train: whether batch norm uses and updates batch statistics, and the outputs go to a loss.
        """
        features = self.fpn(self.backbone(pyramid, train=train), train=train)
        return self.head(features, train=train)


class FasterRCNN(nn.Module):
    """A two-stage detector: (guided) backbone, neck, RPN, and one box head; or several, a cascade.

    What lies between the stages (which boxes are proposed, which are sampled) is no part of the
    model: `tasks.TwoStageTask` calls `features`, `propose` and `classify` in turn.

    Attributes:
      box_heads: one for Faster R-CNN (its parameters are `box_head`); one for each stage of
        Cascade R-CNN (`box_head0`, `box_head1`, ...).
      roi_size: side of the rois' features.
    """

    backbone: PyramidBackbone
    fpn: Neck
    rpn: RPNHead
    box_heads: tuple[BoxHead, ...]
    roi_size: int = 7

    @property
    def head_names(self) -> tuple[str, ...]:
        """Names of the box heads' parameters."""
        if len(self.box_heads) == 1:
            return ("box_head",)
        return tuple(f"box_head{i}" for i in range(len(self.box_heads)))

    def setup(self) -> None:
        """Gives the box heads their names."""
        for name, head in zip(self.head_names, self.box_heads, strict=True):
            setattr(self, name, head.clone())

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of every level that the RPN sees, finest first."""
        return level_strides(self.backbone, self.fpn)

    @property
    def roi_strides(self) -> tuple[int, ...]:
        """Stride of every level that rois are taken from: those without the extra ones."""
        return self.strides[: len(self.fpn.in_features)]

    def features(
        self, pyramid: Pyramid | PackedPyramid, *, train: bool
    ) -> tuple[Float[Array, "b _ _ c"], ...]:
        """Returns the neck's outputs, finest first."""
        return self.fpn(self.backbone(pyramid, train=train), train=train)

    def propose(self, features: tuple[Float[Array, "b _ _ c"], ...]) -> tuple[DenseOutputs, ...]:
        """Returns the RPN's outputs for the anchors of each level."""
        return self.rpn(features)

    def classify(
        self,
        rois: Float[Array, "n h w c"],
        valid: Bool[Array, " n"],
        *,
        stage: int = 0,
        train: bool,
    ) -> BoxOutputs:
        """Returns a stage's box head's outputs for rois' features; see `BoxHead`."""
        return getattr(self, self.head_names[stage])(rois, valid, train=train)

    def __call__(
        self, pyramid: Pyramid | PackedPyramid, *, train: bool = False
    ) -> tuple[tuple[DenseOutputs, ...], tuple[BoxOutputs, ...]]:
        """Returns the RPN's outputs, and each head's for an empty roi of each image.

        Every module runs once, as `init` needs it.
        """
        features = self.features(pyramid, train=train)
        # Any values do: the heads' parameters depend on the shape alone.
        batch, _, _, channels = features[0].shape
        roi = jnp.zeros((batch, self.roi_size, self.roi_size, channels), features[0].dtype)
        valid = jnp.ones(roi.shape[0], bool)
        stages = range(len(self.box_heads))
        heads = tuple(self.classify(roi, valid, stage=i, train=train) for i in stages)
        return self.propose(features), heads
