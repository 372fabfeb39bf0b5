"""The IPG fusion modules: `O_i = beta(F_i, R_i)` (paper, section 3.5).

`F` is the feature of the image pyramid, `R` the backbone's. Every variant maps `F` to the width of
`R` by the channel transform `CT` and keeps the size and width of `R`.

With `identity_init=True` a fusion starts as exactly `O = R`, so that a trained plain backbone which
is given guidance returns the same values before its first step. The residual product cannot: it
ends in a layer norm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ipg_jax.models.convolution import convolve
from ipg_jax.models.norm import in_float32
from ipg_jax.types import Array


def channel_interpolation(in_channels: int, out_channels: int) -> Float[np.ndarray, "i o"]:
    """Returns the matrix of linear interpolation along channels, `[in_channels, out_channels]`.

    Half-pixel centres, clamped at the ends, no smoothing when the width shrinks: the matrix form of
    torch's `interpolate(mode="linear", align_corners=False)`. Rows are inputs, columns sum to 1.
    """
    centre = (np.arange(out_channels) + 0.5) * in_channels / out_channels - 0.5
    centre = np.clip(centre, 0, in_channels - 1)
    distance = np.abs(np.arange(in_channels)[:, None] - centre[None, :])
    return np.maximum(0.0, 1.0 - distance).astype(np.float32)


def channel_transform(x: Float[Array, "*b c"], channels: int) -> Float[Array, "*b d"]:
    """Interpolates the last axis of `x` linearly to `channels` (`CT`, section 3.5.2).

    It is the identity when `x` has that width already.
    """
    if x.shape[-1] == channels:
        return x
    return x @ jnp.asarray(channel_interpolation(x.shape[-1], channels), x.dtype)


def identity_kernel(
    key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32
) -> Float[Array, ...]:
    """Initialises a kernel `[n * c, c]` with `n` identities on top of each other."""
    del key
    *window, rows, columns = shape
    kernel = jnp.tile(jnp.eye(columns, dtype=dtype), (rows // columns, 1))
    return jnp.broadcast_to(kernel, (*window, rows, columns))


class Linear(nn.Module):
    """A 1x1 convolution, whose kernel `[inputs, features]` can be had by itself.

    Attributes:
      features: output channels.
      init_kernel: initialiser of the kernel.
      use_bias: whether a bias is added.
    """

    features: int
    init_kernel: Callable[..., Array]
    use_bias: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Returns `x` times the kernel, plus the bias."""
        kernel, bias = self.arrays(x.shape[-1])
        return conv1x1(x.astype(self.dtype), kernel) + bias

    def kernel(self, inputs: int) -> Float[Array, "c d"]:
        """Returns the kernel for so many input channels, in `dtype`."""
        return self.arrays(inputs)[0]

    @nn.compact
    def arrays(self, inputs: int) -> tuple[Float[Array, "c d"], Float[Array, "*d"]]:
        """Returns kernel and bias, 0 without one, in `dtype`."""

        def array(name: str, init: Callable[..., Array], *shape: int) -> Array:
            return self.param(name, init, shape, self.param_dtype).astype(self.dtype)

        kernel = array("kernel", self.init_kernel, inputs, self.features)
        if not self.use_bias:
            return kernel, jnp.zeros((), self.dtype)
        return kernel, array("bias", nn.initializers.zeros, self.features)


def conv1x1(x: Float[Array, "b h w c"], kernel: Float[Array, "c d"]) -> Float[Array, "b h w d"]:
    """Returns the matrix product along channels, as a convolution.

    Next to other convolutions a TPU takes less time for it than for a product, which has another
    layout.
    """
    return convolve(x, kernel[None, None], kernel.dtype)


def multiplied(
    w_s: Float[Array, "c c"], w_m: Float[Array, "c c"], w: Float[Array, "_ c"]
) -> tuple[Float[Array, "c c"], Float[Array, "c c"]]:
    """Returns the matrices of `O = w_f CT(F) + w_r R`, of those of a sum or a concatenation."""
    width = w.shape[1]
    # The first rows of W meet F and the last meet R: all of them in the sum.
    return w_s @ w[:width], w_m @ w[-width:]


class Fusion(nn.Module):
    """What the variants share: types, initialisation and the bias-free 1x1 convolution.

    Attributes:
      identity_init: start as `O = R` (see the module's text).
    """

    identity_init: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def linear(self, features: int, name: str, identity: Any = None, **kwargs: Any) -> Linear:
        """Returns a 1x1 convolution, started at `identity` under `identity_init`."""
        init = nn.initializers.lecun_normal()
        if self.identity_init and identity is not None:
            init = identity
        return Linear(
            features, init, name=name, dtype=self.dtype, param_dtype=self.param_dtype, **kwargs
        )


