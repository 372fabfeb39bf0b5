"""The region proposal network's head (Ren et al., "Faster R-CNN", 2015, section 3.1)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.models.convolution import with_shared_kernels
from ipg_jax.models.relu import relu
from ipg_jax.models.resnet import conv
from ipg_jax.models.retinanet_head import DenseOutputs, small_normal
from ipg_jax.types import Array


class RPNHead(nn.Module):
    """3x3 convolutions, then an objectness logit and a box for each anchor; shared by all levels.

    Attributes:
      num_anchors: anchors per position.
      channels: width of the convolutions.
      num_convs: how many of them.
    """

    num_anchors: int = 3
    channels: int = 256
    num_convs: int = 1
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, features: tuple[Float[Array, "b _ _ c"], ...]) -> tuple[DenseOutputs, ...]:
        """Returns logits of the one class "object" and deltas per level, in `features`' order."""
        outputs: tuple[DenseOutputs, ...] = with_shared_kernels(
            RPNHead._outputs, self, features, dtype=self.dtype
        )
        return outputs

    @nn.compact
    def _outputs(self, features: tuple[Array, ...]) -> tuple[DenseOutputs, ...]:
        options = {
            "use_bias": True,
            "kernel_init": small_normal,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        convs = [conv(self.channels, 3, name=f"conv{i}", **options) for i in range(self.num_convs)]
        objectness = conv(self.num_anchors, 1, name="objectness", **options)
        deltas = conv(self.num_anchors * 4, 1, name="deltas", **options)

        def outputs(x: Array) -> DenseOutputs:
            for layer in convs:
                x = relu(layer(x))
            images = x.shape[0]
            return DenseOutputs(
                objectness(x).reshape(images, -1, 1), deltas(x).reshape(images, -1, 4)
            )

        return tuple(outputs(x) for x in features)
