"""Maps whose height is divided over devices, against the same on one device."""

import contextlib
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from forms import assert_close, every_form, normal
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ipg_jax import kernels
from ipg_jax.kernels import (
    conv2d,
    height_shards,
    relu,
    relu_max_pool,
    replicate,
    shard_height,
    stem_conv,
    subsample,
)
from ipg_jax.kernels.spatial import num_devices
from ipg_jax.types import PackedImage


def make_mesh(data, space):
    types = (AxisType.Auto,) * 2
    devices = jax.devices()[: data * space]
    return jax.make_mesh((data, space), ("data", "space"), axis_types=types, devices=devices)


def under(mesh, function):
    """Returns the function, jitted, as a training step calls it."""

    @jax.jit
    def traced(*args):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            return function(*args)

    return traced


def divide(mesh, image):
    return jax.device_put(image, NamedSharding(mesh, PartitionSpec("data", "space")))


def shard_shapes(tree):
    return [x.sharding.shard_shape(x.shape) for x in jax.tree.leaves(tree)]


def test_nothing_is_constrained_without_the_axis():
    x, mesh = jnp.ones((2, 8, 4, 3)), jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
    for context, devices in (
        (contextlib.nullcontext(), 1),
        (jax.sharding.use_abstract_mesh(mesh.abstract_mesh), 8),
    ):
        with context:
            assert (height_shards(), num_devices()) == (1, devices)
            assert shard_height(x)[0] is x
            assert replicate(x) is x


def test_the_mesh_at_hand_is_read():
    with jax.sharding.use_abstract_mesh(make_mesh(2, 4).abstract_mesh):
        assert (height_shards(), num_devices()) == (4, 8)


def test_heights_are_divided_all_or_none():
    mesh = make_mesh(2, 4)
    maps = [divide(mesh, normal(0, 2, height, 4, 3)) for height in (8, 16)]
    assert shard_shapes(under(mesh, shard_height)(*maps)) == [(1, 2, 4, 3), (1, 4, 4, 3)]
    odd = normal(1, 2, 6, 4, 3)
    whole = under(mesh, shard_height)(*maps, odd)
    assert [shape[1] for shape in shard_shapes(whole)] == [8, 16, 6]
    assert_close(whole, (*maps, odd), 0)


def test_replicated_arrays_of_mapped_images():
    mesh = make_mesh(2, 4)
    x = divide(mesh, normal(0, 2, 8, 3))
    got = under(mesh, jax.vmap(replicate))(x)
    assert shard_shapes(got) == [(1, 8, 3)]
    np.testing.assert_array_equal(got, x)


@every_form
@pytest.mark.parametrize(("height", "strides"), [(8, (2, 1)), (16, (2, 2, 2))])
def test_gradients_of_convolutions_whose_heights_do_not_divide(height, strides, implementation):
    """XLA gets them wrong by itself (`tools/xla_sharded_height.py`)."""
    mesh = make_mesh(1, 8)
    image = normal(0, 2, height, 16, 3)
    weights = [normal(1 + i, 3, 3, 4 if i else 3, 4) / 4 for i in range(len(strides))]

    def loss(weights, image):
        x = image
        for kernel, stride in zip(weights, strides, strict=True):
            convolve = functools.partial(conv2d, strides=stride, padding=1)
            x = relu(convolve(x, kernel, implementation=implementation))
        return (x**2).sum()

    gradient = jax.value_and_grad(loss)
    assert_close(
        under(mesh, gradient)(weights, divide(mesh, image)), jax.jit(gradient)(weights, image), 1e-4
    )


@pytest.mark.parametrize(  # half of the rows divide in the first and third case alone
    ("devices", "rows"), [((1, 2), 24), ((1, 2), 26), ((1, 4), 24), ((1, 4), 28), ((2, 2), 26)]
)
def test_gradients_of_subsampled_maps(devices, rows):
    """As of the pooled level of an FPN, whose outputs all go to a loss."""
    mesh = make_mesh(*devices)
    image = normal(0, 2, rows, 12, 4)
    kernel = normal(1, 3, 3, 4, 4) / 6
    factors = [normal(2, 2, rows, 12, 4), normal(3, 2, -(-rows // 2), 6, 4)]

    def loss(kernel, image):
        x = conv2d(image, kernel, padding=1)
        small = conv2d(subsample(x), kernel, padding=1)
        return sum(jnp.sum(y * factor) for y, factor in zip((x, small), factors, strict=True))

    gradient = jax.value_and_grad(loss, argnums=(0, 1))
    got = under(mesh, gradient)(kernel, divide(mesh, image))
    assert_close(got, jax.jit(gradient)(kernel, image), 1e-4)


@pytest.mark.parametrize("channels", [9, 16])  # those that do not divide over the devices too
@pytest.mark.parametrize("rows", [8, 12])  # 2 and 3 behind two strides: a row each, and no rows
@pytest.mark.parametrize("devices", [(2, 2), (2, 4)])
def test_gradients_of_depthwise_convolutions(devices, rows, channels):
    mesh = make_mesh(*devices)
    image = normal(0, 2, rows, 8, channels)
    weights = [normal(i, 7, 7, 1, channels) / 7 for i in (1, 2, 3)]
    factors = [normal(i, 2, rows, 8, channels) for i in (4, 5, 6)]

    def loss(weights, x):
        total = jnp.float32(0)
        for stride, kernel, factor in zip((1, 2, 2), weights, factors, strict=True):
            x = x[:, ::stride, ::stride] if stride > 1 else x
            x = jnp.tanh(conv2d(x, kernel, padding=3, groups=channels))
            total += jnp.sum(x * factor[:, : x.shape[1], : x.shape[2]])
        return total

    gradient = jax.value_and_grad(loss, argnums=(0, 1))
    got = under(mesh, gradient)(weights, divide(mesh, image))
    assert_close(got, jax.jit(gradient)(weights, image), 1e-4)


@every_form
@pytest.mark.parametrize("packed", [False, True])
def test_all_kernels_on_divided_images(packed, implementation):
    """Of 32 rows on four devices the last map has 4, and of 16 rows 2."""
    mesh = make_mesh(2, 4)
    weights = {
        "stem": normal(1, 7, 7, 3, 8) / 8,
        "down": normal(2, 1, 1, 8, 8) / 3,
        "same": normal(3, 3, 3, 8, 8) / 8,
        "each": normal(5, 7, 7, 1, 8) / 7,
    }

    def loss(weights, image):
        image = PackedImage.pack(image) if packed else image
        x = relu_max_pool(stem_conv(image, weights["stem"], strides=2, padding=3), 3)
        above = conv2d(x, weights["down"], strides=2)
        above = relu(conv2d(above, weights["same"], padding=1))
        x += jnp.repeat(jnp.repeat(above, 2, axis=1), 2, axis=2)
        x = conv2d(x, weights["each"], padding=3, groups=8)
        return (x**2).mean()

    gradient = jax.value_and_grad(loss, argnums=(0, 1))
    for height in (32, 16):
        image = normal(0, 2, height, 16, 3)
        with kernels.use("reference"):
            want = jax.jit(gradient)(weights, image)
        with kernels.use(implementation):
            got = under(mesh, gradient)(weights, divide(mesh, image))
        assert_close(got, want, 1e-4)
