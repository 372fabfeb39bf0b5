"""What lies between backbone and head, by name; CONTRIBUTING says how to add one."""

from collections.abc import Callable

import flax.linen as nn

from ipg_jax.models.necks.fpn import FPN

NECKS: dict[str, Callable[..., nn.Module]] = {"fpn": FPN}

__all__ = ["FPN", "NECKS"]
