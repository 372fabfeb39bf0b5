"""ReLU and max-pooling in one.

XLA's gradient of max-pooling scatters. The fast form remembers where in a window its maximum was,
and its gradient gathers: first rows are pooled, then columns.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int8

from ipg_jax.kernels import packed
from ipg_jax.kernels.dispatch import Implementation, dispatch
from ipg_jax.kernels.spatial import height_shards
from ipg_jax.types import Array, PackedFeatures

_BEFORE, _EVEN, _ODD, _NOWHERE = range(4)
"""Positions in a window: the odd pixel before, the two of the block itself, and none."""


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
        return packed.unpack_columns(_pool(x, window, _PACKED))
    reference = functools.partial(_reference, window=window)
    if x.shape[1] % 2 or x.shape[2] % 2 or height_shards() > 1:
        return reference(x)
    return dispatch(
        x,
        name="relu_max_pool",
        reference=reference,
        fast=lambda x: _pool(x, window, _PLAIN),
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


class _Layout(NamedTuple):
    """How the rows and columns of a map are split, and joined again."""

    split_rows: Callable[[Any], tuple[Array, Array]]
    join_rows: Callable[[Array, Array], Any]
    split_columns: Callable[[Array], tuple[Array, Array]]
    join_columns: Callable[[Array, Array], Array]
    shift_right: Callable[[Array], Array]
    shift_left: Callable[[Array], Array]


def _join_plain(even: Array, odd: Array, *, axis: int) -> Array:
    shape = list(even.shape)
    shape[axis] *= 2
    return jnp.stack([even, odd], axis=axis + 1).reshape(shape)


def _split_plain(x: Array, *, axis: int) -> tuple[Array, Array]:
    pairs = x.reshape(*x.shape[:axis], x.shape[axis] // 2, 2, *x.shape[axis + 1 :])
    even, odd = jnp.moveaxis(pairs, axis + 1, 0)
    return even, odd


def _pad(x: Array, axis: int, before: int, behind: int) -> Array:
    """Pads an axis by zeros, or cuts it where a number is negative."""
    config = [(0, 0, 0)] * x.ndim
    config[axis] = (before, behind, 0)
    return jax.lax.pad(x, jnp.zeros((), x.dtype), config)


_PLAIN = _Layout(
    functools.partial(_split_plain, axis=1),
    functools.partial(_join_plain, axis=1),
    functools.partial(_split_plain, axis=2),
    functools.partial(_join_plain, axis=2),
    lambda x: _pad(x, 2, 1, -1),
    lambda x: _pad(x, 2, -1, 1),
)

# The channels of packed features run over the columns 0 and 2, then 1 and 3.
_PACKED = _Layout(
    lambda x: (x.upper, x.lower),
    PackedFeatures,
    lambda x: (x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]),
    lambda even, odd: jnp.concatenate([even, odd], axis=-1),
    packed.shift_right,
    packed.shift_left,
)


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def _pool(x: Any, window: int, layout: _Layout) -> Array:
    return _pool_forward(x, window, layout)[0]


def _pool_forward(
    x: Any, window: int, layout: _Layout
) -> tuple[Array, tuple[Int8[Array, ...], Int8[Array, ...]]]:
    upper, lower = layout.split_rows(x)
    # A value is compared with others and never with their maximum, which XLA may have made anew,
    # with another rounding.
    if window == 3:
        before = _pad(_pad(lower, 1, 1, 0), 1, 0, -1)  # in two steps, which XLA:TPU fuses
        row = _first(_is_largest(before, jnp.maximum(upper, lower)), _is_largest(upper, lower))
        rows = _take(row, before, upper, lower)
    else:
        row = _first(None, _is_largest(upper, lower))
        rows = _take(row, None, upper, lower)

    (even, odd), (row_even, row_odd) = layout.split_columns(rows), layout.split_columns(row)
    largest = jnp.maximum(even, odd)
    first_even = _wins(even, row_even, odd, row_odd)
    if window == 3:
        before = layout.shift_right(odd)
        row_before = layout.shift_right(row_odd.astype(odd.dtype)).astype(row.dtype)
        largest = jnp.maximum(before, largest)
        first_before = _wins(before, row_before, even, row_even)
        first_before &= _wins(before, row_before, odd, row_odd)
        column = _first(first_before, first_even)
    else:
        column = _first(None, first_even)
    y = jnp.maximum(largest, jnp.zeros((), largest.dtype))
    return y, (row, jnp.where(y != 0, column, jnp.int8(_NOWHERE)))


def _pool_backward(
    window: int, layout: _Layout, saved: tuple[Array, Array], gradient: Array
) -> tuple[Any]:
    row, column = saved
    even, odd = (_where(column, position, gradient) for position in (_EVEN, _ODD))
    if window == 3:
        odd += layout.shift_left(_where(column, _BEFORE, gradient))
    gradient = layout.join_columns(even, odd)
    upper, lower = (_where(row, position, gradient) for position in (_EVEN, _ODD))
    if window == 3:
        lower += _pad(_where(row, _BEFORE, gradient), 1, -1, 1)
    return (layout.join_rows(upper, lower),)


_pool.defvjp(_pool_forward, _pool_backward)


def _is_largest(a: Array, b: Array) -> Array:
    """Returns whether `a` is the maximum of both; a NaN is."""
    return (a >= b) | jnp.isnan(a)


def _wins(a: Array, row_a: Array, b: Array, row_b: Array) -> Array:
    """Returns whether `a` is larger, or as large and in an earlier row or the same one."""
    return (a > b) | ((a == b) & (row_a <= row_b))


def _first(before: Array | None, even: Array) -> Int8[Array, ...]:
    """Returns the position of the maximum: that before, or else the even one, or the odd one."""
    position = jnp.where(even, jnp.int8(_EVEN), jnp.int8(_ODD))
    return position if before is None else jnp.where(before, jnp.int8(_BEFORE), position)


def _take(position: Array, before: Array | None, even: Array, odd: Array) -> Array:
    x = jnp.where(position == _EVEN, even, odd)
    return x if before is None else jnp.where(position == _BEFORE, before, x)


def _where(position: Array, wanted: int, gradient: Array) -> Array:
    return jnp.where(position == wanted, gradient, jnp.zeros((), gradient.dtype))
