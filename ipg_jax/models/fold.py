"""Folding of trained fusions into fewer matrix products, for inference."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ipg_jax.models.fusion import channel_interpolation
from ipg_jax.types import Array, PyTree


def fold_fusion(variables: PyTree) -> PyTree:
    """Returns variables whose sum and concatenation fusions are folded to `O = w_f F + w_r R`.

    Both are linear maps of F and R, so that their matrices multiply out (row vectors, as in Flax):

        sum     w_f = CT W_s W        w_r = W_m W
        concat  w_f = CT W_s W_top    w_r = W_m W_bottom

    The same model takes the result, `task.predict(fold_fusion(variables), ...)`, and gives the same
    outputs up to rounding with fewer multiplications. Products and attention are not linear and
    stay as they are. The matrices are multiplied on the host in float64. To go on training, keep
    the variables as they were: the factors cannot be had back.

    Args:
      variables: `{"params": ..., ...}` of any module with a `GuidedResNet` inside; not changed.

    Raises:
      ValueError: nothing in there folds.
    """
    if "params" not in variables:
        raise ValueError(f'fold_fusion takes {{"params": ...}}, not a tree of {sorted(variables)}')
    folded: list[str] = []
    others: list[str] = []

    def walk(tree: Mapping[str, Any], path: str) -> dict[str, Any]:
        result = {}
        for name, node in tree.items():
            if name.startswith("fusion") and name[6:].isdigit():
                linear = {"w_s", "w_m", "w"} == set(node)
                (folded if linear else others).append(path + name)
                result[name] = _fold(node, _width(tree[f"ipg{name[6:]}"])) if linear else node
            else:
                result[name] = walk(node, f"{path}{name}/") if isinstance(node, Mapping) else node
        return result

    params = walk(variables["params"], "")
    if not folded:
        raise ValueError(
            "nothing to fold: sum and concat fusions fold, product and attention are not linear; "
            f"the fusions here are {others or 'none'}"
        )
    return {**variables, "params": params}


def _width(ipg: PyTree) -> int:
    """Returns the width of the pyramid feature F from the parameters of its `IPGTransform`."""
    return ipg["block0"]["conv3"]["kernel"].shape[-1]


def _fold(fusion: PyTree, guidance_width: int) -> PyTree:
    """Returns `w_f` and `w_r` of one fusion."""
    w_s, w_m, w = (np.asarray(fusion[k]["kernel"], np.float64) for k in ("w_s", "w_m", "w"))
    width = w.shape[1]
    # The last `width` rows of W meet R and the first meet F: all of them for the sum, one half each
    # for the concatenation.
    transform = channel_interpolation(guidance_width, width).astype(np.float64)
    w_f = transform @ w_s @ w[:width]
    w_r = w_m @ w[-width:]

    def dense(kernel: np.ndarray) -> dict[str, Array]:
        return {"kernel": jnp.asarray(kernel, fusion["w"]["kernel"].dtype)}

    return {"w_f": dense(w_f), "w_r": dense(w_r)}
