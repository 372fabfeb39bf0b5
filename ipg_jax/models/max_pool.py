"""Maximum pooling at stride 2 whose gradient needs no scatter.

XLA's rule scatters the gradients to the places of the maxima, which takes ten times as long as the
pooling itself on a CPU. At stride 2 each input pixel is under a few known windows: every pixel
gathers instead, and the four parities of (row, column) are computed apart and interleaved.
"""

from __future__ import annotations

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float

from ipg_jax.types import Array


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def max_pool(x: Float[Array, "b h w c"], window: int, pad: int) -> Float[Array, "b h2 w2 c"]:
    """Returns the maxima of `window` x `window` patches at stride 2, padded as in torch.

    Among equal values the first in the window, by row and column, gets the gradient. Forward mode
    goes through the gradient (`jvp` of `grad`) and not through the pooling itself.

    Args:
      x: features.
      window: side of the patches.
      pad: rows and columns of minus infinity on every side.
    """
    return _maxima(x, window, pad)


def _maxima(x: Array, window: int, pad: int) -> Array:
    return nn.max_pool(x, (window, window), (2, 2), ((pad, pad), (pad, pad)))


def _forward(x: Array, window: int, pad: int) -> tuple[Array, tuple[Array, Array]]:
    maxima = _maxima(x, window, pad)
    _, height, width, _ = maxima.shape
    padded = jnp.pad(x, ((0, 0), (pad, pad + 1), (pad, pad + 1), (0, 0)), constant_values=-jnp.inf)
    first = jnp.zeros(maxima.shape, jnp.int8)
    for tap in reversed(range(window**2)):
        i, j = divmod(tap, window)
        values = padded[:, i : i + 2 * height : 2, j : j + 2 * width : 2]
        first = jnp.where(values[:, :height, :width] == maxima, jnp.int8(tap), first)
    # An empty array remembers the input's size.
    return maxima, (first, jnp.zeros((0, *x.shape[1:3])))


def _backward(window: int, pad: int, saved: tuple[Array, Array], gradient: Array) -> tuple[Array]:
    first, like = saved
    height, width = like.shape[1:]
    rows, columns = (height + 1) // 2, (width + 1) // 2

    def pixels(row_parity: int, column_parity: int) -> Array:
        """The gradient of the pixels (2 i + row_parity, 2 j + column_parity)."""
        total = jnp.zeros((gradient.shape[0], rows, columns, gradient.shape[3]), gradient.dtype)
        # Tap t of window o is at pixel 2 o + t - pad.
        for tap in range(window**2):
            i, odd_row = divmod(row_parity + pad - tap // window, 2)
            j, odd_column = divmod(column_parity + pad - tap % window, 2)
            if odd_row or odd_column:
                continue
            chosen = jnp.where(first == tap, gradient, 0)
            to_window = [
                (-offset, size - there + offset, 0)
                for offset, size, there in zip(
                    (i, j), (rows, columns), gradient.shape[1:3], strict=True
                )
            ]
            total += jax.lax.pad(
                chosen, jnp.zeros((), chosen.dtype), ((0, 0, 0), *to_window, (0, 0, 0))
            )
        return total

    interleaved = jnp.stack(
        [jnp.stack([pixels(a, b) for b in (0, 1)], axis=3) for a in (0, 1)], axis=2
    )
    by_x = interleaved.reshape(gradient.shape[0], 2 * rows, 2 * columns, gradient.shape[3])
    return (by_x[:, :height, :width],)


max_pool.defvjp(_forward, _backward)
