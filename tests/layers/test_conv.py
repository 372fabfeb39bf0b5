import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax import kernels
from ipg_jax.kernels import pack_columns, unpack_columns
from ipg_jax.layers import Conv, PackedConv, StemConv, norm_layer, packed_norm
from ipg_jax.models.backbones.blocks import BasicBlock, Bottleneck
from ipg_jax.models.backbones.resnet import Stage
from ipg_jax.types import PackedFeatures, PackedImage


def drawn(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def close(got, want, tolerance=1e-5):
    def both(a, b):
        assert (a.shape, a.dtype) == (b.shape, b.dtype)
        np.testing.assert_allclose(a, b, rtol=0, atol=tolerance * np.abs(b).max())

    jax.tree.map(both, got, want)


def test_strided_convolution_is_centred_as_in_torch():
    # A kernel that copies its centre: torch samples rows 0, 2, 4; SAME would give 1, 3, 5.
    x = jnp.arange(36.0).reshape(1, 6, 6, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    y = Conv(1, 3, strides=2).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_array_equal(y[0, :, :, 0], np.arange(36).reshape(6, 6)[::2, ::2])


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_output_size_is_the_ceiling(size: int, kernel: int):
    x = jnp.zeros((1, size, size, 2))
    init = functools.partial(Conv(4, kernel, strides=2).init_with_output, jax.random.key(0))
    assert jax.eval_shape(init, x)[0].shape == (1, 4, 4, 4)


@pytest.mark.parametrize(
    ("own", "flax"),
    [
        ({}, {"padding": 1}),
        ({"use_bias": True, "strides": 2}, {"strides": 2, "padding": 1}),
        ({"dilation": 2}, {"kernel_dilation": 2, "padding": 2}),
        ({"padding": 0}, {"padding": 0}),
        ({"groups": 3}, {"feature_group_count": 3, "padding": 1}),
        ({"groups": 6, "use_bias": True}, {"feature_group_count": 6, "padding": 1}),
    ],
)
def test_parameters_and_values_are_those_of_flax(own, flax):
    x = drawn(0, 2, 7, 6, 6)
    options = {"bias_init": nn.initializers.normal(), "use_bias": own.get("use_bias", False)}
    own = Conv(12, 3, **options | own)
    flax = nn.Conv(12, (3, 3), kernel_init=own.kernel_init, **options | flax)
    want, variables = jax.jit(flax.init_with_output)(jax.random.key(0), x)
    got, own_variables = jax.jit(own.init_with_output)(jax.random.key(0), x)
    jax.tree.map(np.testing.assert_array_equal, own_variables, variables)
    close(got, want)


def test_computation_and_parameters_have_types_of_their_own():
    layer = Conv(4, 3, use_bias=True, dtype=jnp.bfloat16)
    init = functools.partial(layer.init_with_output, jax.random.key(0))
    y, variables = jax.eval_shape(init, jnp.zeros((1, 4, 4, 2)))
    assert y.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize(("strides", "dilation"), [(2, 1), (1, 2)])
def test_packed_columns_have_no_strides(strides, dilation):
    layer = PackedConv(4, 3, strides=strides, dilation=dilation)
    with pytest.raises(ValueError, match=f"of 1, not {strides} and {dilation}"):
        layer.init(jax.random.key(0), jnp.zeros((1, 4, 4, 4)))


def run(module, variables, gradient, x):
    """Returns the output, new statistics and the gradients of a training pass."""

    def apply(params, x):
        rest = {"batch_stats": variables.get("batch_stats", {})}
        return module.apply({"params": params} | rest, x, train=True, mutable=["batch_stats"])

    @jax.jit
    def both(params, x):
        y, pull, updates = jax.vjp(apply, params, x, has_aux=True)
        return y, updates, pull(gradient)

    return both(variables["params"], x)


@pytest.mark.parametrize(
    ("kind", "features", "norm"),
    [
        (BasicBlock, 32, "batch_norm"),
        (Bottleneck, 128, "frozen_batch_norm"),
        (Bottleneck, 128, "batch_norm"),
        (Bottleneck, 128, "group_norm"),
    ],
)
def test_a_block_of_packed_columns_is_the_plain_one(kind, features: int, norm: str):
    """With a projection, and with names and values of parameters as they are."""
    x, gradient = drawn(0, 2, 4, 6, 32), drawn(1, 2, 4, 6, features)
    make = functools.partial(kind, features, strides=1)
    plain = make(conv=Conv, norm=norm_layer(norm))
    packed = make(conv=PackedConv, norm=packed_norm(norm_layer(norm)))
    if kind is BasicBlock:
        x = drawn(0, 2, 4, 6, 16)
    variables, of_packed = (
        jax.jit(functools.partial(block.init, train=True))(jax.random.key(1), x)
        for block, x in ((plain, x), (packed, pack_columns(x)))
    )
    jax.tree.map(np.testing.assert_array_equal, of_packed, variables)
    with kernels.use("fast"):
        got, stats, (by_params, by_x) = run(
            packed, variables, pack_columns(gradient), pack_columns(x)
        )
    own = unpack_columns(got), stats, (by_params, unpack_columns(by_x))
    with kernels.use("reference"):
        want = run(plain, variables, gradient, x)
    close(own, want, 1e-4)


def test_a_narrow_stage_is_a_run_of_plain_blocks():
    """Whatever it does with columns, of even widths and odd ones."""
    stage = Stage(128, num_blocks=2, strides=1, bottleneck=True, norm="group_norm")
    options = {"conv": Conv, "norm": norm_layer("group_norm")}
    for width in (6, 5):
        x = drawn(0, 2, 3, width, 32)
        y, variables = jax.jit(functools.partial(stage.init_with_output, train=False))(
            jax.random.key(0), x
        )
        for name in ("block0", "block1"):
            block = Bottleneck(128, **options)
            params = variables["params"][name]
            x = jax.jit(functools.partial(block.apply, train=False))({"params": params}, x)
        close(y, x, 1e-4)


@pytest.mark.parametrize("use_bias", [False, True])
@pytest.mark.parametrize(
    "geometry", [{}, {"kernel_size": 4, "strides": 4, "padding": 0}], ids=["7x7", "4x4"]
)
def test_the_stem_is_a_convolution(geometry, use_bias):
    image = drawn(0, 1, 8, 16, 3)
    stem = StemConv(5, use_bias=use_bias, **geometry)
    plain = Conv(5, stem.kernel_size, stem.strides, stem.padding, use_bias=use_bias)
    init = jax.jit(plain.init)(jax.random.key(0), image)
    for given in (image, PackedImage.pack(image)):
        own = jax.jit(stem.init)(jax.random.key(0), given)
        jax.tree.map(np.testing.assert_array_equal, own, init)
    # So that there is a bias.
    variables = jax.tree.map(lambda x: x + np.arange(5, dtype=np.float32), init)
    want = jax.jit(plain.apply)(variables, image)
    apply = jax.jit(stem.apply)
    close(apply(variables, image), want)
    got = apply(variables, PackedImage.pack(image))
    if not isinstance(got, PackedFeatures):
        close(got, want)
        return
    for row, name in enumerate(("upper", "lower")):
        columns = np.asarray(getattr(got, name)).reshape(1, 2, 2, 4, 5)[..., [0, 2, 1, 3], :]
        close(columns.reshape(1, 2, 8, 5), want[:, row::2])
