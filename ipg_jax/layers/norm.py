"""Normalisation layers, in float32 whatever the types of input and output."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable
from typing import Any, Literal, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ipg_jax.types import Array, PackedFeatures

NormKind: TypeAlias = Literal["frozen_batch_norm", "batch_norm", "group_norm"]
"""The norms that a config may name."""


class FrozenBatchNorm(nn.Module):
    """Batch norm with fixed statistics and fixed affine parameters.

    All four vectors live in the `batch_stats` collection, out of the optimizer's reach, as in
    torchvision's `FrozenBatchNorm2d`. They start as the identity.
    """

    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "*b c"] | PackedFeatures,
        *,
        train: bool = False,
        mask: Bool[jax.Array, ...] | None = None,
    ) -> Float[Array, "*b c"] | PackedFeatures:
        """Returns `(x - mean) / sqrt(var + epsilon) * scale + bias`, in `dtype`."""
        del train, mask
        channels = x.features if isinstance(x, PackedFeatures) else x.shape[-1]

        def stat(name: str, init: Callable[..., jax.Array]) -> jax.Array:
            return self.variable("batch_stats", name, init, (channels,), self.param_dtype).value

        scale, bias = stat("scale", jnp.ones), stat("bias", jnp.zeros)
        mean, var = stat("mean", jnp.zeros), stat("var", jnp.ones)
        # Computed before the features are touched, which then takes one multiply-add in `dtype`.
        multiplier = scale * jax.lax.rsqrt(var + self.epsilon)
        offset = bias - mean * multiplier

        def affine(x: Array) -> Array:
            return x.astype(self.dtype) * multiplier.astype(self.dtype) + offset.astype(self.dtype)

        if not isinstance(x, PackedFeatures):
            return affine(x)
        return jax.tree.map(
            lambda row: affine(row.reshape(*row.shape[:3], -1, channels)).reshape(row.shape), x
        )


class BatchNorm(nn.Module):
    """Batch norm with torch's momentum of 0.1 (in Flax's terms, 0.9) and epsilon.

    In training, statistics are those of the global batch when the step is jitted over a mesh, of
    its images that count. Where none does, the running statistics stay as they are.

    Attributes:
      momentum: weight of the running statistics beside those of a batch.
      epsilon: added to the variance.
    """

    momentum: float = 0.9
    epsilon: float = 1e-5
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b *n c"] | PackedFeatures,
        *,
        train: bool = False,
        mask: Bool[Array, "b ..."] | None = None,
    ) -> Float[Array, "b *n c"] | PackedFeatures:
        """Returns `x`, normalised by the batch in training and by running statistics else.

        Args:
          x: features.
          train: whether statistics of the batch are used, and the running ones updated.
          mask: which images count, `[b, 1, ..., 1]`; by default all, or those of `counting`.
        """
        shape = (x.features if isinstance(x, PackedFeatures) else x.shape[-1],)
        scale = self.param("scale", nn.initializers.ones, shape, self.param_dtype)
        bias = self.param("bias", nn.initializers.zeros, shape, self.param_dtype)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape, jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape, jnp.float32)

        def normalize(x: Array) -> Array:
            if train:
                mean, var, counts = _statistics(jnp.asarray(x), mask)
                if not self.is_initializing():
                    for running, new in ((running_mean, mean), (running_var, var)):
                        update = self.momentum * running.value + (1 - self.momentum) * new
                        running.value = jnp.where(counts, update, running.value)
            else:
                mean, var = running_mean.value, running_var.value
            y = (x - mean) * (jax.lax.rsqrt(var + self.epsilon) * scale) + bias
            return y.astype(self.dtype)

        return _of_pixels(normalize, x)


def _statistics(
    x: Float[jax.Array, "b *n c"], mask: Bool[Array, "b ..."] | None
) -> tuple[Float[jax.Array, " c"], Float[jax.Array, " c"], Bool[jax.Array, ""]]:
    """Returns mean and variance of the images that count, and whether one does.

    Images are left out of the mean of their moments, which costs nothing. A mask of all pixels
    would be another pass over them, and a count of them in float32.
    """
    pixels = tuple(range(1, x.ndim - 1))
    mean, square = x.mean(pixels), (x**2).mean(pixels)
    images = jnp.ones(len(x), bool) if mask is None else jnp.asarray(mask).reshape(-1)
    counts = images.any()
    images = (images | ~counts)[:, None]  # the moments of nothing would be NaN
    mean, square = mean.mean(0, where=images), square.mean(0, where=images)
    return mean, jnp.maximum(square - mean**2, 0.0), counts


class GroupNorm(nn.GroupNorm):
    """Group norm of 32 groups.

    What `mask`, broadcast to the input, leaves out does not count in the statistics of its image,
    unless that is all of it.
    """

    num_groups: int | None = 32
    epsilon: float = 1e-5

    def __call__(
        self,
        x: Float[Array, "b *n c"] | PackedFeatures,
        *,
        train: bool = False,
        mask: Bool[jax.Array, ...] | None = None,
    ) -> Float[Array, "b *n c"] | PackedFeatures:
        """Returns `x`, normalised by each image and group of channels."""
        del train
        if mask is not None and not isinstance(x, PackedFeatures):
            mask = jnp.broadcast_to(mask, x.shape)
            mask |= ~mask.any(range(1, x.ndim), keepdims=True)  # whose statistics would be NaN
        return _of_pixels(functools.partial(super().__call__, mask=mask), x)


class LayerNorm(nn.LayerNorm):
    """Layer norm over the channels of each position."""

    def __call__(self, x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:  # type: ignore[override]
        """Returns `x`, normalised."""
        return _in_float32(super().__call__, x)


def _in_float32(norm: Callable[[Array], Array], x: Array) -> Array:
    """Returns `norm` of `x`, computed in float32 and given in the norm's type.

    Flax's norms promote types implicitly, which strict promotion forbids.
    """
    with jax.numpy_dtype_promotion("standard"):
        return norm(x.astype(jnp.float32))


def _of_pixels(norm: Callable[[Array], Array], x: Array | PackedFeatures) -> Array | PackedFeatures:
    """Returns `norm` of `x`, for packed features with the channels of pixels."""
    if not isinstance(x, PackedFeatures):
        return _in_float32(norm, x)
    both = jnp.stack([x.upper, x.lower], axis=3)
    pixels = _in_float32(norm, both.reshape(*both.shape[:3], 8, x.features)).reshape(both.shape)
    return PackedFeatures(pixels[..., 0, :], pixels[..., 1, :])


NORMS: dict[str, type[nn.Module]] = {
    "frozen_batch_norm": FrozenBatchNorm,
    "batch_norm": BatchNorm,
    "group_norm": GroupNorm,
}
"""Norms by name; they are called with `train` and, but for the frozen one, heed `mask`."""


def counting(images: Bool[Array, " b"]) -> contextlib.AbstractContextManager[None]:
    """Leaves images out of the statistics of all batch norms that are called in this context.

        with counting(batch.weight > 0):
            model.apply(...)

    Norms that are given a `mask` have that one alone.

    Args:
      images: whether each image of the batch counts.
    """

    def add_mask(call: Callable[..., Any], args: Any, kwargs: Any, context: Any) -> Any:
        if isinstance(context.module, BatchNorm):
            kwargs = {"mask": images[:, None, None, None]} | kwargs
        return call(*args, **kwargs)

    return nn.intercept_methods(add_mask)


def norm_layer(kind: NormKind, **options: Any) -> Callable[..., nn.Module]:
    """Returns the constructor of a norm: `norm_layer(kind, dtype=...)(name="bn1")(x, train=True)`.

    Args:
      kind: a name of `NORMS`.
      **options: attributes of the layer.

    Raises:
      ValueError: there is no such norm.
    """
    if kind not in NORMS:
        raise ValueError(f"norm is one of {', '.join(NORMS)}, not {kind!r}")
    return functools.partial(NORMS[kind], **options)


def packed_norm(norm: Callable[..., nn.Module]) -> Callable[..., Callable[..., Array]]:
    """Returns the same constructor for maps in packed columns."""

    def make(*, name: str) -> Callable[..., Array]:
        layer = norm(name=name)

        def apply(x: Float[Array, "b h w c"], *, train: bool = False) -> Float[Array, "b h w c"]:
            return layer(x.reshape(*x.shape[:3], 2, -1), train=train).reshape(x.shape)

        return apply

    return make
