"""Maps in pairs of columns, against the plain maps that they stand for."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax.models import pairs
from ipg_jax.models.convolution import convolve
from ipg_jax.models.pairs import (
    columns_before,
    columns_before_gradient,
    convolve_pairs,
    from_pairs,
    pair_kernel,
    to_pairs,
)
from ipg_jax.models.resnet import BasicBlock, Bottleneck


def test_pairs_by_hand():
    x = jnp.arange(8.0).reshape(1, 1, 4, 2)
    np.testing.assert_array_equal(to_pairs(x)[0, 0], [[0, 1, 2, 3], [4, 5, 6, 7]])
    np.testing.assert_array_equal(from_pairs(to_pairs(x)), x)


def test_moved_columns_by_hand():
    """By the form of the platform at hand, and by that of TPUs."""
    x = to_pairs(jnp.arange(8.0).reshape(1, 1, 4, 2))
    for before in (columns_before, pairs._before_by_product):
        np.testing.assert_array_equal(before(x)[0, 0], [[0, 0, 0, 1], [2, 3, 4, 5]])
    np.testing.assert_array_equal(columns_before_gradient(x)[0, 0], [[2, 3, 4, 5], [6, 7, 0, 0]])


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_moved_columns_are_exact(dtype):
    x = jax.random.normal(jax.random.key(0), (2, 3, 4, 6)).astype(dtype)
    np.testing.assert_array_equal(pairs._before_by_product(x), pairs._before(x))


def test_kernels_between_pairs_by_hand():
    one = jnp.float32([[[[3]]]])
    np.testing.assert_array_equal(pair_kernel(one)[0, 0], [[3, 0], [0, 3]])
    # Rows are the six columns of three pairs, columns the two of the pair in the middle.
    three = jnp.arange(9.0).reshape(3, 3, 1, 1)
    want = [[0, 0], [3, 0], [4, 3], [5, 4], [0, 5], [0, 0]]
    np.testing.assert_array_equal(pair_kernel(three)[1].reshape(6, 2), want)


@pytest.mark.parametrize("form", [pairs._in_pairs, pairs._in_columns, convolve_pairs])
@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_a_convolution_of_pairs_is_the_plain_one(form, size: int):
    """Of two inputs, whose results are added up; both the form of TPUs and that of others."""
    keys = jax.random.split(jax.random.key(0), 4)
    inputs = tuple(jax.random.normal(k, (2, 5, 6, c)) for k, c in zip(keys, (3, 4), strict=False))
    kernels = tuple(
        jax.random.normal(k, (size, size, c, 5)) for k, c in zip(keys[2:], (3, 4), strict=True)
    )

    def plain(inputs, kernels):
        return sum(convolve(x, k, jnp.float32) for x, k in zip(inputs, kernels, strict=True))

    def paired(inputs, kernels):
        return from_pairs(form(tuple(map(to_pairs, inputs)), kernels, jnp.float32))

    want, pull = jax.vjp(plain, inputs, kernels)
    got, own_pull = jax.vjp(paired, inputs, kernels)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    gradient = jax.random.normal(keys[0], want.shape)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
        own_pull(gradient),
        pull(gradient),
    )


@pytest.mark.parametrize("norm", ["frozen_batch_norm", "batch_norm", "group_norm"])
@pytest.mark.parametrize(("kind", "features"), [(BasicBlock, 64), (Bottleneck, 256)])
def test_a_block_of_pairs_is_the_plain_one(kind, features: int, norm: str):
    """With a projection, and with names and shapes of parameters as they are."""
    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 32))
    plain, paired = (kind(features, norm=norm, pairs=pairs) for pairs in (False, True))
    variables = plain.init(jax.random.key(1), x, train=True)
    init = functools.partial(paired.init, train=True)
    jax.tree.map(np.testing.assert_array_equal, init(jax.random.key(1), to_pairs(x)), variables)

    def run(block, x):
        return block.apply(variables, x, train=True, mutable=["batch_stats"])

    want, want_stats = run(plain, x)
    got, stats = run(paired, to_pairs(x))
    np.testing.assert_allclose(from_pairs(got), want, rtol=1e-4, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), stats, want_stats
    )


def test_the_gradient_of_a_convolution_of_pairs_can_be_differentiated_forward():
    x = jax.random.normal(jax.random.key(0), (1, 2, 2, 8))
    kernel = jax.random.normal(jax.random.key(1), (3, 3, 4, 4))

    def energy(x):
        return (convolve_pairs((x,), (kernel,), jnp.float32) ** 2).sum()

    _, product = jax.jvp(jax.grad(energy), (x,), (x,))
    np.testing.assert_allclose(product, jax.grad(energy)(x), rtol=1e-4)
