import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ipg_jax.models import FrozenBatchNorm, IPGTransform
from ipg_jax.models.norm import norm_factory
from ipg_jax.models.resnet import Bottleneck, conv


def test_strided_convolution_is_centred_as_in_torch():
    # A kernel that copies its centre: torch samples rows 0, 2, 4; SAME would give 1, 3, 5.
    x = jnp.arange(36.0).reshape(1, 6, 6, 1)
    kernel = jnp.zeros((3, 3, 1, 1)).at[1, 1].set(1.0)
    y = conv(1, 3, strides=2).apply({"params": {"kernel": kernel}}, x)
    np.testing.assert_array_equal(y[0, :, :, 0], np.arange(36).reshape(6, 6)[::2, ::2])


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize("kernel", [1, 3, 7])
def test_output_size_is_the_ceiling(size: int, kernel: int):
    x = jnp.zeros((1, size, size, 2))
    y = conv(4, kernel, strides=2).init_with_output(jax.random.key(0), x)[0]
    assert y.shape == (1, 4, 4, 4)


def test_frozen_batch_norm_by_hand_and_out_of_the_optimizers_reach():
    norm = FrozenBatchNorm()
    x = jnp.array([[[[3.0, 10.0]]]])
    fresh = norm.init(jax.random.key(0), x)
    assert set(fresh) == {"batch_stats"}
    np.testing.assert_allclose(norm.apply(fresh, x), x, rtol=1e-5)
    stats = {
        "mean": jnp.array([1.0, 2.0]),
        "var": jnp.array([4.0, 16.0]),
        "scale": jnp.array([1.0, 3.0]),
        "bias": jnp.array([0.0, -1.0]),
    }
    np.testing.assert_allclose(
        norm.apply({"batch_stats": stats}, x)[0, 0, 0], [1.0, 5.0], rtol=1e-5
    )


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("kind", ["frozen_batch_norm", "batch_norm", "group_norm"])
def test_norms_keep_the_type(kind, dtype):
    x = jnp.ones((2, 3, 3, 32), dtype)
    block = Bottleneck(128, norm=kind, dtype=dtype)
    variables = block.init(jax.random.key(0), x, train=False)
    y, _ = block.apply(variables, x, train=True, mutable=["batch_stats"])
    assert y.dtype == dtype


def test_batch_norm_is_synchronised_over_the_mesh():
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    types = {"dtype": jnp.float32, "param_dtype": jnp.float32}
    x = (
        jax.random.normal(jax.random.key(0), (8, 4, 4, 6))
        * jnp.arange(1.0, 9.0)[:, None, None, None]
    )

    import flax.linen as nn

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x):
            return norm_factory("batch_norm", train=True, **types)(name="bn")(x)

    variables = Net().init(jax.random.key(0), x)
    apply = jax.jit(lambda v, x: Net().apply(v, x, mutable=["batch_stats"]))
    want, want_stats = apply(variables, x)
    sharded = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    got, got_stats = apply(variables, sharded)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), got_stats, want_stats)
    np.testing.assert_allclose(np.mean(got, axis=(0, 1, 2)), 0.0, atol=1e-5)


def test_transform_takes_a_quarter_of_the_resolution():
    transform = IPGTransform(features=512)
    image = jnp.zeros((2, 32, 64, 3))
    shape = jax.eval_shape(
        lambda key: transform.init_with_output(key, image, train=False)[0], jax.random.key(0)
    )
    assert shape.shape == (2, 8, 16, 512)
