"""The IPG transformation module: a shallow feature of one level of the image pyramid."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.kernels import relu_max_pool
from ipg_jax.layers import Conv, NormKind, StemConv, norm_layer
from ipg_jax.models.backbones.blocks import Bottleneck
from ipg_jax.types import Array, PackedImage


class IPGTransform(nn.Module):
    """The map `F_i = f_i(I_i)` of the paper's section 3.3 and figure 2.

    A 7x7 convolution of stride 2 to 64 channels, norm and ReLU, a 2x2 max-pool, and one bottleneck
    residual block with a projection (whose 3x3 convolution has a quarter of the output's channels,
    but at least those 64). It is shallow on purpose: its output keeps the spatial detail
    that the deep stages of the backbone lose.

    Attributes:
      features: output channels, `C1 * 2^i` in the paper.
      norm: kind of norm.
    """

    features: int
    norm: NormKind = "batch_norm"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w 3"] | PackedImage, *, train: bool
    ) -> Float[Array, "b _ _ f"]:
        """Returns the pyramid feature `F_i` at a quarter of the resolution of `I_i`.

        Args:
          image: normalised pyramid level, height and width divisible by 4.
          train: whether batch norm uses and updates batch statistics.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = norm_layer(self.norm, **types)
        x = StemConv(64, name="conv1", **types)(image)
        x = relu_max_pool(norm(name="bn1")(x, train=train), window=2)
        block = Bottleneck(
            self.features,
            functools.partial(Conv, **types),
            norm,
            inner_channels=max(self.features // 4, 64),
            name="block0",
        )
        return block(x, train=train)
