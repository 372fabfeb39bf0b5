"""Maps in packed columns, against the plain maps that they stand for."""

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

from ipg_jax.kernels import conv2d, pack_columns, packed_conv2d, unpack_columns
from ipg_jax.kernels.packed import pack_kernel, shift_right


def test_packing_by_hand():
    x = jnp.arange(8.0).reshape(1, 1, 4, 2)
    np.testing.assert_array_equal(pack_columns(x)[0, 0], [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(unpack_columns(pack_columns(x)), x)


def test_shift_by_hand():
    x = pack_columns(jnp.arange(8.0).reshape(1, 1, 4, 2))
    got, pull = jax.vjp(shift_right, x)
    np.testing.assert_array_equal(got[0, 0], [[0, 0, 0, 1], [2, 3, 4, 5]])
    np.testing.assert_array_equal(pull(x)[0][0, 0], [[2, 3, 4, 5], [6, 7, 0, 0]])


@every_type
def test_shift_is_exact(dtype):
    x = normal(0, 2, 3, 4, 6).astype(dtype)
    plain = jnp.pad(unpack_columns(x), ((0, 0), (0, 0), (1, 1), (0, 0)))
    got, pull = jax.vjp(shift_right, x)
    assert_equal(got, pack_columns(plain[:, :, :-2]))
    assert_equal(pull(x)[0], pack_columns(plain[:, :, 2:]))


def test_kernels_by_hand():
    one = jnp.float32([[[[3]]]])
    np.testing.assert_array_equal(pack_kernel(one)[0, 0], [[3, 0], [0, 3]])
    # Rows are the six columns of three pairs, columns the two of the pair in the middle.
    three = jnp.arange(9.0).reshape(3, 3, 1, 1)
    want = [[0, 0], [3, 0], [4, 3], [5, 4], [0, 5], [0, 0]]
    np.testing.assert_array_equal(pack_kernel(three)[1].reshape(6, 2), want)


@every_form
@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_the_convolution_is_the_plain_one(size, implementation):
    x, kernel, gradient = (
        normal(0, 2, 5, 6, 3),
        normal(1, size, size, 3, 5),
        normal(2, 2, 5, 6, 5),
    )

    def packed(x, kernel):
        return unpack_columns(packed_conv2d(pack_columns(x), kernel, implementation=implementation))

    plain = functools.partial(conv2d, padding=size // 2, implementation="reference")
    assert_close(run(packed, gradient, x, kernel), run(plain, gradient, x, kernel))


@every_form
@every_type
@pytest.mark.parametrize("shape", [(1, 1, 1, 4), (2, 2, 1, 2), (0, 4, 2, 4)])
def test_maps_of_one_pair_or_no_image(shape, dtype, implementation):
    x, kernel = whole(0, shape, dtype, -1, 2), whole(1, (3, 3, shape[-1] // 2, 3), dtype, -1, 2)

    @jax.jit
    def both(x, kernel):
        want = conv2d(unpack_columns(x), kernel, padding=1, implementation="reference")
        return packed_conv2d(x, kernel, implementation=implementation), pack_columns(want)

    assert_equal(*both(x, kernel))


@every_form
def test_the_gradient_can_be_differentiated_forwards(implementation):
    convolve = functools.partial(
        packed_conv2d, kernel=normal(1, 3, 3, 4, 4), implementation=implementation
    )
    assert_second_derivative_of_energy(convolve, normal(0, 1, 2, 2, 8))
