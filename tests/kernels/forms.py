"""What the tests of kernels share: all forms of a kernel, their values and their gradients."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

every_form = pytest.mark.parametrize("implementation", ["reference", "fast", None])
every_type = pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])


def normal(seed: int, *shape: int) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def whole(seed: int, shape: tuple[int, ...], dtype: Any, low: int = -8, high: int = 9) -> jax.Array:
    """Whole numbers, whose sums are exact in float32, and in bfloat16 up to 256."""
    return jnp.asarray(np.random.default_rng(seed).integers(low, high, shape).astype(dtype))


def run(function: Callable[..., Any], gradient: Any, *args: Any) -> tuple[Any, Any]:
    """Returns the value of a function, and the gradients by its arguments, of one program."""

    @jax.jit
    def both(args: Any, gradient: Any) -> tuple[Any, Any]:
        value, pull = jax.vjp(function, *args)
        return value, pull(gradient)

    return both(args, gradient)


def assert_equal(got: Any, want: Any) -> None:
    """Trees are equal, with their types."""
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), got, want)


def assert_close(got: Any, want: Any, tolerance: float = 1e-5) -> None:
    """Trees are equal up to rounding, with respect to the largest element of each array."""

    def close(a: Any, b: Any) -> None:
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        a, b = (np.asarray(x, np.float64) for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max(initial=0))

    jax.tree.map(close, got, want)


def assert_second_derivative_of_energy(function: Callable[[jax.Array], Any], x: jax.Array) -> None:
    """The gradient of `sum(f(x)^2)`, with `f` linear around `x`, can be differentiated forwards.

    The energy is a quadratic form: its Hessian takes a point to the gradient there.
    """
    gradient = jax.grad(lambda x: sum(jnp.sum(y**2) for y in jax.tree.leaves(function(x))))
    value, product = jax.jit(lambda x: jax.jvp(gradient, (x,), (x,)))(x)
    assert_close(product, value)
