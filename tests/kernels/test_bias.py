import functools

import jax.numpy as jnp
import pytest
from forms import (
    assert_equal,
    assert_second_derivative_of_energy,
    every_form,
    every_type,
    normal,
    run,
    whole,
)

from ipg_jax.kernels import add_bias


@every_form
@every_type
@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 1, 1, 4), (0, 3, 5, 4)])
def test_values_and_gradients_are_those_of_a_sum(shape, dtype, implementation):
    x, bias, gradient = whole(0, shape, dtype), jnp.arange(4, dtype=dtype), whole(1, shape, dtype)
    value, gradients = run(
        functools.partial(add_bias, implementation=implementation), gradient, x, bias
    )
    assert_equal(value, x + bias)
    assert_equal(gradients, (gradient, gradient.sum((0, 1, 2))))


@every_form
def test_the_gradient_can_be_differentiated_forwards(implementation):
    x = normal(0, 2, 3, 4, 5)
    assert_second_derivative_of_energy(
        lambda bias: add_bias(bias * x, bias, implementation=implementation), normal(1, 5)
    )
