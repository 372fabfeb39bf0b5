"""The feature pyramid network (Lin et al., 2017)."""

from __future__ import annotations

import itertools
from typing import Any, Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.models.norm import NormKind, norm_factory
from ipg_jax.models.relu import relu
from ipg_jax.models.resnet import conv
from ipg_jax.types import Array

# torch's kaiming_uniform_(a=1), torchvision's choice for the FPN
kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")


def upsample_nearest(
    x: Float[Array, "b h w c"], size: tuple[int, int]
) -> Float[Array, "b {size[0]} {size[1]} c"]:
    """Returns `x` repeated to twice its size, less the last row or column where `size` is odd.

    That equals torch's nearest interpolation to `size`, for sizes `2h` and `2h - 1`; features of
    the same size (stages that keep the resolution) pass unchanged.
    """
    height, width = size
    x = _repeated(x, 1 + (x.shape[1] != height), 1 + (x.shape[2] != width))
    return x[:, :height, :width]


def _repeat(x: Array, rows: int, columns: int) -> Array:
    b, h, w, c = x.shape
    x = jnp.broadcast_to(x[:, :, None, :, None], (b, h, rows, w, columns, c))
    return x.reshape(b, h * rows, w * columns, c)


def _sum_of_repeats(rows: int, columns: int, _: None, gradient: Array) -> tuple[Array]:
    """Adds slices, of which a TPU makes one pass; two reductions take nine times as long."""
    b, h, w, c = gradient.shape
    parts = gradient.reshape(b, h // rows, rows, w // columns, columns, c)
    total = jnp.zeros((b, h // rows, w // columns, c), jnp.float32)
    for i, j in itertools.product(range(rows), range(columns)):
        total += parts[:, :, i, :, j].astype(jnp.float32)
    return (total.astype(gradient.dtype),)


_repeated = jax.custom_vjp(_repeat, nondiff_argnums=(1, 2))
_repeated.defvjp(lambda x, rows, columns: (_repeat(x, rows, columns), None), _sum_of_repeats)


class FPN(nn.Module):
    """Lateral 1x1 convolutions, a top-down path of nearest upsampling, 3x3 output convolutions.

    Attributes:
      in_features: the backbone's outputs that are read, finest first, e.g. `("c3", "c4", "c5")`.
      channels: width of all outputs.
      extra_levels: how many coarser levels follow the last output.
      extra_source: what they are made from: `c` (3x3 convolutions of stride 2 from the last
        backbone feature, as in RetinaNet), `p` (the same from the last output) or `pool`
        (stride-2 subsampling of the last output, as in Faster R-CNN).
      norm: `none`, or a norm after each lateral and output convolution.
    """

    in_features: tuple[str, ...] = ("c3", "c4", "c5")
    channels: int = 256
    extra_levels: int = 2
    extra_source: Literal["c", "p", "pool"] = "c"
    norm: Literal["none"] | NormKind = "none"
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: dict[str, Float[Array, "b _ _ _"]], *, train: bool = False
    ) -> tuple[Float[Array, "b _ _ {self.channels}"], ...]:
        """Returns one feature per input and per extra level, finest first.

        Args:
          features: the backbone's outputs; those not in `in_features` are ignored.
          train: whether batch norm uses and updates batch statistics.

        Raises:
          ValueError: `in_features` names a feature that the backbone does not have, or
            `extra_source` is unknown.
        """
        missing = [name for name in self.in_features if name not in features]
        if missing:
            raise ValueError(f"the backbone gives {sorted(features)}, the FPN asks for {missing}")
        types: dict[str, Any] = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        kwargs: dict[str, Any] = {"use_bias": True, "kernel_init": kaiming_uniform, **types}

        def normalized(x: Array, size: int, name: str) -> Array:
            options = kwargs | {"name": name, "use_bias": self.norm == "none"}
            x = conv(self.channels, size, **options)(x)
            if self.norm == "none":
                return x
            return norm_factory(self.norm, train=train, **types)(name=f"{name}_bn")(x)

        levels = [int(name[1:]) for name in self.in_features]
        inputs = dict(zip(levels, (features[name] for name in self.in_features), strict=True))

        outputs, above = {}, None
        for level in reversed(levels):
            x = normalized(inputs[level], 1, f"lateral{level}")
            if above is not None:
                # In float32 a TPU repeats within the lateral convolution; bfloat16 it copies first.
                x, above = x.astype(jnp.float32), above.astype(jnp.float32)
                x = (x + upsample_nearest(above, (x.shape[1], x.shape[2]))).astype(self.dtype)
                if not train:  # which keeps it for the gradient
                    # Or a TPU makes it again for each tile of the output convolution.
                    x = jax.lax.optimization_barrier(x)
            outputs[level] = normalized(x, 3, f"output{level}")
            above = x

        last = levels[-1]
        if self.extra_source not in ("c", "p", "pool"):
            raise ValueError(f"extra_source is c, p or pool, not {self.extra_source!r}")
        x = inputs[last] if self.extra_source == "c" else outputs[last]
        for level in range(last + 1, last + 1 + self.extra_levels):
            if self.extra_source == "pool":
                x = x[:, ::2, ::2]
            else:
                x = relu(x) if level > last + 1 else x
                name = f"extra{level}"
                x = conv(self.channels, 3, strides=2, name=name, **kwargs)(x)
            outputs[level] = x
        return tuple(outputs[level] for level in sorted(outputs))
