"""ReLUs by their outputs, against `jax.nn.relu`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax.models.relu import relu

X = [-2.0, -1e-30, -0.0, 0.0, 1e-30, 0.5, 3.0, np.inf]


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_values_and_gradients_are_those_of_relu(dtype):
    x, gradient = jnp.asarray(X, dtype), jnp.arange(1, len(X) + 1, dtype=dtype)
    for run in (lambda f: f, jax.jit):
        got, pull = jax.vjp(run(relu), x)
        want, want_pull = jax.vjp(run(jax.nn.relu), x)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want)
        (got,) = pull(gradient)
        assert got.dtype == dtype
        np.testing.assert_array_equal(got, want_pull(gradient)[0])
        np.testing.assert_array_equal(got, jnp.where(x > 0, gradient, 0))


def test_it_can_be_differentiated_forwards_and_twice():
    x = jnp.asarray(X[:-1])
    value, tangent = jax.jvp(relu, (x,), (jnp.ones_like(x),))
    np.testing.assert_array_equal(tangent, x > 0)
    np.testing.assert_array_equal(value, jnp.maximum(x, 0))
    second = jax.hessian(lambda x: jnp.sum(relu(x) ** 2))(x)
    np.testing.assert_array_equal(second, np.diag(np.where(x > 0, 2.0, 0.0)))


def test_the_gradient_needs_no_input():
    """Nor does XLA go back to it, as it does from `max(x, 0) > 0` to `x > 0`."""

    def compared(function) -> str:
        x = jnp.ones((8, 8))
        text = jax.jit(jax.grad(lambda x: jnp.sum(jnp.sin(function(x))))).lower(x).compile()
        return "".join(line for line in text.as_text().splitlines() if " compare(" in line)

    assert "direction=NE" in compared(relu)
    assert "direction=GT" not in compared(relu)
    assert "direction=GT" in compared(jax.nn.relu)
