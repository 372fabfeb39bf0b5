"""Initial values, named after torch's."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.types import Array

kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")
"""torch's `kaiming_normal_(mode="fan_out", nonlinearity="relu")`, of torchvision's ResNet."""

kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")
"""torch's `kaiming_uniform_(a=1)`, of torchvision's FPN."""

linear_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")
"""torch's `kaiming_uniform_(a=sqrt(5))`, its default of linear layers."""

small_normal = nn.initializers.normal(0.01)
"""A normal distribution with a deviation of 0.01, of dense heads."""


def identity_matrix(
    key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32
) -> Float[Array, "i o"]:
    """Initialises a matrix `[n * c, c]` with `n` identities on top of each other."""
    del key
    rows, columns = shape
    return jnp.tile(jnp.eye(columns, dtype=dtype), (rows // columns, 1))
