import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import (
    assert_close,
    assert_equal,
    assert_second_derivative_of_energy,
    every_form,
    every_type,
    normal,
    run,
    whole,
)

from ipg_jax.kernels import conv2d

CASES = [  # shape of the map, size of the kernel, strides, dilation
    ((2, 7, 5, 6), 1, 1, 1),
    ((2, 7, 5, 6), 1, 2, 1),
    ((2, 15, 14, 64), 3, 1, 1),  # enough for fewer multiplications
    ((1, 37, 40, 3), 3, 1, 1),  # 37 rows in chunks of 19: one row is missing
    ((3, 37, 40, 3), 3, 2, 1),
    ((2, 30, 24, 2), 3, 1, 2),
    ((1, 61, 64, 3), 7, 2, 1),
    ((2, 2, 2, 6), 3, 1, 1),  # fewer positions than taps
    ((3, 2, 4, 6), 3, 2, 1),
    ((2, 4, 4, 6), 3, 2, 1),  # fewer positions of the output alone
    ((2, 3, 2, 6), 3, 1, 2),
    ((2, 1, 1, 6), 3, 1, 1),
    ((0, 8, 8, 4), 3, 1, 1),
]


def lax_convolution(x, kernel, *, strides, padding, dilation):
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def square(strides, padding, dilation):
    """The arguments of `lax_convolution` that single numbers stand for."""
    return {
        "strides": (strides, strides),
        "padding": ((padding, padding), (padding, padding)),
        "dilation": (dilation, dilation),
    }


def test_values_by_hand():
    x = jnp.arange(9.0).reshape(1, 3, 3, 1)
    kernel = jnp.asarray([[0.0, 1.0], [10.0, 0.0]]).reshape(2, 2, 1, 1)
    # Correlation: the right neighbour, and ten times that below.
    np.testing.assert_array_equal(conv2d(x, kernel)[0, ..., 0], [[31, 42], [64, 75]])
    above = conv2d(x, kernel, padding=((1, 0), (0, 0)))
    np.testing.assert_array_equal(above[0, ..., 0], [[0, 10], [31, 42], [64, 75]])
    np.testing.assert_array_equal(conv2d(x, kernel, strides=2)[0, ..., 0], [[31]])
    np.testing.assert_array_equal(conv2d(x, kernel, dilation=2)[0, ..., 0], [[62]])


@pytest.mark.parametrize(
    ("shape", "size", "strides", "dilation", "implementation"),
    [(*case, "fast") for case in CASES]
    + [(*case, form) for case in CASES[::4] for form in ("reference", None)],
)
def test_values_and_gradients_are_those_of_lax(shape, size, strides, dilation, implementation):
    x, features = normal(0, *shape), max(4, shape[-1])
    kernel = normal(1, size, size, shape[-1], features)
    padding = dilation * (size - 1) // 2
    definition = functools.partial(lax_convolution, **square(strides, padding, dilation))
    gradient = normal(2, *jax.eval_shape(definition, x, kernel).shape)
    convolve = functools.partial(
        conv2d,
        strides=strides,
        padding=padding,
        dilation=dilation,
        implementation=implementation,
    )
    assert_close(run(convolve, gradient, x, kernel), run(definition, gradient, x, kernel))


@pytest.mark.parametrize(("shape", "size", "strides", "dilation"), CASES[:-1:2])
def test_the_fast_form_of_several_devices(shape, size, strides, dilation):
    """They do not take the kernel's gradient row by row, nor the tiles of Winograd."""
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x, kernel = normal(0, *shape), normal(1, size, size, shape[-1], 8)
    padding = dilation * (size - 1) // 2
    options = {"strides": strides, "padding": padding, "dilation": dilation}

    def convolve(x, kernel):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return conv2d(x, kernel, implementation="fast", **options)

    definition = functools.partial(lax_convolution, **square(strides, padding, dilation))
    gradient = normal(2, *jax.eval_shape(definition, x, kernel).shape)
    assert_close(run(convolve, gradient, x, kernel), run(definition, gradient, x, kernel))


@every_form
@pytest.mark.parametrize(
    "options",
    [
        {"strides": (2, 1), "padding": ((0, 2), (1, 0)), "dilation": (1, 2)},
        {"strides": (1, 3), "padding": ((1, 0), (0, 0)), "dilation": (2, 1)},
        {"strides": (1, 1), "padding": ((2, 1), (0, 2)), "dilation": (1, 1)},
    ],
)
def test_rows_and_columns_may_differ(options, implementation):
    x, kernel = normal(0, 2, 11, 14, 3), normal(1, 3, 2, 3, 5)
    definition = functools.partial(lax_convolution, **options)
    gradient = normal(2, *jax.eval_shape(definition, x, kernel).shape)
    sizes = [
        (size + sum(sides) - step * (taps - 1) - 1) // stride + 1
        for size, taps, stride, sides, step in zip((11, 14), (3, 2), *options.values(), strict=True)
    ]
    assert gradient.shape == (2, *sizes, 5)
    convolve = functools.partial(conv2d, implementation=implementation, **options)
    assert_close(run(convolve, gradient, x, kernel), run(definition, gradient, x, kernel))


