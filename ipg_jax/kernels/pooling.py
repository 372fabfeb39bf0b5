"""ReLU and max-pooling in one.

XLA's gradient of max-pooling scatters. The fast form remembers where in a window its maximum was,
and its gradient gathers.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int8

from ipg_jax.kernels import packed
from ipg_jax.kernels.dispatch import Implementation, dispatch
from ipg_jax.kernels.spatial import height_shards
from ipg_jax.types import Array, PackedFeatures

Rows: TypeAlias = tuple[Array, Array]
Shift: TypeAlias = Callable[[Array], Array]
Saved: TypeAlias = tuple[Int8[Array, "b h w c"], Callable[[list[Array]], tuple[Rows]]]


def relu_max_pool(
    x: Float[Array, "b h w c"] | PackedFeatures,
    window: int,
    *,
    implementation: Implementation | None = None,
) -> Float[Array, "b _ _ c"]:
    """Returns the maxima after a ReLU of windows of 2x2 or 3x3 with stride 2.

    Windows of 3x3 reach one row and one column beyond the map, as in torch with a padding of 1.
    Among equal values the first in the window, by row and column, gets the gradient, and none does
    where the maximum is 0. NaN propagates.

    Args:
      x: a feature map, or packed features, for which there is the fast form alone.
      window: 2 or 3.
      implementation: see `kernels.dispatch`. The fast form, which maps of even sizes have, is
        differentiated forwards as that of `kernels.conv2d`.

    Raises:
      ValueError: another window.
    """
    if window not in (2, 3):
        raise ValueError(f"window is 2 or 3, not {window}")
    if isinstance(x, PackedFeatures):
        pooled = _fast((x.upper, x.lower), window, packed.shift_right)
        return packed.unpack_columns(pooled)
    reference = functools.partial(_reference, window=window)
    if x.shape[1] % 2 or x.shape[2] % 2 or height_shards() > 1:
        return reference(x)
    return dispatch(
        x,
        name="relu_max_pool",
        reference=reference,
        fast=lambda x: _fast(_split_rows(x), window, _next_column),
        platforms=("cpu", "tpu"),
        implementation=implementation,
    )


def _reference(x: Array, *, window: int) -> Array:
    x, pad = jnp.where(x <= 0, jnp.zeros((), x.dtype), x), window - 2
    return jax.lax.reduce_window(
        x,
        -jnp.inf,
        jax.lax.max,
        (1, window, window, 1),
        (1, 2, 2, 1),
        ((0, 0), (pad, pad), (pad, pad), (0, 0)),
    )


def _split_rows(x: Array) -> Rows:
    """Returns the even and the odd rows, in packed columns."""
    b, h, w, c = x.shape
    even, odd = jnp.split(x.reshape(b, h // 2, 2, w // 2, 2 * c), 2, axis=2)
    return even[:, :, 0], odd[:, :, 0]


def _shift(x: Array, *, axis: int) -> Array:
    """Moves values on by one position, 0 to the first."""
    pad = [(int(i == axis), 0) for i in range(x.ndim)]
    return jax.lax.slice_in_dim(jnp.pad(x, pad), 0, x.shape[axis], axis=axis)


_next_column = functools.partial(_shift, axis=2)


def _windows(rows: Rows, window: int) -> Sequence[Array]:
    """Returns each row of all windows."""
    return rows if window == 2 else (_shift(rows[1], axis=1), *rows)


def _columns(row: Array, window: int, shift_right: Shift) -> Sequence[Array]:
    """Returns each column of all windows."""
    even, odd = jnp.split(row, 2, axis=-1)
    return (even, odd) if window == 2 else (shift_right(odd), even, odd)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _fast(rows: Rows, window: int, shift_right: Shift) -> Array:
    """Returns the maxima, of the even and the odd rows in packed columns."""
    largest = functools.reduce(jnp.maximum, _windows(rows, window))
    columns = _columns(largest, window, shift_right)
    return functools.reduce(jnp.maximum, columns, jnp.zeros((), largest.dtype))


def _fast_forward(rows: Rows, window: int, shift_right: Shift) -> tuple[Array, Saved]:
    def positions(rows: Rows) -> list[Array]:
        return [
            value for row in _windows(rows, window) for value in _columns(row, window, shift_right)
        ]

    values, pull = jax.vjp(positions, rows)
    largest, first = jnp.zeros_like(values[0]), jnp.full(values[0].shape, jnp.int8(-1))
    for position, value in enumerate(values):
        # The largest so far is one of the values, not a maximum of some, which XLA may make anew
        # with another rounding.
        larger = (value > largest) | jnp.isnan(value)
        largest = jnp.where(larger, value, largest)
        first = jnp.where(larger, jnp.int8(position), first)
    return largest, (first, pull)


def _fast_backward(window: int, _: Shift, saved: Saved, gradient: Array) -> tuple[Rows]:
    first, pull = saved
    zero = jnp.zeros((), gradient.dtype)
    return pull([jnp.where(first == position, gradient, zero) for position in range(window**2)])


_fast.defvjp(_fast_forward, _fast_backward)
