import functools

import jax.numpy as jnp
import numpy as np
import pytest
from forms import (
    assert_close,
    assert_equal,
    assert_second_derivative_of_energy,
    every_form,
    normal,
    run,
    whole,
)

from ipg_jax.kernels import upsample_add

SIZES = [  # of the lateral map, and of that above it
    ((4, 6), (2, 3)),
    ((3, 6), (2, 3)),
    ((4, 5), (2, 3)),
    ((5, 3), (3, 2)),
    ((1, 4), (1, 2)),
    ((1, 1), (1, 1)),
    ((4, 6), (4, 3)),
    ((3, 2), (2, 2)),
]


def check(lateral, above, gradient, implementation):
    """Values and gradients are those of the definition."""
    value, (by_lateral, by_above) = run(
        functools.partial(upsample_add, implementation=implementation), gradient, lateral, above
    )
    # Which row and column of `above` each of `lateral` takes.
    rows, columns = (
        np.arange(size) // (1 if half == size else 2)
        for size, half in zip(lateral.shape[1:3], above.shape[1:3], strict=True)
    )
    assert_equal(value, lateral + above[:, rows][:, :, columns])
    assert_equal(by_lateral, gradient)
    want = np.zeros(above.shape, np.float32)
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            want[:, row, column] += np.float32(gradient[:, i, j])
    assert_equal(by_above, want.astype(above.dtype))


@every_form
@pytest.mark.parametrize(("size", "above"), SIZES)
def test_values_and_gradients_by_the_definition(size, above, implementation):
    lateral, gradient = (whole(i, (2, *size, 3), jnp.float32) for i in (0, 1))
    check(lateral, whole(2, (2, *above, 3), jnp.float32), gradient, implementation)


@every_form
def test_bfloat16(implementation):
    lateral, gradient = (whole(i, (2, 4, 6, 3), jnp.bfloat16) for i in (0, 1))
    check(lateral, whole(2, (2, 2, 3, 3), jnp.bfloat16), gradient, implementation)


def test_the_fast_gradient_of_bfloat16_is_summed_in_float32():
    lateral, above = whole(0, (1, 2, 2, 1), jnp.bfloat16), whole(1, (1, 1, 1, 1), jnp.bfloat16)
    gradient = jnp.bfloat16([256, 1, 1, 1]).reshape(1, 2, 2, 1)  # 256 + 1 is 256
    function = functools.partial(upsample_add, implementation="fast")
    _, (_, by_above) = run(function, gradient, lateral, above)
    assert by_above.item() == 260  # the nearest of bfloat16 to 259


@every_form
def test_no_images(implementation):
    lateral, above = normal(0, 0, 4, 4, 2), normal(1, 0, 2, 2, 2)
    function = functools.partial(upsample_add, implementation=implementation)
    assert_equal(run(function, lateral, lateral, above), (lateral, (lateral, above)))


@every_form
def test_the_gradient_can_be_differentiated_forwards(implementation):
    lateral = normal(0, 1, 3, 4, 2)
    assert_second_derivative_of_energy(
        lambda above: upsample_add(above.mean() * lateral, above, implementation=implementation),
        normal(1, 1, 2, 2, 2),
    )


@every_form
def test_rounding_is_that_of_the_sum(implementation):
    lateral, above = normal(0, 2, 8, 8, 4), normal(1, 2, 4, 4, 4)
    want = lateral + np.repeat(np.repeat(above, 2, axis=1), 2, axis=2)
    assert_close(upsample_add(lateral, above, implementation=implementation), want, 1e-6)
