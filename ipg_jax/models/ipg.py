"""The IPG transformation module: a shallow feature of one level of the image pyramid."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.models.norm import NormKind, norm_factory
from ipg_jax.models.resnet import Bottleneck
from ipg_jax.models.stem import StemConv, norm_halves, relu_max_pool_2x2
from ipg_jax.types import Array


class IPGTransform(nn.Module):
    """The map `F_i = f_i(I_i)` of the paper's section 3.3 and figure 2.

    A 7x7 convolution of stride 2 to 64 channels, norm and ReLU, a 2x2 max-pool, and one bottleneck
    residual block with a projection (whose 3x3 convolution has a quarter of the output's channels,
    but at least those 64). It is shallow on purpose: its output keeps the spatial detail
    that the deep stages of the backbone lose.

    Attributes:
      features: output channels, `C1 * 2^i` in the paper.
    """

    features: int
    norm: NormKind = "batch_norm"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b _ _ _"], *, train: bool) -> Float[Array, "b _ _ f"]:
        """Returns the pyramid feature `F_i` at a quarter of the resolution of `I_i`.

        Args:
          image: normalised pyramid level `[b, h, w, 3]`, height and width divisible by 4; or in
            blocks of 4x4 pixels, `[b, h / 4, w / 4, 48]` (`ops.to_blocks`).
          train: whether batch norm uses and updates batch statistics.
        """
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv1 = StemConv(64, name="conv1", **types)
        bn1 = norm_factory(self.norm, train=train, **types)(name="bn1")
        x = relu_max_pool_2x2(*norm_halves(bn1, conv1.columns(image), 64))
        block = Bottleneck(
            self.features,
            inner_channels=max(self.features // 4, 64),
            norm=self.norm,
            name="block0",
            **types,
        )
        return block(x, train=train)
