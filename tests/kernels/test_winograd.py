import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import assert_close, normal

from ipg_jax.kernels import winograd

ONE = ((1, 1), (1, 1))


def convolve_in_numpy(x, kernel, padding):
    """The definition, in float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    return np.einsum("bhwcij,ijcf->bhwf", windows, np.asarray(kernel, np.float64))


def test_one_tile_by_hand():
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, 1, 2] = 1  # a point comes out as the kernel turned round, as far as it reaches
    kernel = np.arange(9, dtype=np.float32).reshape(3, 3, 1, 1)
    got = winograd.convolve_3x3(x, kernel, ((0, 0), (0, 0)))
    np.testing.assert_array_equal(got[0, ..., 0], [[5, 4], [2, 1]])


@pytest.mark.parametrize(
    ("shape", "padding"),
    [
        ((1, 4, 4, 3), ((0, 0), (0, 0))),
        ((2, 5, 8, 3), ONE),  # an odd height
        ((1, 6, 7, 2), ONE),
        ((1, 3, 3, 2), ((0, 1), (2, 1))),
        ((1, 1, 1, 2), ONE),
        ((0, 4, 4, 2), ONE),
    ],
)
def test_it_is_the_convolution(shape, padding):
    x, kernel = normal(0, *shape), normal(1, 3, 3, shape[-1], 4)
    got = winograd.convolve_3x3(x, kernel, padding)
    np.testing.assert_allclose(got, convolve_in_numpy(x, kernel, padding), atol=1e-5)


def test_the_transposed_one_has_the_taps_and_channels_exchanged():
    x, kernel = normal(0, 2, 5, 4, 4), normal(1, 3, 3, 3, 4)
    padding = ((1, 1), (2, 1))
    got = winograd.convolve_3x3(x, kernel, padding, transposed=True)
    want = convolve_in_numpy(x, kernel[::-1, ::-1].swapaxes(2, 3), padding)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_the_transposed_one_is_the_gradient_by_the_input():
    x, kernel, gradient = normal(0, 1, 6, 5, 3), normal(1, 3, 3, 3, 4), normal(2, 1, 6, 6, 4)
    convolve = functools.partial(winograd.convolve_3x3, kernel=kernel, padding=((1, 1), (2, 1)))
    (want,) = jax.vjp(convolve, x)[1](gradient)
    got = winograd.convolve_3x3(gradient, kernel, ((1, 1), (0, 1)), transposed=True)
    assert_close(got, want)


@pytest.mark.parametrize("transposed", [False, True])
def test_images_one_by_one_are_images_at_once(transposed):
    x, kernel = normal(0, 2, 91, 91, 64), normal(1, 3, 3, 64, 2)
    if transposed:
        kernel = kernel.swapaxes(2, 3)
    assert x.size > 2**20 > x[0].size  # above which they are taken one by one
    convolve = functools.partial(
        winograd.convolve_3x3, kernel=kernel, padding=ONE, transposed=transposed
    )
    assert_close(convolve(x), jnp.concatenate([convolve(x[i : i + 1]) for i in range(2)]))


def test_rounding_is_that_of_float32_sums():
    x, kernel = normal(0, 1, 24, 24, 64), normal(1, 3, 3, 64, 64)
    exact = convolve_in_numpy(x, kernel, ONE)

    def error(y):
        return np.sqrt(np.mean((y - exact) ** 2))

    direct = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), ONE, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    by_tiles = winograd.convolve_3x3(x, kernel, ONE)
    assert error(by_tiles) < 2 * error(direct)
    assert error(by_tiles) < 1e-6 * np.std(exact)


def test_it_pays_for_many_tiles_and_channels_of_float32():
    def pays(side, channels=64, size=3, dtype=jnp.float32):
        x, kernel = jnp.zeros((1, side, side, channels)), jnp.zeros((size, size, channels, 64))
        return winograd.pays(x.astype(dtype), kernel.astype(dtype))

    assert pays(20)
    assert not pays(14)
    assert not pays(20, channels=32)
    assert not pays(20, size=1)
    assert not pays(20, size=5)
    assert not pays(20, dtype=jnp.bfloat16)
