"""The RetinaNet head (Lin et al., "Focal Loss for Dense Object Detection", 2017)."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.models.convolution import add_bias, convolve, with_shared_kernels
from ipg_jax.models.norm import norm_factory
from ipg_jax.models.relu import relu
from ipg_jax.models.remat import recomputed
from ipg_jax.models.resnet import conv
from ipg_jax.types import Array

small_normal = nn.initializers.normal(0.01)


class DenseOutputs(NamedTuple):
    """What a dense head says of one feature level; anchors run over y, x, then the anchors there.

    Attributes:
      logits: `[B, H * W * A, num_classes]`, before the sigmoid, in the head's `dtype`.
      deltas: `[B, H * W * A, 4]`, in the head's `dtype`.
    """

    logits: Float[Array, "b n k"]
    deltas: Float[Array, "b n 4"]


class ConvTower(nn.Module):
    """Convolutions of 3x3, each followed by an optional group norm and a ReLU."""

    num_convs: int
    channels: int
    norm: Literal["none", "group_norm"] = "none"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w d"]:
        """Returns `channels` features of the same size."""
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i in range(self.num_convs):
            x = conv(
                self.channels,
                3,
                use_bias=self.norm == "none",
                kernel_init=small_normal,
                name=f"conv{i}",
                **types,
            )(x)
            if self.norm == "group_norm":
                x = norm_factory("group_norm", train=False, **types)(name=f"norm{i}")(x)
            x = relu(x)
        return x


class OutputConv(nn.Module):
    """A 3x3 convolution with bias, whose output nothing follows but a loss.

    Attributes:
      features: output channels.
      bias: initial value of the bias.
    """

    features: int
    bias: float = 0.0
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w f"]:
        """Returns the convolution of `x`, which keeps the size."""
        shape = (3, 3, x.shape[-1], self.features)
        kernel = self.param("kernel", small_normal, shape, self.param_dtype)
        init_bias = nn.initializers.constant(self.bias)
        bias = self.param("bias", init_bias, (self.features,), self.param_dtype)
        return add_bias(convolve(x, kernel, self.dtype), bias.astype(self.dtype))


class RetinaNetHead(nn.Module):
    """Two towers of convolutions, shared by all levels, for classes and for boxes.

    Attributes:
      num_classes: number of classes; each has a sigmoid of its own, there is no background logit.
      num_anchors: anchors per position.
      channels: width of the towers.
      num_convs: convolutions in each tower.
      norm: `none`, or `group_norm` with 32 groups after each convolution of the towers.
      prior: initial probability of every class, through the bias of the last layer.
      remat: whether the backward pass computes the towers again.
    """

    num_classes: int
    num_anchors: int = 9
    channels: int = 256
    num_convs: int = 4
    norm: Literal["none", "group_norm"] = "none"
    prior: float = 0.01
    remat: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    def __call__(self, features: tuple[Float[Array, "b _ _ c"], ...]) -> tuple[DenseOutputs, ...]:
        """Returns logits and deltas per level, in the order of `features`."""
        outputs: tuple[DenseOutputs, ...] = with_shared_kernels(
            RetinaNetHead._outputs, self, features, dtype=self.dtype
        )
        return outputs

    @nn.compact
    def _outputs(self, features: tuple[Array, ...]) -> tuple[DenseOutputs, ...]:
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        tower = {"num_convs": self.num_convs, "channels": self.channels, "norm": self.norm, **types}
        class_tower = ConvTower(name="class_tower", **tower)
        box_tower = ConvTower(name="box_tower", **tower)
        class_logits = OutputConv(
            self.num_anchors * self.num_classes,
            bias=-math.log((1 - self.prior) / self.prior),
            name="class_logits",
            **types,
        )
        box_deltas = OutputConv(self.num_anchors * 4, name="box_deltas", **types)

        def flatten(x: Array, width: int) -> Array:
            return x.reshape(x.shape[0], -1, width)

        def climbed(tower: nn.Module, x: Array) -> Array:
            return recomputed(lambda tower, x: tower(x), tower, x, enabled=self.remat)

        return tuple(
            DenseOutputs(
                flatten(class_logits(climbed(class_tower, x)), self.num_classes),
                flatten(box_deltas(climbed(box_tower, x)), 4),
            )
            for x in features
        )
