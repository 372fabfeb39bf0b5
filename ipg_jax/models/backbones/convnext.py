"""ConvNeXt, with torchvision's layers, so that its weights load.

Liu et al., "A ConvNet for the 2020s" (2022). Blocks are not dropped at random in training
(stochastic depth, which is part of the paper's recipe and not of the network).
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.layers import Conv, LayerNorm, StemConv, maybe_remat
from ipg_jax.types import Array, PackedImage

# trunc_normal_(std=0.02), which cuts at -2 and 2: torchvision's ConvNeXt
normal = nn.initializers.normal(0.02)


class ConvNeXtBlock(nn.Module):
    """A depthwise 7x7 convolution, norm, and two dense layers with a GELU between; a residual.

    Attributes:
      layer_scale_init: initial value of the factors of what is added to the input.
    """

    layer_scale_init: float = 1e-6
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        """Returns features of the same size and width."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"use_bias": True, "kernel_init": normal, **types}
        c = x.shape[-1]
        y = Conv(c, 7, groups=c, name="conv", **options)(x)
        y = LayerNorm(1e-6, name="norm", **types)(y)
        y = nn.Dense(4 * c, name="fc1", **options)(y)
        y = nn.Dense(c, name="fc2", **options)(nn.gelu(y, approximate=False))
        init = nn.initializers.constant(self.layer_scale_init)
        scale = self.param("layer_scale", init, (c,), self.param_dtype)
        return x + scale.astype(self.dtype) * y


class ConvNeXtStage(nn.Module):
    """A downsampling and a run of blocks, `block0` to `block{n-1}`.

    Attributes:
      features: output channels.
      num_blocks: how many blocks.
      downsample: whether a norm and a 2x2 convolution of stride 2 come first.
      layer_scale_init: see `ConvNeXtBlock`.
      remat: whether the backward pass computes each block again.
    """

    features: int
    num_blocks: int
    downsample: bool
    layer_scale_init: float = 1e-6
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        """Returns `features` channels, at half the resolution (rounded up) if `downsample`."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"use_bias": True, "kernel_init": normal, **types}
        if self.downsample:
            x = LayerNorm(1e-6, name="downsample_norm", **types)(x)
            # torch leaves out an odd last row or column, which would shift features and anchors.
            x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)))
            x = Conv(self.features, 2, 2, padding=0, name="downsample_conv", **options)(x)
        for i in range(self.num_blocks):
            block = ConvNeXtBlock(self.layer_scale_init, name=f"block{i}", **types)
            x = maybe_remat(lambda block, x: block(x), block, x, enabled=self.remat)
        return x


class ConvNeXt(nn.Module):
    """ConvNeXt of four stages (a `Backbone`); by default ConvNeXt-T.

    Attributes:
      depths: blocks of each stage; (3, 3, 27, 3) for ConvNeXt-S.
      base_channels: of stage 1, doubled at each stage.
      layer_scale_init: initial value of the factors of what each block adds to its input.
      remat: whether the backward pass computes each block again.

    Raises:
      ValueError: an attribute is out of range.
    """

    depths: tuple[int, int, int, int] = (3, 3, 9, 3)
    base_channels: int = 96
    layer_scale_init: float = 1e-6
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        if len(self.depths) != 4 or min(self.depths) < 1:
            raise ValueError(f"depths has four positive numbers, not {self.depths}")
        if self.base_channels < 1:
            raise ValueError(f"base_channels is positive, not {self.base_channels}")
        super().__post_init__()

    @property
    def strides(self) -> dict[str, int]:
        """See `Backbone`."""
        return {"c2": 4, "c3": 8, "c4": 16, "c5": 32}

    @property
    def channels(self) -> dict[str, int]:
        """See `Backbone`."""
        return {f"c{s + 1}": self.base_channels * 2 ** (s - 1) for s in range(1, 5)}

    def setup(self) -> None:
        """Makes the layers."""
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        options = {"use_bias": True, "kernel_init": normal, **types}
        # 4x4 at stride 4 gives plain features of packed images too.
        self.conv1: Any = StemConv(self.base_channels, 4, 4, padding=0, **options)
        self.norm1 = LayerNorm(1e-6, **types)
        for s, num_blocks in enumerate(self.depths, start=1):
            layer = ConvNeXtStage(
                features=self.channels[f"c{s + 1}"],
                num_blocks=num_blocks,
                downsample=s > 1,
                layer_scale_init=self.layer_scale_init,
                remat=self.remat,
                **types,
            )
            setattr(self, f"layer{s}", layer)

    def stem(
        self, image: Float[Array, "b h w 3"] | PackedImage, *, train: bool
    ) -> Float[Array, "b _ _ _"]:
        """See `Backbone`."""
        del train  # layer norms have no statistics of the batch
        return self.norm1(self.conv1(image))

    def stage(
        self, number: int, x: Float[Array, "b _ _ _"], *, train: bool
    ) -> Float[Array, "b _ _ _"]:
        """See `Backbone`."""
        del train
        return getattr(self, f"layer{number}")(x)
