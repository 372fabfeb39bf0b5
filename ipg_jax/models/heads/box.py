"""The second stage of a detector: class and box of a roi (Girshick, "Fast R-CNN", 2015)."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Bool, Float

from ipg_jax.kernels import relu
from ipg_jax.layers import Conv, linear_uniform, norm_layer, small_normal
from ipg_jax.types import Array


class BoxOutputs(NamedTuple):
    """Outputs of a box head for each roi.

    Attributes:
      logits: float32 `[n, num_classes + 1]`, before the softmax, the background last.
      deltas: float32 `[n, num_classes, 4]`, or `[n, 1, 4]` from a head that is class-agnostic.
    """

    logits: Float[Array, "n k"]
    deltas: Float[Array, "n d 4"]


class BoxHead(nn.Module):
    """Optional 3x3 convolutions, fully connected layers, then class and box.

    Two fully connected layers are Faster R-CNN's head with an FPN; four convolutions with norm and
    one layer are that of torchvision's second version.

    Attributes:
      num_classes: classes without the background.
      num_convs: convolutions before the fully connected layers.
      conv_channels: their width.
      num_fcs: fully connected layers.
      fc_channels: their width.
      norm: `none`, or batch norm after each convolution. Its statistics leave rois out that are
        padding.
      class_agnostic: one box for all classes, as in Cascade R-CNN.
    """

    num_classes: int
    num_convs: int = 0
    conv_channels: int = 256
    num_fcs: int = 2
    fc_channels: int = 1024
    norm: Literal["none", "batch_norm"] = "none"
    class_agnostic: bool = False
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "n h w c"], valid: Bool[Array, " n"], *, train: bool
    ) -> BoxOutputs:
        """Returns logits and deltas of each roi.

        Args:
          x: features of the rois (`ops.multilevel_roi_align`).
          valid: False for rois that are padding.
          train: whether batch norm uses and updates batch statistics.
        """
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        for i in range(self.num_convs):
            bias = self.norm == "none"
            x = Conv(self.conv_channels, 3, use_bias=bias, name=f"conv{i}", **types)(x)
            if self.norm != "none":
                norm = norm_layer(self.norm, **types)(name=f"bn{i}")
                x = norm(x, train=train, mask=valid[:, None, None, None])
            x = relu(x)
        x = x.reshape(x.shape[0], -1)
        for i in range(self.num_fcs):
            x = nn.Dense(self.fc_channels, kernel_init=linear_uniform, name=f"fc{i}", **types)(x)
            x = relu(x)

        def last(features: int, name: str, init: Any) -> Array:
            options = types | {"dtype": jnp.float32}  # in bfloat16 many scores would be equal
            layer = nn.Dense(features, kernel_init=init, name=name, **options)
            return layer(x.astype(jnp.float32))

        boxes = 1 if self.class_agnostic else self.num_classes
        logits = last(self.num_classes + 1, "class_logits", small_normal)
        deltas = last(4 * boxes, "box_deltas", nn.initializers.normal(0.001))
        return BoxOutputs(logits, deltas.reshape(-1, boxes, 4))
