"""The region proposal network's head (Ren et al., "Faster R-CNN", 2015, section 3.1)."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.kernels import relu
from ipg_jax.layers import Conv, small_normal
from ipg_jax.models.heads.retinanet import DenseOutputs
from ipg_jax.types import Array


class RPNHead(nn.Module):
    """3x3 convolutions, then an objectness logit and a box for each anchor; shared by all levels.

    Outputs are float32: in bfloat16 many of the best proposals would have equal scores.

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

    @nn.compact
    def __call__(self, features: tuple[Float[Array, "b _ _ c"], ...]) -> tuple[DenseOutputs, ...]:
        """Returns logits of the one class "object" and deltas per level, in `features`' order."""
        options: dict[str, Any] = {
            "use_bias": True,
            "kernel_init": small_normal,
            "dtype": self.dtype,
            "param_dtype": self.param_dtype,
        }
        convs = [Conv(self.channels, 3, name=f"conv{i}", **options) for i in range(self.num_convs)]
        options["dtype"] = jnp.float32
        objectness = Conv(self.num_anchors, 1, name="objectness", **options)
        deltas = Conv(self.num_anchors * 4, 1, name="deltas", **options)

        def outputs(x: Array) -> DenseOutputs:
            for layer in convs:
                x = relu(layer(x))
            images = x.shape[0]
            return DenseOutputs(
                objectness(x).reshape(images, -1, 1), deltas(x).reshape(images, -1, 4)
            )

        return tuple(outputs(x) for x in features)
