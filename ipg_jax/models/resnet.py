"""Building blocks of ResNet, with torchvision's padding, stride placement and layer names.

He et al., "Deep Residual Learning for Image Recognition" (2015); the stride of a bottleneck is on
its 3x3 convolution ("v1.5"), as in torchvision, so that its weights load.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.models.convolution import conv_general_dilated
from ipg_jax.models.norm import NormKind, norm_blocks, norm_factory
from ipg_jax.models.pairs import LANES, convolve_pairs, from_pairs, to_pairs
from ipg_jax.models.relu import relu
from ipg_jax.models.remat import recomputed
from ipg_jax.types import Array

# torch's kaiming_normal_(mode="fan_out", nonlinearity="relu")
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Architecture(NamedTuple):
    """Blocks per stage and the kind of block of a standard ResNet."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool

    @property
    def expansion(self) -> int:
        """Channels that come out of a block for each one within."""
        return 4 if self.bottleneck else 1


ARCHITECTURES = {
    18: Architecture((2, 2, 2, 2), bottleneck=False),
    34: Architecture((3, 4, 6, 3), bottleneck=False),
    50: Architecture((3, 4, 6, 3), bottleneck=True),
    101: Architecture((3, 4, 23, 3), bottleneck=True),
}


def conv(
    features: int, kernel_size: int, *, strides: int = 1, dilation: int = 1, **kwargs: Any
) -> nn.Conv:
    """Returns a square convolution with torch's explicit, symmetric padding.

    `SAME` would pad strided convolutions on one side only and shift the features by half a pixel.
    An input of size `h` gives `ceil(h / strides)` for odd kernels.

    Args:
      features: output channels.
      kernel_size: height and width of the kernel, odd.
      strides: stride in both directions.
      dilation: distance between the taps of the kernel.
      **kwargs: attributes of `flax.linen.Conv` (`name`, `dtype`, `param_dtype`, ...); the defaults
        are a convolution without bias, initialised as torchvision's ResNet.
    """
    pad = dilation * (kernel_size - 1) // 2
    options: dict[str, Any] = {"use_bias": False, "kernel_init": kaiming_normal} | kwargs
    return nn.Conv(
        features,
        (kernel_size, kernel_size),
        strides=strides,
        padding=((pad, pad), (pad, pad)),
        kernel_dilation=dilation,
        conv_general_dilated=conv_general_dilated,
        **options,
    )


class Kernel(nn.Module):
    """The square kernel of a convolution by itself, named as that of `flax.linen.Conv`."""

    features: int
    size: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, channels: int) -> Float[Array, "k k c f"]:
        """Returns the kernel for so many input channels."""
        shape = (self.size, self.size, channels, self.features)
        return self.param("kernel", kaiming_normal, shape, self.param_dtype)


class Block(nn.Module):
    """What the blocks share: a convolution with its norm, on columns or on pairs of them.

    Attributes:
      features: output channels.
      strides: of the convolution that changes the size.
      dilation: distance between the taps of the 3x3 convolutions (bottlenecks only).
      pairs: whether input and output are in pairs of columns (`models.pairs`); needs a stride and
        a dilation of 1.
    """

    features: int
    strides: int = 1
    dilation: int = 1
    norm: NormKind = "batch_norm"
    pairs: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @property
    def _types(self) -> dict[str, Any]:
        return {"dtype": self.dtype, "param_dtype": self.param_dtype}

    def _channels(self, x: Array) -> int:
        return x.shape[-1] // 2 if self.pairs else x.shape[-1]

    def _conv_norm(
        self,
        x: Array,
        features: int,
        size: int,
        names: tuple[str, str],
        *,
        train: bool,
        strides: int = 1,
        dilation: int = 1,
    ) -> Array:
        """Returns `x` after a convolution and a norm of those names; called in a compact method."""
        norm = norm_factory(self.norm, train=train, **self._types)(name=names[1])
        if self.pairs:
            make_kernel = Kernel(features, size, param_dtype=self.param_dtype, name=names[0])
            kernel = make_kernel(self._channels(x))
            return norm_blocks(norm, convolve_pairs((x,), (kernel,), self.dtype), features)
        options = {"strides": strides, "dilation": dilation, "name": names[0], **self._types}
        return norm(conv(features, size, **options)(x))

    def _shortcut(self, x: Array, *, train: bool) -> Array:
        """Returns `x`, or its projection where the block changes its size or width."""
        if self._channels(x) == self.features and self.strides == 1:
            return x
        names = "downsample_conv", "downsample_bn"
        return self._conv_norm(x, self.features, 1, names, train=train, strides=self.strides)


class BasicBlock(Block):
    """Two 3x3 convolutions and a shortcut: the block of ResNet-18 and 34."""

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        """Returns `features` channels at `1 / strides` of the resolution."""
        y: Array = relu(
            self._conv_norm(
                x, self.features, 3, ("conv1", "bn1"), train=train, strides=self.strides
            )
        )
        y = self._conv_norm(y, self.features, 3, ("conv2", "bn2"), train=train)
        return relu(y + self._shortcut(x, train=train))


class Bottleneck(Block):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: the block of ResNet-50 and deeper.

    Attributes:
      inner_channels: of the 3x3 convolution; 0 takes a quarter of `features`.
    """

    inner_channels: int = 0

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        """Returns `features` channels at `1 / strides` of the resolution."""
        width = self.inner_channels or self.features // 4
        y: Array = relu(self._conv_norm(x, width, 1, ("conv1", "bn1"), train=train))
        y = relu(
            self._conv_norm(
                y,
                width,
                3,
                ("conv2", "bn2"),
                train=train,
                strides=self.strides,
                dilation=self.dilation,
            )
        )
        y = self._conv_norm(y, self.features, 1, ("conv3", "bn3"), train=train)
        return relu(y + self._shortcut(x, train=train))


class Stage(nn.Module):
    """A run of residual blocks, `block0` to `block{n-1}`, of which the first changes the size.

    Narrow ones work on pairs of columns.

    Attributes:
      features: output channels.
      num_blocks: how many blocks.
      strides: stride of the first block.
      dilation: dilation of the 3x3 convolutions (bottlenecks only).
      bottleneck: `Bottleneck` or `BasicBlock`.
      remat: whether the backward pass computes each block again.
    """

    features: int
    num_blocks: int
    strides: int
    bottleneck: bool
    dilation: int = 1
    norm: NormKind = "batch_norm"
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        """Returns `features` channels at `1 / strides` of the resolution."""
        make_block = (
            functools.partial(Bottleneck, dilation=self.dilation) if self.bottleneck else BasicBlock
        )
        width = self.features // 4 if self.bottleneck else self.features
        pairs = width < LANES and self.strides == self.dilation == 1 and x.shape[2] % 2 == 0
        if pairs:
            x = to_pairs(x)
        for i in range(self.num_blocks):
            block = make_block(
                self.features,
                strides=self.strides if i == 0 else 1,
                norm=self.norm,
                pairs=pairs,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"block{i}",
            )
            x = recomputed(lambda block, x: block(x, train=train), block, x, enabled=self.remat)
        return from_pairs(x) if pairs else x
