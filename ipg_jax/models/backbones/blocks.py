"""Residual blocks (He et al., "Deep Residual Learning for Image Recognition", 2015).

The stride of a bottleneck is on its 3x3 convolution ("v1.5"), as in torchvision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import flax.linen as nn
from jaxtyping import Float

from ipg_jax.kernels import relu
from ipg_jax.types import Array

ModuleDef: TypeAlias = Callable[..., Any]
"""A constructor of layers: `conv(features, size, name=...)(x)`, `norm(name=...)(x, train=...)`."""


class Block(nn.Module):
    """What the residual blocks share.

    Attributes:
      features: output channels.
      conv: constructor of the convolutions.
      norm: constructor of the norms.
      strides: of the convolution that changes the size.
      dilation: distance between the taps of the 3x3 convolution (bottlenecks only).
    """

    features: int
    conv: ModuleDef
    norm: ModuleDef
    strides: int = 1
    dilation: int = 1

    def shortcut(self, x: Array, y: Array, *, train: bool) -> Array:
        """Returns `x`, or its projection where `y` has another width or size."""
        if self.strides == 1 and x.shape[-1] == y.shape[-1]:
            return x
        x = self.conv(self.features, 1, strides=self.strides, name="downsample_conv")(x)
        return self.norm(name="downsample_bn")(x, train=train)


class BasicBlock(Block):
    """Two 3x3 convolutions and a shortcut: the block of ResNet-10, 18 and 34."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        """Returns `features` channels at `1 / strides` of the resolution."""
        y = self.conv(self.features, 3, strides=self.strides, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y, train=train))
        y = self.conv(self.features, 3, name="conv2")(y)
        y = self.norm(name="bn2")(y, train=train)
        return relu(y + self.shortcut(x, y, train=train))


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: the block of ResNet-50 and deeper.

    Attributes:
      inner_channels: of the 3x3 convolution; by default a quarter of `features`.
    """

    inner_channels: int | None = None

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        """Returns `features` channels at `1 / strides` of the resolution."""
        width = self.inner_channels or self.features // 4
        y = self.conv(width, 1, name="conv1")(x)
        y = relu(self.norm(name="bn1")(y, train=train))
        y = self.conv(width, 3, strides=self.strides, dilation=self.dilation, name="conv2")(y)
        y = relu(self.norm(name="bn2")(y, train=train))
        y = self.conv(self.features, 1, name="conv3")(y)
        y = self.norm(name="bn3")(y, train=train)
        return relu(y + self.shortcut(x, y, train=train))
