"""Folding of trained fusions into fewer matrix products, for inference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import flax
import jax.numpy as jnp
import numpy as np

from ipg_jax.models.fusion import JOINED, channel_interpolation
from ipg_jax.types import PyTree


def fold_fusion(variables: PyTree, *, into_readers: bool = False) -> PyTree:
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
      into_readers: whether to go on to the convolutions that read O, those of the next stage and of
        an `FPN` that is named `fpn` beside the backbone: none has an activation before it, and
        `K O = (w_f K) F + (w_r K) R`. Such a fusion returns F and R joined and does nothing else,
        where that saves a third of the multiplications. Nothing but the next stage and the FPN may
        read the backbone then.

    Raises:
      ValueError: nothing in there folds.
    """
    if "params" not in variables:
        raise ValueError(f'fold_fusion takes {{"params": ...}}, not a tree of {sorted(variables)}')
    params = flax.core.unfreeze(variables["params"])  # new dicts, the same arrays
    linear, others = 0, []
    for path, stage, backbone, fpn in _fusions(params):
        fusion = backbone[f"fusion{stage}"]
        if set(fusion) != {"w_s", "w_m", "w"}:
            others.append(path)
            continue
        linear += 1
        w_f, w_r = _multiplied(fusion, _width(backbone[f"ipg{stage}"]))
        dtype = fusion["w"]["kernel"].dtype
        readers = _readers(backbone, fpn, stage) if into_readers else []
        if readers and _much_less_to_read(w_f, w_r, readers):
            for reader, _ in readers:
                kernel = np.asarray(reader["kernel"], np.float64)
                both = np.concatenate([w_f @ kernel, w_r @ kernel], axis=-2)
                reader["kernel"] = jnp.asarray(both, reader["kernel"].dtype)
            backbone[f"fusion{stage}"] = {JOINED: jnp.zeros(0, dtype)}
        else:
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


def _fusions(
    tree: dict[str, Any], fpn: dict[str, Any] | None = None, path: str = ""
) -> Iterator[tuple[str, int, dict[str, Any], dict[str, Any] | None]]:
    """Yields each fusion's path and stage, the backbone it is in, and the FPN beside that."""
    for name, node in tree.items():
        if name.startswith("fusion") and name[6:].isdigit():
            yield path + name, int(name[6:]), tree, fpn
        elif isinstance(node, dict):
            yield from _fusions(node, tree.get("fpn"), f"{path}{name}/")


def _width(ipg: PyTree) -> int:
    """Returns the width of the pyramid feature F from the parameters of its `IPGTransform`."""
    return ipg["block0"]["conv3"]["kernel"].shape[-1]


def _multiplied(fusion: PyTree, guidance_width: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns `w_f` and `w_r` of one fusion."""
    w_s, w_m, w = (np.asarray(fusion[k]["kernel"], np.float64) for k in ("w_s", "w_m", "w"))
    width = w.shape[1]
    # The last `width` rows of W meet R and the first meet F: all of them for the sum, one half each
    # for the concatenation.
    transform = channel_interpolation(guidance_width, width).astype(np.float64)
    return transform @ w_s @ w[:width], w_m @ w[-width:]


def _readers(
    backbone: dict[str, Any], fpn: dict[str, Any] | None, stage: int
) -> list[tuple[dict[str, Any], int]]:
    """Returns what reads a stage, convolutions with their strides; nothing if others may too."""
    if fpn is None:
        return []  # the caller reads the backbone
    readers = []
    if f"layer{stage + 1}" in backbone:
        block = backbone[f"layer{stage + 1}"]["block0"]
        if "downsample_conv" not in block:
            return []  # its shortcut reads the stage as it is
        readers += [(block["conv1"], 1 if "conv3" in block else 2), (block["downsample_conv"], 2)]
    if f"lateral{stage + 1}" in fpn:
        lateral = fpn[f"lateral{stage + 1}"]
        readers.append((lateral, 1))
        extra = fpn.get(f"extra{stage + 2}")
        if extra is not None:
            width, channels = lateral["kernel"].shape[-2:]
            if width == channels:
                return []  # nothing tells whether it reads the stage or the FPN's own output
            if extra["kernel"].shape[-2] == width:
                readers.append((extra, 2))
    return readers


def _much_less_to_read(
    w_f: np.ndarray, w_r: np.ndarray, readers: list[tuple[dict[str, Any], int]]
) -> bool:
    """Returns whether reading F and R takes less than two thirds of making O and reading it.

    To join F and R costs a TPU what a third of the multiplications do, or more.
    """
    sizes = ((reader["kernel"].shape, stride) for reader, stride in readers)
    outputs = sum(h * w * features / stride**2 for (h, w, _, features), stride in sizes)
    (guidance, width), main = w_f.shape, w_r.shape[0]
    return 3 * (guidance + main) * outputs < 2 * ((guidance + main) * width + width * outputs)
