"""ReLU and max-pooling, of plain maps and of packed features."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
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

from ipg_jax import kernels
from ipg_jax.kernels import relu_max_pool
from ipg_jax.types import PackedFeatures


def pack_features(x):
    """Packs a map by the definition: rows 0 and 1, columns 0, 2, 1 and 3 of blocks of 2x4."""
    b, h, w, c = x.shape
    blocks = x.reshape(b, h // 2, 2, w // 4, 4, c)[..., jnp.array([0, 2, 1, 3]), :]
    upper, lower = blocks.transpose(2, 0, 1, 3, 4, 5).reshape(2, b, h // 2, w // 4, 4 * c)
    return PackedFeatures(upper, lower)


def pool_packed(x, window, implementation):
    with kernels.use(implementation):
        return relu_max_pool(pack_features(x), window)


def pool_plain(x, window, implementation):
    return relu_max_pool(x, window, implementation=implementation)


def pools(*names):
    """Parametrises by the kind of map and the implementation."""
    kinds = {"plain": pool_plain, "packed": pool_packed}
    values = [
        functools.partial(kinds[kind], implementation=None if form == "None" else form)
        for kind, form in (name.split("-") for name in names)
    ]
    return pytest.mark.parametrize("pool", values, ids=names)


each_pool = pools("plain-reference", "plain-fast", "packed-fast")
every_pool = pools("plain-reference", "plain-fast", "plain-None", "packed-fast", "packed-None")
every_window = pytest.mark.parametrize("window", [2, 3])


def definition(x, window):
    pad = window - 2
    return nn.max_pool(jax.nn.relu(x), (window, window), (2, 2), ((pad, pad), (pad, pad)))


@each_pool
@every_window
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_maxima_that_a_relu_takes_away_have_no_gradient(pool, window, value):
    x = jnp.full((1, 4, 4, 1), value)
    got = run(functools.partial(pool, window=window), jnp.ones((1, 2, 2, 1)), x)
    assert_equal(got, (jnp.zeros((1, 2, 2, 1)), (jnp.zeros_like(x),)))


@each_pool
@pytest.mark.parametrize(
    ("window", "want"),
    [
        (2, [[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]]),
        # Windows begin one row and one column before the block, within the map.
        (3, [[1, 2, 0, 0], [3, 4, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]),
    ],
)
def test_the_first_of_equal_maxima_gets_the_gradient(pool, window, want):
    gradient = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)
    _, (got,) = run(functools.partial(pool, window=window), gradient, jnp.ones((1, 4, 4, 1)))
    np.testing.assert_array_equal(got[0, ..., 0], want)


@every_pool
@every_window
@every_type
def test_values_and_gradients_are_those_of_flax(pool, window, dtype):
    # Few values, so that many windows have ties, and some are empty.
    x, gradient = whole(0, (2, 8, 12, 3), dtype, -4, 3), whole(1, (2, 4, 6, 3), dtype)
    pool = functools.partial(pool, window=window)
    want = run(functools.partial(definition, window=window), gradient, x)
    assert_equal(run(pool, gradient, x), want)
    assert_equal(jax.jit(pool)(x), want[0])  # without gradients


@every_form
@every_window
@pytest.mark.parametrize("size", [(5, 6), (4, 7), (3, 3), (2, 2), (1, 4), (1, 1)])
def test_odd_and_small_sizes(size, window, implementation):
    x = whole(0, (2, *size, 3), jnp.float32, -4, 3)
    reference = functools.partial(definition, window=window)
    gradient = whole(1, jax.eval_shape(reference, x).shape, jnp.float32)
    pool = functools.partial(pool_plain, window=window, implementation=implementation)
    assert_equal(run(pool, gradient, x), run(reference, gradient, x))


@each_pool
@every_window
def test_no_images(pool, window):
    x, gradient = jnp.zeros((0, 4, 8, 3)), jnp.zeros((0, 2, 4, 3))
    assert_equal(run(functools.partial(pool, window=window), gradient, x), (gradient, (x,)))


@each_pool
@every_window
def test_nan_propagates(pool, window):
    places = np.asarray(list(np.ndindex(4, 8)))
    x = np.zeros((len(places), 4, 8, 1), np.float32)
    x[np.arange(len(places)), *places.T] = np.nan
    x = jnp.asarray(x)
    pool = functools.partial(pool, window=window)
    for pooled in (jax.jit(pool)(x), run(pool, jnp.ones((32, 2, 4, 1)), x)[0]):
        assert np.isnan(np.asarray(pooled)[np.arange(len(places)), *(places // 2).T]).all()


@each_pool
@every_window
@every_type
def test_values_that_are_made_twice_get_the_gradient_all_the_same(pool, window, dtype):
    """XLA may make them again for a comparison, and round them differently, or not at all."""
    x = normal(0, 2, 16, 16, 64)
    scale, bias = jnp.linspace(0.5, 2, 64), normal(2, 64)

    def affine(x):
        return (x * scale + bias).astype(dtype)

    @jax.jit
    def gradient(x):
        pooled, pull = jax.vjp(lambda x: pool(affine(x), window), x)
        return pooled, pull(jnp.ones_like(pooled))[0] / scale

    pooled, got = gradient(x)
    largest = definition(jnp.where(got > 0.5, affine(x), jnp.zeros((), dtype)), window)
    tolerance = 1e-2 if dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(
        *(np.asarray(a, np.float32) for a in (largest, pooled)), rtol=tolerance, atol=1e-6
    )
    assert float(got.sum()) == pytest.approx(int((pooled > 0).sum()))


@every_pool
def test_the_gradient_can_be_differentiated_forwards(pool):
    assert_second_derivative_of_energy(functools.partial(pool, window=3), normal(0, 1, 4, 8, 8))


def test_the_reference_is_differentiated_forwards_by_itself():
    x = normal(0, 1, 6, 6, 3)
    pool = functools.partial(pool_plain, window=3, implementation="reference")
    value, tangent = jax.jvp(pool, (x,), (x,))
    assert_equal(tangent, value)  # linear where the maxima stay


@pytest.mark.parametrize("window", [1, 4])
def test_other_windows_are_refused(window):
    with pytest.raises(ValueError, match=f"window is 2 or 3, not {window}"):
        relu_max_pool(jnp.zeros((1, 4, 4, 1)), window)
