"""ReLUs, against `jax.nn.relu`."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import assert_equal, every_form, every_type, run

from ipg_jax.kernels import relu

X = [-np.inf, -2.0, -1e-30, -0.0, 0.0, 1e-30, 0.5, 3.0, np.inf]


@every_form
@every_type
def test_values_and_gradients_are_those_of_jax(dtype, implementation):
    x, gradient = jnp.asarray(X, dtype), jnp.arange(1, len(X) + 1, dtype=dtype)
    got = run(functools.partial(relu, implementation=implementation), gradient, x)
    assert_equal(got, run(jax.nn.relu, gradient, x))
    value, (by_x,) = got
    assert_equal(value, jnp.maximum(x, 0))
    assert_equal(by_x, jnp.where(x > 0, gradient, 0))


@every_form
def test_nan_propagates(implementation):
    got = relu(jnp.float32([jnp.nan, -1, 1]), implementation=implementation)
    np.testing.assert_array_equal(got, [np.nan, 0, 1])


@every_form
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3)])
def test_any_shape(shape, implementation):
    x = jnp.ones(shape)
    function = functools.partial(relu, implementation=implementation)
    assert_equal(run(function, x, x), (x, (x,)))


@every_form
def test_it_can_be_differentiated_forwards_and_twice(implementation):
    x = jnp.float32(X[1:-1])
    function = functools.partial(relu, implementation=implementation)
    value, tangent = jax.jit(lambda x: jax.jvp(function, (x,), (jnp.ones_like(x),)))(x)
    np.testing.assert_array_equal(tangent, x > 0)
    np.testing.assert_array_equal(value, jnp.maximum(x, 0))
    second = jax.jit(jax.hessian(lambda x: jnp.sum(function(x) ** 2)))(x)
    np.testing.assert_array_equal(second, np.diag(np.where(x > 0, 2.0, 0.0)))
