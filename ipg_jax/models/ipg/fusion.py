"""The IPG fusion modules: `O_i = beta(F_i, R_i)` (paper, section 3.5).

`F` is the feature of the image pyramid, `R` the backbone's. Every variant maps `F` to the width of
`R` by the channel transform `CT` and keeps the size and width of `R`.

With `identity_init=True` a fusion starts as exactly `O = R`, so that a trained plain backbone which
is given guidance returns the same values before its first step. An accelerator's products would
round R (to 11 bits in TF32): no product with an identity is taken, R is added. The residual product
cannot start so: it ends in a layer norm.
"""

from __future__ import annotations

from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.typing import Initializer
from jaxtyping import Float

from ipg_jax.kernels import conv2d
from ipg_jax.layers import LayerNorm, identity_matrix
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


def conv1x1(x: Float[Array, "b h w c"], matrix: Float[Array, "c d"]) -> Float[Array, "b h w d"]:
    """Returns the product along channels as a convolution, whose layout is that of its like."""
    return conv2d(x, matrix[None, None])


def multiply_first(
    w_s: Float[Array, "c c"], w_m: Float[Array, "c c"], w: Float[Array, "_ c"]
) -> tuple[Float[Array, "c c"], Float[Array, "c c"]]:
    """Returns `w_f` and `w_r` of `O = w_f CT(F) + w_r R`, of the matrices of Eq. 2 or Eq. 4."""
    width = w.shape[1]
    # The first rows of W meet F and the last meet R: all of them in the sum.
    return w_s @ w[:width], w_m @ w[-width:]


class Fusion(nn.Module):
    """What the variants share.

    Attributes:
      has_identity: whether the variant can start as `O = R`.
      identity_init: start so (see the module's text).
    """

    has_identity: ClassVar[bool] = False
    identity_init: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def dense(self, features: int, name: str, **kwargs: Any) -> nn.Dense:
        """Returns a 1x1 convolution."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        return nn.Dense(features, name=name, **types, **kwargs)


class Matrix(nn.Module):
    """The kernel of a `flax.linen.Dense` by itself, to be multiplied with others."""

    shape: tuple[int, int]
    init_kernel: Initializer
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> Float[Array, "i o"]:
        """Returns the matrix in `dtype`."""
        kernel = self.param("kernel", self.init_kernel, self.shape, self.param_dtype)
        return kernel.astype(self.dtype)


class LinearFusion(Fusion):
    """A fusion `O = W join(W_s CT(F), W_m R)`, which is linear in F and in R.

    Given `w_f` and `w_r` in place of the three matrices (`fold_fusion`) it is `O = w_f F + w_r R`.
    """

    has_identity = True
    concatenate: ClassVar[bool]

    @nn.compact
    def __call__(
        self, guidance: Float[Array, "b h w f"], features: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w _"]:
        """Fuses `guidance` (F) into `features` (R)."""
        f, c = guidance.shape[-1], features.shape[-1]
        guidance, features = guidance.astype(self.dtype), features.astype(self.dtype)
        if self.has_variable("params", "w_f"):
            w_f, w_r = self.matrix("w_f", (f, c)), self.matrix("w_r", (c, c))
            return self.project(features, w_r) + conv1x1(guidance, w_f)
        w_s = self.matrix("w_s", (c, c), nn.initializers.zeros)
        w_m = self.matrix("w_m", (c, c), identity_matrix)
        w = self.matrix("w", ((1 + self.concatenate) * c, c), identity_matrix)
        b, height, width, _ = features.shape
        images = 1 if jax.export.is_symbolic_dim(b) else b  # an export is for any number of them
        if images * height * width > 2 * c:  # then two products by each position are less work
            w_f, w_r = multiply_first(w_s, w_m, w)
            if f != c:
                w_f = jnp.asarray(channel_interpolation(f, c), self.dtype) @ w_f
            return self.project(features, w_r) + conv1x1(guidance, w_f)
        guide = conv1x1(channel_transform(guidance, c), w_s)
        main = self.project(features, w_m)
        if self.concatenate:
            return self.project(main, w[c:]) + conv1x1(guide, w[:c])
        return self.project(guide + main, w)

    def project(
        self, x: Float[Array, "b h w c"], matrix: Float[Array, "c c"]
    ) -> Float[Array, "b h w c"]:
        """Returns the product of `x` and a matrix that `identity_init` starts as the identity `I`.

        With it that is `x + x (matrix - I)`: the same but for rounding, and at the start exactly
        `x`, in any precision of products, forward and backward.
        """
        if not self.identity_init:
            return conv1x1(x, matrix)
        return x + conv1x1(x, matrix - jnp.eye(matrix.shape[0], dtype=matrix.dtype))

    def matrix(
        self, name: str, shape: tuple[int, int], identity: Initializer | None = None
    ) -> Float[Array, "i o"]:
        """Returns a matrix, started at `identity` under `identity_init`."""
        init = nn.initializers.lecun_normal()
        if self.identity_init and identity is not None:
            init = identity
        return Matrix(shape, init, self.dtype, self.param_dtype, name=name)()


class SumFusion(LinearFusion):
    """Element-wise sum, `O = W (W_s CT(F) + W_m R)` (Eq. 2)."""

    concatenate = False


class ConcatFusion(LinearFusion):
    """Concatenation, `O = W [W_s CT(F); W_m R]` (Eq. 4)."""

    concatenate = True


class ProductFusion(Fusion):
    """Residual product, `O = LN((W_s CT(F)) * (W_m R) + R)` (Eq. 3), LN over channels."""

    @nn.compact
    def __call__(
        self, guidance: Float[Array, "b h w f"], features: Float[Array, "b h w c"]
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
        guide = self.dense(c, "w_s", use_bias=False)(channel_transform(guidance, c))
        main = self.dense(c, "w_m", use_bias=False)(features)
        norm = LayerNorm(1e-5, dtype=self.dtype, param_dtype=self.param_dtype, name="norm")
        return norm(guide * main + features)


class AttentionFusion(Fusion):
    """Gated addition, `O = R + sigmoid(W_g [CT(F); R] + b) * W_s CT(F)`.

    Beyond the paper, which names attention as future work (section 5). The gate has one value per
    pixel and channel, and lets detail in only where it helps.
    """

    has_identity = True

    @nn.compact
    def __call__(
        self, guidance: Float[Array, "b h w f"], features: Float[Array, "b h w c"]
    ) -> Float[Array, "b h w c"]:
        """Fuses `guidance` (F) into `features` (R)."""
        c = features.shape[-1]
        guidance = channel_transform(guidance, c)
        both = jnp.concatenate([guidance, features.astype(guidance.dtype)], axis=-1)
        gate = nn.sigmoid(self.dense(c, "w_g")(both))
        init = nn.initializers.zeros if self.identity_init else nn.initializers.lecun_normal()
        return features + gate * self.dense(c, "w_s", use_bias=False, kernel_init=init)(guidance)


FUSIONS: dict[str, type[Fusion]] = {
    "sum": SumFusion,
    "product": ProductFusion,
    "concat": ConcatFusion,
    "attention": AttentionFusion,
}
"""Fusions by name; CONTRIBUTING says how to add one."""
