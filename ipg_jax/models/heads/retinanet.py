"""The RetinaNet head (Lin et al., "Focal Loss for Dense Object Detection", 2017)."""

from __future__ import annotations

import functools
import math
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.kernels import relu
from ipg_jax.layers import Conv, maybe_remat, norm_layer, small_normal
from ipg_jax.types import Array


class DenseOutputs(NamedTuple):
    """Outputs of a dense head for one feature level; anchors run over y, x, then those there.

    Attributes:
      logits: `[B, H * W * A, num_classes]`, before the sigmoid.
      deltas: `[B, H * W * A, 4]`.
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
            x = Conv(
                self.channels,
                3,
                use_bias=self.norm == "none",
                kernel_init=small_normal,
                name=f"conv{i}",
                **types,
            )(x)
            if self.norm == "group_norm":
                x = norm_layer("group_norm", **types)(name=f"norm{i}")(x)
            x = relu(x)
        return x


class RetinaNetHead(nn.Module):
    """Two towers of convolutions, shared by all levels, for classes and for boxes.

    Outputs are float32 in prediction: in bfloat16 many of the best scores would be equal. In
    training, where that does not matter, they are in `dtype`, which takes half of the memory.

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

    @nn.compact
    def __call__(
        self, features: tuple[Float[Array, "b _ _ c"], ...], *, train: bool = False
    ) -> tuple[DenseOutputs, ...]:
        """Returns logits and deltas per level, in the order of `features`.

        Args:
          features: the neck's outputs.
          train: whether the outputs go to a loss.
        """
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        make_tower = functools.partial(
            ConvTower, num_convs=self.num_convs, channels=self.channels, norm=self.norm, **types
        )
        options = {"use_bias": True, "kernel_init": small_normal, **types}
        if not train:
            options["dtype"] = jnp.float32
        class_tower, box_tower = make_tower(name="class_tower"), make_tower(name="box_tower")
        prior = nn.initializers.constant(-math.log((1 - self.prior) / self.prior))
        classes = self.num_anchors * self.num_classes
        class_logits = Conv(classes, 3, bias_init=prior, name="class_logits", **options)
        box_deltas = Conv(self.num_anchors * 4, 3, name="box_deltas", **options)

        def run(tower: nn.Module, x: Array) -> Array:
            return maybe_remat(lambda tower, x: tower(x), tower, x, enabled=self.remat)

        def level(x: Array) -> DenseOutputs:
            logits, deltas = class_logits(run(class_tower, x)), box_deltas(run(box_tower, x))
            images = x.shape[0]  # may be symbolic, which len() refuses
            return DenseOutputs(
                logits.reshape(images, -1, self.num_classes), deltas.reshape(images, -1, 4)
            )

        return tuple(level(x) for x in features)
