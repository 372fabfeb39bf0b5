import functools

import jax
import numpy as np
import pytest

from ipg_jax.models import winograd
from ipg_jax.models.resnet import conv


def convolve_in_numpy(x, kernel, padding):
    """The definition, in float64."""
    x = np.pad(np.asarray(x, np.float64), ((0, 0), *padding, (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    return np.einsum("bhwcij,ijcf->bhwf", windows, np.asarray(kernel, np.float64))


def drawn(*shape):
    return jax.random.normal(jax.random.key(sum(shape)), shape)


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
        ((2, 5, 8, 3), ((1, 1), (1, 1))),  # an odd height
        ((1, 6, 7, 2), ((1, 1), (1, 1))),
        ((1, 3, 3, 2), ((0, 1), (2, 1))),
        ((1, 1, 1, 2), ((1, 1), (1, 1))),
        ((0, 4, 4, 2), ((1, 1), (1, 1))),
    ],
)
def test_it_is_the_convolution(shape, padding):
    x, kernel = drawn(*shape), drawn(3, 3, shape[-1], 4)
    got = jax.jit(functools.partial(winograd.convolve_3x3, padding=padding))(x, kernel)
    np.testing.assert_allclose(got, convolve_in_numpy(x, kernel, padding), atol=1e-5)


def test_the_transposed_one_has_the_taps_and_channels_exchanged():
    x, kernel = drawn(2, 5, 4, 4), drawn(3, 3, 3, 4)
    padding = ((1, 1), (2, 1))
    got = jax.jit(functools.partial(winograd.convolve_3x3, padding=padding, transposed=True))(
        x, kernel
    )
    want = convolve_in_numpy(x, kernel[::-1, ::-1].swapaxes(2, 3), padding)
    np.testing.assert_allclose(got, want, atol=1e-5)


def test_images_one_by_one_are_images_at_once(monkeypatch):
    x, kernel, padding = drawn(3, 6, 5, 8), drawn(3, 3, 8, 8), ((1, 1), (1, 1))
    at_once = winograd.convolve_3x3(x, kernel, padding)
    monkeypatch.setattr(winograd, "_CACHED", 100)
    np.testing.assert_allclose(winograd.convolve_3x3(x, kernel, padding), at_once, atol=1e-5)


def test_rounding_is_that_of_float32_sums():
    x, kernel, padding = drawn(1, 24, 24, 64), drawn(3, 3, 64, 64), ((1, 1), (1, 1))
    exact = convolve_in_numpy(x, kernel, padding)

    def error(y):
        return np.sqrt(np.mean((y - exact) ** 2))

    direct = jax.lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    by_tiles = jax.jit(functools.partial(winograd.convolve_3x3, padding=padding))(x, kernel)
    assert error(by_tiles) < 2 * error(direct)
    assert error(by_tiles) < 1e-6 * np.std(exact)


def test_layers_use_it_where_it_pays(monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: 1)
    taken = []

    def counted(*args, transposed=False, **kwargs):
        taken.append(transposed)
        return convolve(*args, transposed=transposed, **kwargs)

    convolve = winograd.convolve_3x3
    monkeypatch.setattr(winograd, "convolve_3x3", counted)

    def forms(shape, **options):
        taken.clear()
        layer = conv(64, 3, **options)

        def energy(x, kernel):
            return (layer.apply({"params": {"kernel": kernel}}, x) ** 2).sum()

        jax.eval_shape(jax.grad(energy, argnums=(0, 1)), drawn(*shape), drawn(3, 3, shape[-1], 64))
        return set(taken)

    assert forms((1, 20, 20, 64)) == {False, True}  # forward, and the gradient by the input
    assert forms((1, 10, 20, 64)) == set()  # few tiles
    assert forms((1, 20, 20, 32)) == set()  # few channels
    assert forms((1, 20, 20, 64), strides=2) == set()
    assert forms((1, 20, 20, 64), dilation=2) == set()
    monkeypatch.setattr(jax, "device_count", lambda: 8)
    assert forms((1, 20, 20, 64)) == set()
