"""Activations that the backward pass computes again instead of keeping them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, TypeAlias

import flax.linen as nn

from ipg_jax.types import PyTree

Remat: TypeAlias = Literal["none", "stages", "full"]
"""What is computed again: nothing; what is inside a stage; and what is inside each of its blocks.
"""


def maybe_remat(
    function: Callable[..., PyTree], module: nn.Module, *args: PyTree, enabled: bool
) -> PyTree:
    """Returns `function(module, *args)`, of which only the arguments are kept for the gradient.

    Names and values of variables are those of a plain call.

    Args:
      function: what to call; it may make submodules of `module`.
      module: whose variables it uses.
      *args: arrays.
      enabled: false for the plain call.
    """
    return (nn.remat(function) if enabled else function)(module, *args)