@every_form
@pytest.mark.parametrize("side", [1, 2])
def test_an_output_may_be_empty(side, implementation):
    x, kernel = normal(0, 2, side, side, 3), normal(1, 3, 3, 3, 4)
    convolve = functools.partial(conv2d, implementation=implementation)
    value, gradients = run(convolve, jnp.zeros((2, 0, 0, 4)), x, kernel)
    assert value.shape == (2, 0, 0, 4)
    assert_equal(gradients, (jnp.zeros_like(x), jnp.zeros_like(kernel)))


@every_form
@pytest.mark.parametrize("groups", [2, 6])
@pytest.mark.parametrize("strides", [1, 2])
def test_groups_are_convolved_apart(groups, strides, implementation):
    """Six groups of six channels: a depthwise convolution, of two features a channel."""
    x, kernel = normal(0, 2, 7, 8, 6), normal(1, 3, 3, 6 // groups, 12)

    def definition(x, kernel):
        parts = zip(jnp.split(x, groups, -1), jnp.split(kernel, groups, -1), strict=True)
        convolve = functools.partial(lax_convolution, **square(strides, 1, 1))
        return jnp.concatenate([convolve(x, kernel) for x, kernel in parts], -1)

    convolve = functools.partial(
        conv2d, strides=strides, padding=1, groups=groups, implementation=implementation
    )
    gradient = normal(2, *jax.eval_shape(definition, x, kernel).shape)
    assert_close(run(convolve, gradient, x, kernel), run(definition, gradient, x, kernel))


@every_form
@every_type
@pytest.mark.parametrize(("size", "strides"), [(1, 1), (3, 1), (3, 2)])
def test_the_type_is_that_of_the_arguments(size, strides, dtype, implementation):
    # Sums of few whole numbers: exact in both types.
    x, kernel = whole(0, (1, 6, 6, 2), dtype, -1, 2), whole(1, (size, size, 2, 3), dtype, -1, 2)
    definition = functools.partial(lax_convolution, **square(strides, size // 2, 1))
    gradient = whole(2, jax.eval_shape(definition, x, kernel).shape, dtype, -1, 2)
    convolve = functools.partial(
        conv2d, strides=strides, padding=size // 2, implementation=implementation
    )
    value, gradients = run(convolve, gradient, x, kernel)
    assert_equal((value, gradients), run(definition, gradient, x, kernel))
    assert {value.dtype, *(x.dtype for x in gradients)} == {jnp.dtype(dtype)}


def test_the_fast_gradient_of_a_kernel_is_summed_in_float32():
    # 4096 ones: bfloat16 stops counting at 256.
    ones, kernel = jnp.ones((1, 64, 64, 1), jnp.bfloat16), jnp.ones((1, 1, 1, 1), jnp.bfloat16)
    _, (_, by_kernel) = run(functools.partial(conv2d, implementation="fast"), ones, ones, kernel)
    assert by_kernel.dtype == jnp.bfloat16
    assert by_kernel.item() == 4096


@every_form
@pytest.mark.parametrize("side", [2, 8])  # a product with patches, and a convolution
def test_the_gradient_can_be_differentiated_forwards(side, implementation):
    x = normal(0, 1, side, side, 3)
    convolve = functools.partial(conv2d, padding=1, implementation=implementation)
    assert_second_derivative_of_energy(lambda k: convolve(x, k), normal(1, 3, 3, 3, 4))


def test_the_reference_is_differentiated_forwards_by_itself():
    x, kernel = normal(0, 1, 8, 8, 3), normal(1, 3, 3, 3, 4)
    convolve = functools.partial(conv2d, padding=1, implementation="reference")
    value, tangent = jax.jvp(lambda k: convolve(x, k), (kernel,), (kernel,))
    assert_close(tangent, value)  # linear


@every_form
def test_images_may_be_mapped_over(implementation):
    x, kernel = normal(0, 3, 2, 7, 6, 4), normal(1, 3, 3, 4, 5)
    convolve = functools.partial(conv2d, padding=1, implementation=implementation)
    mapped = jax.vmap(convolve, (0, None))
    gradient = normal(2, 3, 2, 7, 6, 5)
    value, (by_x, by_kernel) = run(mapped, gradient, x, kernel)
    merged = [a.reshape(6, *a.shape[2:]) for a in (gradient, x)]
    want, (want_by_x, want_by_kernel) = run(convolve, *merged, kernel)
    assert_close(value.reshape(want.shape), want)
    assert_close((by_x.reshape(want_by_x.shape), by_kernel), (want_by_x, want_by_kernel))
