"""Folding of trained fusions into fewer matrix products, for inference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np

from ipg_jax.models.ipg.fusion import channel_interpolation, multiply_first
from ipg_jax.types import PyTree

_LINEAR = "w_s", "w_m", "w"
"""Parameters of a fusion that folds."""


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
      variables: `{"params": ..., ...}` of any module with an `IPGNet` inside; not changed.

    Raises:
      ValueError: nothing in there folds.
    """
    if "params" not in variables:
        raise ValueError(f'fold_fusion takes {{"params": ...}}, not a tree of {sorted(variables)}')
    params = flax.core.unfreeze(variables["params"])  # new dicts, the same arrays
    linear, others = 0, []
    for path, stage, backbone in _fusions(params):
        fusion = backbone[f"fusion{stage}"]
        if set(fusion) != set(_LINEAR):
            others.append(path)
            continue
        linear += 1
        guidance_width = backbone[f"ipg{stage}"]["block0"]["conv3"]["kernel"].shape[-1]
        w_f, w_r = _folded(fusion, guidance_width)
        dtype = fusion["w"]["kernel"].dtype
        backbone[f"fusion{stage}"] = {
            "w_f": {"kernel": jnp.asarray(w_f, dtype)},
            "w_r": {"kernel": jnp.asarray(w_r, dtype)},
        }
    if not linear:
        raise ValueError(
            "nothing to fold: sum and concat fusions fold, product and attention are not linear; "
            f"the fusions here are {others or 'none'}"
        )
    return {**variables, "params": params}


def _fusions(tree: dict[str, Any], path: str = "") -> Iterator[tuple[str, int, dict[str, Any]]]:
    """Yields each fusion's path and stage, and the backbone it is in."""
    for name, node in tree.items():
        if name.startswith("fusion") and name[6:].isdigit():
            yield path + name, int(name[6:]), tree
        elif isinstance(node, dict):
            yield from _fusions(node, f"{path}{name}/")


def _folded(fusion: PyTree, guidance_width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `w_f` and `w_r` of one fusion."""
    w_f, w_r = multiply_first(*(np.asarray(fusion[name]["kernel"], np.float64) for name in _LINEAR))
    transform = channel_interpolation(guidance_width, w_f.shape[0])
    return transform.astype(np.float64) @ w_f, np.asarray(w_r)
