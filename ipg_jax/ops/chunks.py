"""Folding over boxes a few at a time, for operators that compare each box with many anchors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Bool

from ipg_jax.types import Array, PyTree

Carry = TypeVar("Carry", bound=PyTree)

PAIRS = 2**24
"""The most pairs of a box and an anchor that are looked at together: 64 MiB for each array of them,
and 139 boxes with the 120,087 anchors of an image of 800x800."""


def fold_boxes(
    step: Callable[[Carry, Array, PyTree], Carry],
    initial: Carry,
    rows: PyTree,
    used: Bool[Array, " m"],
    *,
    anchors: int,
    pairs: int = PAIRS,
) -> Carry:
    """Folds a function over boxes in chunks of equal size, as few as `pairs` allows.

    One chunk is one call of the function. A loop over several ends with the last box that is used:
    rows of padding at the end, as batches have them, cost nothing there. Under `jax.vmap` images
    take as many steps as the fullest one, together, and each needs the memory of a chunk. A loop
    has no reverse-mode gradient.

    Args:
      step: from what is carried, the number of the chunk's first box and the chunk's rows to what
        is carried on. A chunk may end with rows of zeros.
      initial: what is carried to the first chunk.
      rows: arrays `[m, ...]` that describe the boxes.
      used: which boxes count.
      anchors: with how many anchors the step compares each box.
      pairs: how many pairs of a box and an anchor are looked at together.

    Returns:
      What is carried from the last chunk.
    """
    (count,) = used.shape
    if count == 0 or anchors == 0:
        return initial
    chunks = -(-count // max(1, pairs // anchors))
    if chunks == 1:
        return step(initial, jnp.int32(0), rows)
    size = -(-count // chunks)
    last = _of_fullest(jnp.max(jnp.where(used, jnp.arange(1, count + 1, dtype=jnp.int32), 0)))

    def padded(x: Array) -> jax.Array:
        return jnp.pad(x, [(0, chunks * size - count), *([(0, 0)] * (x.ndim - 1))])

    rows = jax.tree.map(padded, rows)

    def body(number: Array, carry: Carry) -> Carry:
        start = number * size
        chunk = jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, size), rows)
        return step(carry, start, chunk)

    return jax.lax.fori_loop(0, -(-last // size), body, initial)


@jax.custom_batching.custom_vmap
def _of_fullest(last: Array) -> Array:
    """Returns its argument, and under `jax.vmap` the largest of all images.

    A loop that each image ended by itself would ask all devices for every step whether one goes on.
    """
    return last


@_of_fullest.def_vmap
def _of_fullest_mapped(
    axis_size: int, in_batched: list[bool], last: Array
) -> tuple[jax.Array, bool]:
    del axis_size, in_batched
    return jnp.max(last), False
