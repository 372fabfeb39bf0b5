"""ResNet, with torchvision's padding, stride placement and layer names.

He et al., "Deep Residual Learning for Image Recognition" (2015); the stride of a bottleneck is on
its 3x3 convolution ("v1.5"), as in torchvision, so that its weights load.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.kernels import LANES, pack_columns, relu_max_pool, unpack_columns
from ipg_jax.layers import (
    Conv,
    NormKind,
    PackedConv,
    StemConv,
    maybe_remat,
    norm_layer,
    packed_norm,
)
from ipg_jax.models.backbones.blocks import BasicBlock, Bottleneck, ModuleDef
from ipg_jax.types import Array, PackedImage


class Architecture(NamedTuple):
    """Blocks per stage and the kind of block of a standard ResNet."""

    blocks: tuple[int, int, int, int]
    bottleneck: bool


ARCHITECTURES = {
    10: Architecture((1, 1, 1, 1), bottleneck=False),
    18: Architecture((2, 2, 2, 2), bottleneck=False),
    34: Architecture((3, 4, 6, 3), bottleneck=False),
    50: Architecture((3, 4, 6, 3), bottleneck=True),
    101: Architecture((3, 4, 23, 3), bottleneck=True),
}


class Stage(nn.Module):
    """A run of residual blocks, `block0` to `block{n-1}`, of which the first changes the size.

    Attributes:
      features: output channels.
      num_blocks: how many blocks.
      strides: stride of the first block.
      dilation: dilation of the 3x3 convolutions (bottlenecks only).
      bottleneck: `Bottleneck` or `BasicBlock`.
      norm: kind of norm.
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
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        conv: ModuleDef = functools.partial(Conv, **types)
        norm: ModuleDef = norm_layer(self.norm, **types)
        width = self.features // 4 if self.bottleneck else self.features
        packed = width < LANES and self.strides == self.dilation == 1 and x.shape[2] % 2 == 0
        if packed:  # the blocks of a narrow stage work on packed columns, and do not know it
            conv, norm = functools.partial(PackedConv, **types), packed_norm(norm)
            x = pack_columns(x)
        make_block = Bottleneck if self.bottleneck else BasicBlock
        for i in range(self.num_blocks):
            block = make_block(
                self.features,
                conv,
                norm,
                strides=self.strides if i == 0 else 1,
                dilation=self.dilation,
                name=f"block{i}",
            )
            x = maybe_remat(lambda block, x: block(x, train=train), block, x, enabled=self.remat)
        return unpack_columns(x) if packed else x


class ResNet(nn.Module):
    """ResNet-10, 18, 34, 50 or 101, with up to three stages more (a `Backbone`).

    Attributes:
      depth: 10, 18, 34, 50 or 101; torchvision has weights for all but the first.
      base_channels: of the stem and within stage 1, doubled at each stage; 64 is the standard
        network, fewer make a narrow one (group norm needs a multiple of 32).
      num_stages: 4 to 7; each stage beyond the fourth is two bottlenecks of stage 4's width
        (IPG-Net, section 3.4, Table 3).
      keep: the extra stages have stride 1 instead of 2 ("7(keep)" of Table 3).
      dilation: dilation of the extra stages.
      norm: kind of norm.
      new_norm: kind of norm of the extra stages, which no trained weights have; by default `norm`.
      remat: whether the backward pass computes each block again.

    Raises:
      ValueError: an attribute is out of range.
    """

    depth: int = 50
    base_channels: int = 64
    num_stages: int = 4
    keep: bool = False
    dilation: int = 1
    norm: NormKind = "batch_norm"
    new_norm: NormKind | None = None
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if self.depth not in ARCHITECTURES:
            raise ValueError(f"depth is one of {sorted(ARCHITECTURES)}, not {self.depth}")
        if self.base_channels < 1:
            raise ValueError(f"base_channels is positive, not {self.base_channels}")
        if not 4 <= self.num_stages <= 7:
            raise ValueError(f"num_stages is 4 to 7, not {self.num_stages}")
        norm_layer(self.norm)
        norm_layer(self.new_norm or self.norm)
        super().__post_init__()

    @property
    def strides(self) -> dict[str, int]:
        """See `Backbone`."""
        return {
            f"c{s + 1}": 2 ** (1 + (min(s, 4) if self.keep else s))
            for s in range(1, self.num_stages + 1)
        }

    @property
    def channels(self) -> dict[str, int]:
        """See `Backbone`."""
        first = self.base_channels * (4 if ARCHITECTURES[self.depth].bottleneck else 1)
        return {f"c{s + 1}": first * 2 ** (min(s, 4) - 1) for s in range(1, self.num_stages + 1)}

    def setup(self) -> None:
        """Makes the layers, under torchvision's names."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        blocks, bottleneck = ARCHITECTURES[self.depth]
        self.conv1 = StemConv(self.base_channels, **types)
        self.bn1 = norm_layer(self.norm, **types)()
        for s in range(1, self.num_stages + 1):
            extra = s > 4
            layer = Stage(
                features=self.channels[f"c{s + 1}"],
                num_blocks=2 if extra else blocks[s - 1],
                strides=1 if s == 1 or (extra and self.keep) else 2,
                dilation=self.dilation if extra else 1,
                bottleneck=extra or bottleneck,
                norm=(self.new_norm or self.norm) if extra else self.norm,
                remat=self.remat,
                **types,
            )
            setattr(self, f"layer{s}", layer)

    def stem(
        self, image: Float[Array, "b h w 3"] | PackedImage, *, train: bool
    ) -> Float[Array, "b _ _ _"]:
        """See `Backbone`."""
        return relu_max_pool(self.bn1(self.conv1(image), train=train), window=3)

    def stage(
        self, number: int, x: Float[Array, "b _ _ _"], *, train: bool
    ) -> Float[Array, "b _ _ _"]:
        """See `Backbone`."""
        return getattr(self, f"layer{number}")(x, train=train)
