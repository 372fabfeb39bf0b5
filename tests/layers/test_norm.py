import functools
import inspect
import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ipg_jax.kernels import pack_columns
from ipg_jax.layers import (
    NORMS,
    BatchNorm,
    FrozenBatchNorm,
    GroupNorm,
    LayerNorm,
    NormKind,
    counting,
    maybe_remat,
    norm_layer,
    packed_norm,
)
from ipg_jax.types import PackedFeatures

every_kind = pytest.mark.parametrize("kind", typing.get_args(NormKind))


def drawn(*shape):
    return jnp.asarray((np.random.default_rng(0).normal(size=shape) * 3 + 1).astype(np.float32))


def varied(variables):
    """Parameters and statistics that differ between channels."""
    return jax.tree.map(
        lambda v: v + np.linspace(0, 1, v.size, dtype=np.float32).reshape(v.shape), variables
    )


def initial(norm, x):
    return jax.jit(norm.init)(jax.random.key(0), x)


def training(norm, variables, x, **options):
    apply = jax.jit(lambda v, x: norm.apply(v, x, train=True, mutable=["batch_stats"], **options))
    return apply(variables, x)


def close(got, want):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


def test_norms_by_name():
    assert set(NORMS) == set(typing.get_args(NormKind))
    # Without the tests' check of types, which would refuse it first.
    with pytest.raises(ValueError, match=r"norm is one of .*, not 'layer'"):
        inspect.unwrap(norm_layer)("layer")


def test_frozen_batch_norm_by_hand_and_out_of_the_optimizers_reach():
    norm = FrozenBatchNorm()
    x = jnp.array([[[[3.0, 10.0]]]])
    fresh = initial(norm, x)
    assert set(fresh) == {"batch_stats"}
    np.testing.assert_allclose(norm.apply(fresh, x), x, rtol=1e-5)
    stats = {
        "mean": jnp.array([1.0, 2.0]),
        "var": jnp.array([4.0, 16.0]),
        "scale": jnp.array([1.0, 3.0]),
        "bias": jnp.array([0.0, -1.0]),
    }
    variables = {"batch_stats": stats}
    np.testing.assert_allclose(norm.apply(variables, x)[0, 0, 0], [1.0, 5.0], rtol=1e-5)
    got, updates = norm.apply(variables, x, train=True, mutable=["batch_stats"])
    np.testing.assert_allclose(got[0, 0, 0], [1.0, 5.0], rtol=1e-5)
    jax.tree.map(np.testing.assert_array_equal, updates, variables)


def test_batch_norm_by_hand():
    x = jnp.array([1.0, 3.0]).reshape(2, 1, 1, 1)
    norm = BatchNorm(epsilon=0.0)
    variables = initial(norm, x)
    got, updates = training(norm, variables, x)
    np.testing.assert_allclose(got.ravel(), [-1, 1], rtol=1e-6)
    # A tenth of the new mean 2, and of the new variance 1.
    stats = {name: float(value[0]) for name, value in updates["batch_stats"].items()}
    assert stats == pytest.approx({"mean": 0.2, "var": 1.0})
    running = norm.apply(variables | updates, x)
    np.testing.assert_allclose(running.ravel(), [0.8, 2.8], rtol=1e-6)


def test_group_and_layer_norm_by_the_definition():
    x = drawn(2, 3, 4, 64)

    def normalized(x, axes):
        return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)

    groups = np.asarray(x, np.float64).reshape(2, 3, 4, 32, 2)
    want = normalized(groups, (1, 2, 4)).reshape(x.shape)
    close(jax.jit(GroupNorm().init_with_output)(jax.random.key(0), x)[0], want)
    layer = LayerNorm(epsilon=1e-5)
    want = normalized(np.asarray(x, np.float64), -1)
    close(jax.jit(layer.init_with_output)(jax.random.key(0), x)[0], want)


def test_images_that_the_mask_leaves_out_do_not_count_in_batch_norm():
    x, mask = drawn(3, 4, 5, 8), jnp.array([True, True, False]).reshape(3, 1, 1, 1)
    norm = BatchNorm()
    variables = varied(initial(norm, x))
    got, stats = training(norm, variables, x, mask=mask)
    want, want_stats = training(norm, variables, x[:2])
    close(got[:2], want)
    close(stats, want_stats)


def test_without_an_image_that_counts_the_running_statistics_stay():
    x, norm = drawn(3, 4, 5, 8), BatchNorm()
    variables = varied(initial(norm, x))
    got, stats = training(norm, variables, x, mask=jnp.zeros((3, 1, 1, 1), bool))
    assert np.isfinite(got).all()
    jax.tree.map(np.testing.assert_array_equal, stats["batch_stats"], variables["batch_stats"])


@pytest.mark.parametrize("remat", [False, True])
@pytest.mark.parametrize("devices", [1, 4])
def test_images_are_left_out_of_all_batch_norms_of_a_context(devices, remat):
    """Those of pixels, of packed columns and of packed features."""

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            norm = norm_layer("batch_norm")
            x = maybe_remat(lambda _, x: norm(name="a")(x, train=True), self, x, enabled=remat)
            x = packed_norm(norm)(name="b")(jnp.tanh(x), train=True)
            return norm(name="c")(PackedFeatures(x, 2 * x), train=True)

    @jax.jit
    def apply(x, counts):
        with counting(counts):
            return Net().apply(variables, x, mutable=["batch_stats"])

    x, counts = drawn(4, 4, 6, 8), jnp.array([True, False, True, False])
    variables = varied(initial(Net(), x))
    mesh = jax.make_mesh(
        (devices,),
        ("data",),
        axis_types=(jax.sharding.AxisType.Auto,),
        devices=jax.devices()[:devices],
    )
    placed = jax.device_put((x, counts), NamedSharding(mesh, PartitionSpec("data")))
    got, stats = apply(*placed)
    plain = jax.jit(lambda x: Net().apply(variables, x, mutable=["batch_stats"]))
    want, want_stats = plain(x[::2])
    close(jax.tree.map(lambda row: row[::2], got), want)
    close(stats, want_stats)


