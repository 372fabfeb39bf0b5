"""The RetinaNet head (Lin et al., "Focal Loss for Dense Object Detection", 2017)."""

from __future__ import annotations

import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.models.convolution import with_shared_kernels
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
        last = {"use_bias": True, "kernel_init": small_normal, **types}
        prior_bias = nn.initializers.constant(-math.log((1 - self.prior) / self.prior))
        class_logits = conv(
            self.num_anchors * self.num_classes,
            3,
            bias_init=prior_bias,
            name="class_logits",
            **last,
        )
        box_deltas = conv(self.num_anchors * 4, 3, name="box_deltas", **last)

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
