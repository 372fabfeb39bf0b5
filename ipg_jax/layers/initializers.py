"""Initial values, named after torch's."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.types import Array

# kaiming_normal_(mode="fan_out", nonlinearity="relu"): torchvision's ResNet
kaiming_normal = nn.initializers.variance_scaling(2.0, "fan_out", "normal")

# kaiming_uniform_(a=1): torchvision's FPN
kaiming_uniform = nn.initializers.variance_scaling(1.0, "fan_in", "uniform")

# kaiming_uniform_(a=sqrt(5)): torch's default of linear layers
linear_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")

small_normal = nn.initializers.normal(0.01)


def identity_matrix(
    key: jax.Array, shape: tuple[int, int], dtype: Any = jnp.float32
) -> Float[Array, "i o"]:
    """Initialises a matrix `[n * c, c]` with `n` identities on top of each other."""
    del key
    rows, columns = shape
    return jnp.tile(jnp.eye(columns, dtype=dtype), (rows // columns, 1))
