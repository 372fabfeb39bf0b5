"""The stem in blocks, against the plain layers that it stands for."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax.models import GuidedResNet
from ipg_jax.models.norm import norm_factory
from ipg_jax.models.resnet import conv
from ipg_jax.models.stem import StemConv, max_pool_2x2, max_pool_3x3, norm_blocks
from ipg_jax.ops import to_blocks


def by_columns(x):
    """Blocks of 2x2 pixels, their channels by column, row and feature."""
    b, h, w, c = x.shape
    return (
        x.reshape(b, h // 2, 2, w // 2, 2, c)
        .transpose(0, 1, 3, 4, 2, 5)
        .reshape(b, h // 2, w // 2, 4 * c)
    )


def max_pool(x, window):
    return max_pool_3x3(x) if window == 3 else max_pool_2x2(*jnp.split(x, 2, axis=-1))


def test_the_convolution_is_the_plain_one():
    image = jax.random.normal(jax.random.key(0), (2, 24, 16, 3))
    stem, plain = StemConv(5), conv(5, 7, strides=2)
    variables = plain.init(jax.random.key(1), image)

    def outputs(apply, image):
        value, pull = jax.vjp(lambda v: apply(v, image), variables)
        return value, pull

    want, pull = outputs(plain.apply, image)
    for given in (image, to_blocks(image, 4)):
        got, own_pull = outputs(stem.apply, given)
        np.testing.assert_allclose(got, by_columns(want), rtol=1e-5, atol=1e-5)
        gradient = jax.random.normal(jax.random.key(2), want.shape)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
            own_pull(by_columns(gradient)),
            pull(gradient),
        )


def test_columns_are_those_of_the_blocks():
    image = jax.random.normal(jax.random.key(0), (2, 24, 16, 3))
    stem = StemConv(5)
    variables = stem.init(jax.random.key(1), image)
    columns = stem.apply(variables, image, method="columns")
    np.testing.assert_allclose(
        jnp.concatenate(columns, axis=-1), stem.apply(variables, image), rtol=1e-5, atol=1e-5
    )


def test_parameters_are_those_of_the_plain_convolution():
    image = jnp.zeros((1, 8, 8, 3))
    jax.tree.map(
        np.testing.assert_array_equal,
        StemConv(64).init(jax.random.key(0), image),
        conv(64, 7, strides=2).init(jax.random.key(0), image),
    )


@pytest.mark.parametrize("kind", ["frozen_batch_norm", "batch_norm", "group_norm"])
def test_norms_have_the_channels_of_pixels(kind):
    class Norm(nn.Module):
        blocks: bool

        @nn.compact
        def __call__(self, x):
            norm = norm_factory(kind, train=True, dtype=jnp.float32, param_dtype=jnp.float32)
            return norm_blocks(norm(name="norm"), x, 32) if self.blocks else norm(name="norm")(x)

    x = jax.random.normal(jax.random.key(0), (2, 4, 6, 32)) * 3 + 1
    variables = Norm(blocks=False).init(jax.random.key(1), x)
    variables = jax.tree.map(lambda v: v + jnp.linspace(0, 1, v.size).reshape(v.shape), variables)
    want, want_stats = Norm(blocks=False).apply(variables, x, mutable=["batch_stats"])
    got, stats = Norm(blocks=True).apply(variables, by_columns(x), mutable=["batch_stats"])
    np.testing.assert_allclose(got, by_columns(want), rtol=1e-5, atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, want_stats)


def test_max_pool_pads_with_minus_infinity():
    x = -jnp.ones((1, 4, 4, 1))
    np.testing.assert_array_equal(max_pool(by_columns(x), 3), -np.ones((1, 2, 2, 1)))


def test_first_of_equal_maxima_gets_the_gradient():
    x = by_columns(jnp.zeros((1, 4, 4, 1)))
    gradient = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)
    (got,) = jax.vjp(lambda x: max_pool(x, 2), x)[1](gradient)
    want = jnp.float32([[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(got, by_columns(want[None, :, :, None]))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("window", [2, 3])
def test_max_pool_has_the_values_and_gradients_of_xla(window, dtype):
    pad = window - 2

    def reference(x):
        return nn.max_pool(x, (window, window), (2, 2), ((pad, pad), (pad, pad)))

    # Few values, so that many windows have ties.
    x = jax.random.randint(jax.random.key(0), (2, 8, 12, 3), 0, 4).astype(dtype)
    want, pull = jax.vjp(reference, x)
    got, own_pull = jax.vjp(lambda x: max_pool(x, window), by_columns(x))
    np.testing.assert_array_equal(got, want)
    gradient = jax.random.randint(jax.random.key(1), want.shape, -8, 8).astype(dtype)
    np.testing.assert_array_equal(own_pull(gradient)[0], by_columns(pull(gradient)[0]))


def test_the_gradient_of_max_pool_can_be_differentiated_forward():
    x = jax.random.normal(jax.random.key(0), (1, 4, 4, 8))

    def energy(x):
        return (max_pool(x, 3) ** 2).sum()

    # Where the maxima stay, the energy is a quadratic form: its Hessian takes a point to the
    # gradient there.
    _, product = jax.jvp(jax.grad(energy), (x,), (x,))
    np.testing.assert_allclose(product, jax.grad(energy)(x), rtol=1e-5)


def test_a_backbone_reads_images_and_blocks():
    pyramid = tuple(jax.random.normal(jax.random.key(i), (1, 64 >> i, 32 >> i, 3)) for i in (0, 1))
    backbone = GuidedResNet(depth=18, fusion_stages=(2,))
    variables = backbone.init(jax.random.key(0), pyramid, train=False)
    apply = jax.jit(lambda pyramid: backbone.apply(variables, pyramid, train=False))
    jax.tree.map(
        np.testing.assert_array_equal,
        apply(pyramid),
        apply(tuple(to_blocks(level, 4) for level in pyramid)),
    )


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiples of 4, got 8 x 6"):
        StemConv().init(jax.random.key(0), jnp.zeros((1, 8, 6, 3)))