class LinearFusion(Fusion):
    """A fusion that is linear in F and in R, and so folds to `O = w_f F + w_r R`.

    It computes that shorter form when it is given `w_f` and `w_r` (see `fold_fusion`) in place of
    `w_s`, `w_m` and `w`; and where there are so many positions that multiplying the matrices first
    takes fewer operations, it does that by itself.
    """

    def fuse(self, guidance: Array, features: Array, *, concatenate: bool) -> Array:
        """Returns `W join(W_s CT(F), W_m R)`, or the folded form; called in a compact method."""
        width = features.shape[-1]
        guidance, features = guidance.astype(self.dtype), features.astype(self.dtype)
        if self.has_variable("params", "w_f"):
            w_f = self.linear(width, "w_f").kernel(guidance.shape[-1])
            w_r = self.linear(width, "w_r").kernel(width)
            return conv1x1(features, w_r) + conv1x1(guidance, w_f)
        w_s = self.linear(width, "w_s", nn.initializers.zeros).kernel(width)
        w_m = self.linear(width, "w_m", identity_kernel).kernel(width)
        w = self.linear(width, "w", identity_kernel).kernel((1 + concatenate) * width)
        if features.size // width > 2 * width:  # positions: by each two products instead of three
            w_f, w_r = multiplied(w_s, w_m, w)
            if guidance.shape[-1] != width:
                transform = channel_interpolation(guidance.shape[-1], width)
                w_f = jnp.asarray(transform, self.dtype) @ w_f
            return conv1x1(features, w_r) + conv1x1(guidance, w_f)
        guide = conv1x1(channel_transform(guidance, width), w_s)
        main = conv1x1(features, w_m)
        joined = jnp.concatenate([guide, main], axis=-1) if concatenate else guide + main
        return conv1x1(joined, w)


class SumFusion(LinearFusion):
    """Element-wise sum, `O = W (W_s CT(F) + W_m R)` (Eq. 2)."""

    @nn.compact
    def __call__(
        self,
        guidance: Float[Array, "b h w f"],
        features: Float[Array, "b h w c"],
    ) -> Float[Array, "b h w _"]:
        """Fuses `guidance` (F) into `features` (R)."""
        return self.fuse(guidance, features, concatenate=False)


class ConcatFusion(LinearFusion):
    """Concatenation, `O = W [W_s CT(F); W_m R]` (Eq. 4)."""

    @nn.compact
    def __call__(
        self,
        guidance: Float[Array, "b h w f"],
        features: Float[Array, "b h w c"],
    ) -> Float[Array, "b h w _"]:
        """Fuses `guidance` (F) into `features` (R)."""
        return self.fuse(guidance, features, concatenate=True)


class ProductFusion(Fusion):
    """Residual product, `O = LN((W_s CT(F)) * (W_m R) + R)` (Eq. 3), LN over channels."""

    @nn.compact
    def __call__(
        self,
        guidance: Float[Array, "b h w f"],
        features: Float[Array, "b h w c"],
    ) -> Float[Array, "b h w c"]:
        """Fuses `guidance` (F) into `features` (R).

        Raises:
          ValueError: `identity_init` is set, which a layer norm makes impossible.
        """
        if self.identity_init:
            raise ValueError(
                "the product fusion ends in a layer norm and cannot start as the identity: use "
                'fusion_init="default", or one of the fusions sum, concat, attention'
            )
        c = features.shape[-1]
        guide = self.linear(c, "w_s")(channel_transform(guidance, c))
        main = self.linear(c, "w_m")(features)
        norm = nn.LayerNorm(epsilon=1e-5, name="norm", param_dtype=self.param_dtype)
        return in_float32(norm, self.dtype)(guide * main + features)


class AttentionFusion(Fusion):
    """Gated addition, `O = R + sigmoid(W_g [CT(F); R] + b) * W_s CT(F)`.

    Beyond the paper, which names attention as future work (section 5). The gate has one value per
    pixel and channel, and lets detail in only where it helps.
    """

    @nn.compact
    def __call__(
        self,
        guidance: Float[Array, "b h w f"],
        features: Float[Array, "b h w c"],
    ) -> Float[Array, "b h w c"]:
        """Fuses `guidance` (F) into `features` (R)."""
        c = features.shape[-1]
        guidance = channel_transform(guidance, c)
        both = jnp.concatenate([guidance, features.astype(guidance.dtype)], axis=-1)
        gate = nn.sigmoid(self.linear(c, "w_g", use_bias=True)(both))
        return features + gate * self.linear(c, "w_s", nn.initializers.zeros)(guidance)


FUSIONS: dict[str, type[Fusion]] = {
    "sum": SumFusion,
    "product": ProductFusion,
    "concat": ConcatFusion,
    "attention": AttentionFusion,
}
