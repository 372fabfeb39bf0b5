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

from ipg_jax.models.convolution import conv_general_dilated, convolve
from ipg_jax.models.norm import FrozenBatchNorm, NormKind, norm_factory
from ipg_jax.models.remat import recomputed
from ipg_jax.types import Array

# torch's kaiming_normal_(mode="fan_out", nonlinearity="relu")
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")


class Architecture(NamedTuple):
    """Blocks per stage and the kind of block of a standard ResNet."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool

    @property
    def widths(self) -> tuple[int, int, int, int]:
        """Output channels of stages 1 to 4."""
        first = 256 if self.bottleneck else 64
        return (first, 2 * first, 4 * first, 8 * first)


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


class Kernel1x1(nn.Module):
    """The kernel of a 1x1 convolution by itself, named as that of `flax.linen.Conv`."""

    features: int
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, channels: int) -> Float[Array, "1 1 c f"]:
        """Returns the kernel for so many input channels."""
        shape = (1, 1, channels, self.features)
        return self.param("kernel", kaiming_normal, shape, self.param_dtype)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: the block of ResNet-18 and 34."""

    features: int
    strides: int = 1
    norm: NormKind = "batch_norm"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        """Returns `features` channels at `1 / strides` of the resolution."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = norm_factory(self.norm, train=train, **types)
        y = conv(self.features, 3, strides=self.strides, name="conv1", **types)(x)
        y = nn.relu(norm(name="bn1")(y))
        y = conv(self.features, 3, name="conv2", **types)(y)
        y = norm(name="bn2")(y)
        if x.shape[-1] != self.features or self.strides != 1:
            x = conv(self.features, 1, strides=self.strides, name="downsample_conv", **types)(x)
            x = norm(name="downsample_bn")(x)
        return nn.relu(y + x)


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions and a shortcut: the block of ResNet-50 and deeper.

    Attributes:
      features: output channels; the inner width is a quarter of it, but not below 64.
    """

    features: int
    strides: int = 1
    dilation: int = 1
    norm: NormKind = "batch_norm"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], *, train: bool) -> Float[Array, "b h2 w2 f"]:
        """Returns `features` channels at `1 / strides` of the resolution."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        norm = norm_factory(self.norm, train=train, **types)
        width = max(self.features // 4, 64)
        y = conv(width, 1, name="conv1", **types)(x)
        y = nn.relu(norm(name="bn1")(y))
        y = conv(width, 3, strides=self.strides, dilation=self.dilation, name="conv2", **types)(y)
        y = nn.relu(norm(name="bn2")(y))
        projected = x.shape[-1] != self.features or self.strides != 1
        if projected and self.strides == 1 and self.norm == "frozen_batch_norm":
            return nn.relu(self._project_joined(y, x))
        y = conv(self.features, 1, name="conv3", **types)(y)
        y = norm(name="bn3")(y)
        if projected:
            x = conv(self.features, 1, strides=self.strides, name="downsample_conv", **types)(x)
            x = norm(name="downsample_bn")(x)
        return nn.relu(y + x)

    def _project_joined(self, y: Array, x: Array) -> Array:
        """Returns the sum of `y` through `conv3` and `x` through the projection, with their norms.

        Frozen norms are linear, which makes it one convolution of both: the output is many times as
        large as its inputs, and this way is gone through once.
        """

        def folded(conv_name: str, norm_name: str, channels: int) -> tuple[Array, Array]:
            types = {"param_dtype": self.param_dtype}
            kernel = Kernel1x1(self.features, name=conv_name, **types)(channels)
            multiplier, offset = FrozenBatchNorm(name=norm_name, **types).affine(self.features)
            return kernel * multiplier, offset

        kernel_y, offset_y = folded("conv3", "bn3", y.shape[-1])
        kernel_x, offset_x = folded("downsample_conv", "downsample_bn", x.shape[-1])
        both = jnp.concatenate([y, x], axis=-1)
        kernel = jnp.concatenate([kernel_y, kernel_x], axis=-2)
        return convolve(both, kernel, self.dtype) + (offset_y + offset_x).astype(self.dtype)


class Stage(nn.Module):
    """A run of residual blocks, `block0` to `block{n-1}`, of which the first changes the size.

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
        for i in range(self.num_blocks):
            block = make_block(
                self.features,
                strides=self.strides if i == 0 else 1,
                norm=self.norm,
                dtype=self.dtype,
                param_dtype=self.param_dtype,
                name=f"block{i}",
            )
            x = recomputed(lambda block, x: block(x, train=train), block, x, enabled=self.remat)
        return x
