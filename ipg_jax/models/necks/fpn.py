"""The feature pyramid network (Lin et al., 2017)."""

from __future__ import annotations

from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.kernels import relu, subsample
from ipg_jax.layers import Conv, NormKind, kaiming_uniform, norm_layer
from ipg_jax.types import Array


def upsample_add(
    lateral: Float[Array, "b h w c"], above: Float[Array, "b _ _ c"]
) -> Float[Array, "b h w c"]:
    """Returns `lateral` plus `above`, which is repeated to its size (nearest neighbour).

    Sizes of `above` are half of those of `lateral`, rounded up, or equal: that is torch's nearest
    interpolation to the size of `lateral`.
    """
    b, h, w, c = above.shape
    rows, columns = (
        1 + (size != other) for size, other in zip(lateral.shape[1:3], (h, w), strict=True)
    )
    repeated = jnp.broadcast_to(above[:, :, None, :, None], (b, h, rows, w, columns, c))
    repeated = repeated.reshape(b, h * rows, w * columns, c)
    return lateral + repeated[:, : lateral.shape[1], : lateral.shape[2]]


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
            x = Conv(self.channels, size, **options)(x)
            if self.norm == "none":
                return x
            return norm_layer(self.norm, **types)(name=f"{name}_bn")(x, train=train)

        levels = [int(name[1:]) for name in self.in_features]
        inputs = dict(zip(levels, (features[name] for name in self.in_features), strict=True))

        outputs, above = {}, None
        for level in reversed(levels):
            x = normalized(inputs[level], 1, f"lateral{level}")
            if above is not None:
                x = upsample_add(x, above)
            outputs[level] = normalized(x, 3, f"output{level}")
            above = x

        last = levels[-1]
        if self.extra_source not in ("c", "p", "pool"):
            raise ValueError(f"extra_source is c, p or pool, not {self.extra_source!r}")
        x = inputs[last] if self.extra_source == "c" else outputs[last]
        for level in range(last + 1, last + 1 + self.extra_levels):
            if self.extra_source == "pool":
                x = subsample(jnp.asarray(x))
            else:
                x = relu(x) if level > last + 1 else x
                x = Conv(self.channels, 3, strides=2, name=f"extra{level}", **kwargs)(x)
            outputs[level] = x
        return tuple(outputs[level] for level in sorted(outputs))
