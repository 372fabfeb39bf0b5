"""Normalisation layers of the backbones, chosen by name."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias, get_args

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.types import Array

NormKind: TypeAlias = Literal["frozen_batch_norm", "batch_norm", "group_norm"]


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed statistics and fixed affine parameters.

    All four vectors live in the `batch_stats` collection, out of the optimizer's reach, as in
    torchvision's `FrozenBatchNorm2d`. They start as the identity.
    """

    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, x: Float[Array, "*b h w c"]) -> Float[Array, "*b h w c"]:
        """Returns `(x - mean) / sqrt(var + epsilon) * scale + bias`, in `dtype`."""
        multiplier, offset = self.affine(x.shape[-1])
        return x.astype(self.dtype) * multiplier.astype(self.dtype) + offset.astype(self.dtype)

    @nn.compact
    def affine(self, channels: int) -> tuple[Float[Array, " c"], Float[Array, " c"]]:
        """Returns the multiplier and the offset that the norm comes to, in float32."""

        def stat(name: str, init: Callable[..., jax.Array]) -> jax.Array:
            return self.variable("batch_stats", name, init, (channels,), self.param_dtype).value

        scale, bias = stat("scale", jnp.ones), stat("bias", jnp.zeros)
        mean, var = stat("mean", jnp.zeros), stat("var", jnp.ones)
        # Computed before the features are touched, which then takes one multiply-add in `dtype`.
        multiplier = scale * jax.lax.rsqrt(var + self.epsilon)
        return multiplier, bias - mean * multiplier


def in_float32(layer: nn.Module, dtype: Any) -> Callable[..., Array]:
    """Returns `layer` applied to float32 input, its result cast to `dtype`.

    Flax's norms promote mixed types implicitly, which strict promotion forbids. XLA fuses the
    casts.
    """
    return lambda x, **kwargs: layer(x.astype(jnp.float32), **kwargs).astype(dtype)


def norm_blocks(
    norm: Callable[..., Array], x: Float[Array, "b h w d"], features: int
) -> Float[Array, "b h w d"]:
    """Returns `x`, whose channels are the features of several pixels, after a norm of features."""
    return norm(x.reshape(*x.shape[:3], -1, features)).reshape(x.shape)


def norm_factory(
    kind: NormKind, *, train: bool, dtype: Any, param_dtype: Any
) -> Callable[..., Callable[..., Array]]:
    """Returns a constructor of norm layers: `norm_factory(...)(name="bn1")(x)`.

    Batch and group norm also take `mask`, broadcast to `x`: what it leaves out does not count in
    the statistics.

    Args:
      kind: `frozen_batch_norm` (fixed statistics), `batch_norm` (statistics over the global batch
        when the step is jitted over a mesh, i.e. synchronised; momentum 0.9 in Flax's sense, 0.1 in
        torch's) or `group_norm` (32 groups).
      train: whether `batch_norm` normalises by the batch and updates its running statistics.
      dtype: type of the result. Statistics are always computed in float32.
      param_dtype: type of the parameters.

    Raises:
      ValueError: `kind` is none of the three.
    """
    types = {"dtype": jnp.float32, "param_dtype": param_dtype}
    if kind == "frozen_batch_norm":
        return functools.partial(FrozenBatchNorm, dtype=dtype, param_dtype=param_dtype)
    if kind == "batch_norm":
        return lambda name: in_float32(
            nn.BatchNorm(
                use_running_average=not train, momentum=0.9, epsilon=1e-5, name=name, **types
            ),
            dtype,
        )
    if kind == "group_norm":
        return lambda name: in_float32(
            nn.GroupNorm(num_groups=32, epsilon=1e-5, name=name, **types), dtype
        )
    raise ValueError(f"norm is one of {get_args(NormKind)}, not {kind!r}")
