"""Whole detectors: backbone, neck and head put together, nothing else."""

from __future__ import annotations

import flax.linen as nn
from jaxtyping import Float

from ipg_jax.models.backbone import GuidedResNet
from ipg_jax.models.fpn import FPN
from ipg_jax.models.retinanet_head import DenseOutputs, RetinaNetHead
from ipg_jax.types import Array


class RetinaNet(nn.Module):
    """A one-stage detector: (guided) ResNet, FPN, RetinaNet head."""

    backbone: GuidedResNet
    fpn: FPN
    head: RetinaNetHead

    @property
    def strides(self) -> tuple[int, ...]:
        """Stride of every level that the head sees, finest first."""
        strides = [self.backbone.strides[name] for name in self.fpn.in_features]
        for _ in range(self.fpn.extra_levels):
            strides.append(2 * strides[-1])
        return tuple(strides)

    def __call__(
        self, pyramid: tuple[Float[Array, "b _ _ 3"], ...], *, train: bool = False
    ) -> tuple[DenseOutputs, ...]:
        """Returns the head's outputs per level, finest first.

        Args:
          pyramid: normalised images (`ops.normalize_pyramid`).
          train: whether batch norm uses and updates batch statistics.
        """
        return self.head(self.fpn(self.backbone(pyramid, train=train)))
