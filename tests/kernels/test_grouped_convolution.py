"""Convolutions of groups of channels, by one device and by several along the height."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ipg_jax.kernels import conv2d


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def assert_close(have, want):
    for a, b in zip(jax.tree.leaves(have), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * np.abs(b).max())


@pytest.mark.parametrize(("groups", "features"), [(2, 6), (12, 12), (12, 24)])
def test_each_group_is_a_convolution_of_its_own(groups: int, features: int):
    x, kernel = normal(0, 2, 7, 6, 12), normal(1, 3, 3, 12 // groups, features)

    def apart(x, kernel):
        pairs = zip(jnp.split(x, groups, axis=-1), jnp.split(kernel, groups, axis=-1), strict=True)
        return jnp.concatenate([conv2d(*pair, padding=1) for pair in pairs], axis=-1)

    def together(x, kernel):
        return conv2d(x, kernel, padding=1, groups=groups)

    want, pull = jax.vjp(apart, x, kernel)
    have, pull_together = jax.vjp(together, x, kernel)
    gradient = normal(2, *want.shape)
    assert_close((have, pull_together(gradient)), (want, pull(gradient)))


@pytest.mark.parametrize("channels", [9, 16])  # those that do not divide over the devices too
@pytest.mark.parametrize("rows", [8, 12])  # 2 and 3 behind two strides: a row each, and no rows
@pytest.mark.parametrize("devices", [(2, 2), (2, 4)])
def test_devices_along_the_height_have_the_gradients_of_one(devices, rows: int, channels: int):
    mesh = jax.make_mesh(devices, ("data", "space"), axis_types=(AxisType.Auto,) * 2)
    x, kernels = normal(0, 2, rows, 8, channels), [normal(i, 7, 7, 1, channels) for i in (1, 2, 3)]

    def loss(x, kernels):
        weights = iter([normal(i, 2, rows, 8, channels) for i in (4, 5, 6)])
        total = jnp.float32(0)
        for stride, kernel in zip((1, 2, 2), kernels, strict=True):
            x = x[:, ::stride, ::stride] if stride > 1 else x
            x = jnp.tanh(conv2d(x, kernel / 7, padding=3, groups=channels))
            total += jnp.sum(x * next(weights)[:, : x.shape[1], : x.shape[2]])
        return total

    gradients = jax.grad(loss, argnums=(0, 1))
    want = jax.jit(gradients)(x, kernels)
    with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        placed = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data", "space")))
        have = jax.jit(gradients)(placed, kernels)
    assert_close(have, want)
