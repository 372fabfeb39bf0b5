"""Convolutions with torch's explicit, symmetric padding.

`SAME` would pad strided convolutions on one side only and shift the features by half a pixel. Here
an input of size `h` gives `ceil(h / strides)`, for odd kernels with the default padding.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jaxtyping import Float

from ipg_jax import kernels
from ipg_jax.layers.initializers import kaiming_normal
from ipg_jax.types import Array, PackedFeatures, PackedImage


class Conv(nn.Module):
    """A square convolution; names and shapes of its parameters are those of `flax.linen.Conv`.

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel.
      strides: in both directions.
      padding: of all four sides; None for `dilation * (kernel_size - 1) // 2`.
      dilation: distance between the taps of the kernel.
      groups: of channels that are convolved apart.
      use_bias: whether a bias is added.
      kernel_init: initial value of the kernel.
      bias_init: initial value of the bias.
    """

    features: int
    kernel_size: int
    strides: int = 1
    padding: int | None = None
    dilation: int = 1
    groups: int = 1
    use_bias: bool = False
    kernel_init: Initializer = kaiming_normal
    bias_init: Initializer = nn.initializers.zeros
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h2 w2 f"]:
        """Returns the convolution of `x` in `dtype`."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        padding = self.padding
        if padding is None:
            padding = self.dilation * (self.kernel_size - 1) // 2
        y = kernels.conv2d(
            x.astype(self.dtype),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
        )
        if not self.use_bias:
            return y
        bias = self.param("bias", self.bias_init, (self.features,), self.param_dtype)
        return y + bias.astype(self.dtype)


class PackedConv(nn.Module):
    """A convolution of stride 1 between maps in packed columns (`kernels.packed_conv2d`).

    It takes the place of a `Conv` with the same attributes and parameters.
    """

    features: int
    kernel_size: int
    strides: int = 1
    dilation: int = 1
    kernel_init: Initializer = kaiming_normal
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        """Returns the convolution of `x` in `dtype`.

        Raises:
          ValueError: the stride or the dilation is not 1.
        """
        if (self.strides, self.dilation) != (1, 1):
            raise ValueError(
                f"packed columns need a stride and a dilation of 1, not {self.strides} and "
                f"{self.dilation}"
            )
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // 2, self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        return kernels.packed_conv2d(x.astype(self.dtype), kernel.astype(self.dtype))


class StemConv(nn.Module):
    """The convolution that reads the image (`kernels.stem_conv`).

    Attributes:
      features: output channels.
      kernel_size: height and width of the kernel.
      strides: in both directions.
      padding: of all four sides.
      use_bias: whether a bias is added.
      kernel_init: initial value of the kernel.
    """

    features: int
    kernel_size: int = 7
    strides: int = 2
    padding: int = 3
    use_bias: bool = False
    kernel_init: Initializer = kaiming_normal
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, image: Float[Array, "b h w 3"] | PackedImage
    ) -> Float[Array, "b h2 w2 f"] | PackedFeatures:
        """Returns the convolution of an image in `dtype`."""
        shape = (self.kernel_size, self.kernel_size, image.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape, self.param_dtype)
        y = kernels.stem_conv(
            jax.tree.map(lambda x: x.astype(self.dtype), image),
            kernel.astype(self.dtype),
            strides=self.strides,
            padding=self.padding,
        )
        if not self.use_bias:
            return y
        bias = self.param("bias", nn.initializers.zeros, (self.features,), self.param_dtype)
        bias = bias.astype(self.dtype)  # of packed features it is repeated for each column
        return jax.tree.map(lambda y: y + jnp.tile(bias, y.shape[-1] // self.features), y)