def test_a_norms_own_mask_goes_before_that_of_the_context():
    x, counts = drawn(4, 4, 5, 8), jnp.array([True, False, True, False])
    norm = BatchNorm()
    variables = varied(initial(norm, x))
    with counting(counts):
        _, stats = training(norm, variables, x, mask=~counts[:, None, None, None])
    close(stats, training(norm, variables, x[1::2])[1])


def test_what_the_mask_leaves_out_does_not_count_in_group_norm():
    """An image that is left out whole stays finite, with finite gradients."""
    x = drawn(3, 4, 5, 64)
    mask = (jnp.arange(4) < jnp.array([[2], [4], [0]]))[..., None, None]
    norm = GroupNorm()
    variables = varied(initial(norm, x))
    got, _ = training(norm, variables, x, mask=mask)
    for i, rows in enumerate((2, 4, 4)):
        want, _ = training(norm, variables, x[i : i + 1, :rows])
        close(got[i : i + 1, :rows], want)
    by_x = jax.jit(jax.grad(lambda x: (norm.apply(variables, x, mask=mask) ** 2)[:2].sum()))(x)
    assert np.isfinite(by_x).all()


@every_kind
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_norms_give_the_type_that_is_asked_for(kind, dtype):
    x = jnp.asarray(np.ones((2, 4, 8, 128), dtype))
    norm = norm_layer(kind, dtype=dtype, param_dtype=jnp.float32)()
    for given in (x, PackedFeatures(x, x)):
        variables = initial(norm, given)
        y, stats = training(norm, variables, given)
        assert {x.dtype for x in jax.tree.leaves(y)} == {jnp.dtype(dtype)}
        assert jax.tree.structure(y) == jax.tree.structure(given)
        floats = {x.dtype for x in jax.tree.leaves((variables, stats))}
        assert floats == {jnp.dtype("float32")}


@pytest.mark.parametrize("kind", ["batch_norm", "group_norm"])
def test_statistics_of_bfloat16_are_of_float32(kind):
    # 4096 ones and as many threes: bfloat16 stops counting at 256.
    x = jnp.tile(jnp.array([1, 3], jnp.bfloat16), 4096).reshape(1, 128, 64, 1)
    x = jnp.broadcast_to(x, (1, 128, 64, 32))
    norm = norm_layer(kind, dtype=jnp.float32, epsilon=0.0)()
    y, _ = training(norm, initial(norm, x), x)
    np.testing.assert_allclose(y, np.asarray(x, np.float32) - 2, rtol=1e-5)


@every_kind
@pytest.mark.parametrize("train", [False, True])
def test_packed_features_have_the_norm_of_pixels(kind, train):
    x = drawn(2, 4, 8, 32)
    norm = norm_layer(kind)()

    def pack(x):
        """By the definition: rows 0 and 1, columns 0, 2, 1 and 3 of blocks of 2x4 pixels."""
        blocks = x.reshape(2, 2, 2, 2, 4, 32)[..., jnp.array([0, 2, 1, 3]), :]
        return PackedFeatures(*blocks.transpose(2, 0, 1, 3, 4, 5).reshape(2, 2, 2, 2, 128))

    variables = initial(norm, x)
    close(initial(norm, jax.jit(pack)(x)), variables)
    apply = jax.jit(
        lambda x: norm.apply(varied(variables), x, train=train, mutable=["batch_stats"])
    )
    (want, want_stats), (got, stats) = apply(x), apply(pack(x))
    close(got, pack(want))
    close(stats, want_stats)


@every_kind
@pytest.mark.parametrize("train", [False, True])
def test_packed_columns_have_the_norm_of_pixels(kind, train):
    class Net(nn.Module):
        packed: bool

        @nn.compact
        def __call__(self, x):
            norm = norm_layer(kind)
            return (packed_norm(norm) if self.packed else norm)(name="bn")(x, train=train)

    x = drawn(2, 4, 6, 32)
    plain, packed = Net(packed=False), Net(packed=True)
    variables = initial(plain, x)
    close(initial(packed, pack_columns(x)), variables)
    variables = varied(variables)

    def apply(net, x):
        return jax.jit(functools.partial(net.apply, mutable=["batch_stats"]))(variables, x)

    (want, want_stats), (got, stats) = apply(plain, x), apply(packed, pack_columns(x))
    close(got, pack_columns(want))
    close(stats, want_stats)


def test_batch_norm_is_synchronised_over_the_mesh():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    x = drawn(8, 4, 4, 6) * jnp.arange(1.0, 9.0)[:, None, None, None]
    norm = BatchNorm()
    variables = initial(norm, x)
    want = training(norm, variables, x)
    got = training(norm, variables, jax.device_put(x, NamedSharding(mesh, PartitionSpec("data"))))
    close(got, want)
    np.testing.assert_allclose(np.mean(got[0], axis=(0, 1, 2)), 0.0, atol=1e-5)
