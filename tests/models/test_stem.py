"""The stem in blocks, against the plain layers that it stands for."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax.models import GuidedResNet, stem
from ipg_jax.models.norm import norm_factory
from ipg_jax.models.pairs import from_pairs
from ipg_jax.models.resnet import conv
from ipg_jax.models.stem import StemConv, norm_halves, relu_max_pool_2x2, relu_max_pool_3x3
from ipg_jax.ops import to_blocks


def columns_of(x):
    """Left and right columns of blocks of 2x2 pixels, their channels by row and feature."""
    b, h, w, c = x.shape
    blocks = x.reshape(b, h // 2, 2, w // 2, 2, c).transpose(4, 0, 1, 3, 2, 5)
    return tuple(blocks.reshape(2, b, h // 2, w // 2, 2 * c))


def rows_of(x):
    """Upper and lower rows of blocks of 2x4 pixels, their channels by column and feature."""
    b, h, w, c = x.shape
    blocks = x.reshape(b, h // 2, 2, w // 4, 4, c)[..., jnp.array([0, 2, 1, 3]), :]
    return tuple(blocks.transpose(2, 0, 1, 3, 4, 5).reshape(2, b, h // 2, w // 4, 4 * c))


HALVES = {"columns": columns_of, "rows": rows_of}


def relu_max_pool(x, window):
    if window == 3:
        return from_pairs(relu_max_pool_3x3(*rows_of(x)))
    return relu_max_pool_2x2(*columns_of(x))


pools = pytest.mark.parametrize(("pool", "window"), [(relu_max_pool, 2), (relu_max_pool, 3)])


@pytest.mark.parametrize("method", ["columns", "rows"])
def test_the_convolution_is_the_plain_one(method: str):
    halves_of = HALVES[method]
    image = jax.random.normal(jax.random.key(0), (2, 24, 16, 3))
    conv1, plain = StemConv(5), conv(5, 7, strides=2)
    variables = plain.init(jax.random.key(1), image)
    want, pull = jax.vjp(lambda v: halves_of(plain.apply(v, image)), variables)
    for given in (image, to_blocks(image, 4)):
        apply = lambda v: tuple(conv1.apply(v, given, method=method))  # noqa: B023, E731
        got, own_pull = jax.vjp(apply, variables)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)
        gradient = jax.tree.map(lambda x: jax.random.normal(jax.random.key(2), x.shape), want)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4),
            own_pull(gradient),
            pull(gradient),
        )


def test_rows_of_pairs_and_of_blocks_are_the_same():
    """One is the form of TPUs, the other that of other platforms."""
    blocks = jax.random.normal(jax.random.key(0), (2, 6, 8, 48))
    kernel = jax.random.normal(jax.random.key(1), (7, 7, 3, 5))

    def of(form):
        return jax.vjp(lambda k: form(blocks, k, dtype=jnp.float32), kernel)

    (want, pull), (got, own_pull) = of(stem._rows_of_blocks), of(stem._rows_of_pairs)
    gradient = jax.tree.map(lambda x: jax.random.normal(jax.random.key(2), x.shape), want)
    for a, b in ((got, want), (own_pull(gradient), pull(gradient))):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), a, b)


def test_parameters_are_those_of_the_plain_convolution():
    image = jnp.zeros((1, 8, 8, 3))
    jax.tree.map(
        np.testing.assert_array_equal,
        StemConv(64).init(jax.random.key(0), image, method="rows"),
        conv(64, 7, strides=2).init(jax.random.key(0), image),
    )


@pytest.mark.parametrize("kind", ["frozen_batch_norm", "batch_norm", "group_norm"])
def test_norms_have_the_channels_of_pixels(kind):
    class Norm(nn.Module):
        halves: bool

        @nn.compact
        def __call__(self, x, halves_of=None):
            norm = norm_factory(kind, train=True, dtype=jnp.float32, param_dtype=jnp.float32)
            norm = norm(name="norm")
            if not self.halves:
                return norm(x)

            return norm_halves(norm, halves_of(x), 32)

    x = jax.random.normal(jax.random.key(0), (2, 4, 8, 32)) * 3 + 1
    variables = Norm(halves=False).init(jax.random.key(1), x)
    variables = jax.tree.map(lambda v: v + jnp.linspace(0, 1, v.size).reshape(v.shape), variables)
    want, want_stats = Norm(halves=False).apply(variables, x, mutable=["batch_stats"])
    for halves_of in HALVES.values():
        got, stats = Norm(halves=True).apply(variables, x, halves_of, mutable=["batch_stats"])
        for half, whole in zip(got, halves_of(want), strict=True):
            np.testing.assert_allclose(half, whole, rtol=1e-5, atol=1e-5)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), stats, want_stats)


@pools
@pytest.mark.parametrize("value", [0.0, -1.0])
def test_maxima_that_a_relu_takes_away_have_no_gradient(pool, window, value):
    x = jnp.full((1, 4, 4, 1), value)
    got, pull = jax.vjp(lambda x: pool(x, window), x)
    np.testing.assert_array_equal(got, np.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(pull(jnp.ones_like(got))[0], np.zeros_like(x))


def test_first_of_equal_maxima_gets_the_gradient():
    x = jnp.ones((1, 4, 4, 1))
    gradient = jnp.arange(1.0, 5.0).reshape(1, 2, 2, 1)
    (got,) = jax.vjp(lambda x: relu_max_pool(x, 2), x)[1](gradient)
    want = jnp.float32([[1, 0, 2, 0], [0, 0, 0, 0], [3, 0, 4, 0], [0, 0, 0, 0]])
    np.testing.assert_array_equal(got, want[None, :, :, None])


@pools
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_relu_and_max_pool_have_the_values_and_gradients_of_xla(pool, window, dtype):
    pad = window - 2

    def reference(x):
        return nn.max_pool(jax.nn.relu(x), (window, window), (2, 2), ((pad, pad), (pad, pad)))

    # Few values, so that many windows have ties, and some are empty.
    x = jax.random.randint(jax.random.key(0), (2, 8, 12, 3), -4, 3).astype(dtype)
    want, pull = jax.vjp(reference, x)
    got, own_pull = jax.vjp(lambda x: pool(x, window), x)
    np.testing.assert_array_equal(got, want)
    np.testing.assert_array_equal(pool(x, window), want)  # without gradients
    gradient = jax.random.randint(jax.random.key(1), want.shape, -8, 8).astype(dtype)
    np.testing.assert_array_equal(own_pull(gradient)[0], pull(gradient)[0])


@pools
def test_what_is_not_a_number_stays(pool, window):
    x = jnp.zeros((1, 4, 8, 1))
    for place in np.ndindex(4, 8):
        pooled, _ = jax.vjp(lambda x: pool(x, window), x.at[0, *place].set(jnp.nan))
        row, column = (index // 2 for index in place)
        assert jnp.isnan(pooled[0, row, column]).item(), place


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("window", [2, 3])
def test_a_number_that_is_made_twice_gets_the_gradient_all_the_same(window, dtype):
    """XLA may make it again for a comparison, and round it differently, or not at all."""

    def affine(x):
        return (x * scale + bias).astype(dtype)

    @jax.jit
    def gradient(x):
        pooled, pull = jax.vjp(lambda x: relu_max_pool(affine(x), window), x)
        return pooled, pull(jnp.ones_like(pooled))[0] / scale

    keys = jax.random.split(jax.random.key(0), 3)
    x = jax.random.normal(keys[0], (2, 16, 16, 64))
    scale = jax.random.uniform(keys[1], (64,), minval=0.5, maxval=2.0)
    bias = jax.random.normal(keys[2], (64,))
    pooled, got = gradient(x)
    pad = window - 2
    chosen = jnp.where(got > 0.5, jax.nn.relu(affine(x)), 0)
    largest = nn.max_pool(chosen, (window, window), (2, 2), ((pad, pad), (pad, pad)))
    tolerance = 1e-2 if dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(largest, pooled, rtol=tolerance, atol=1e-6)
    assert float(got.sum()) == pytest.approx(int((pooled > 0).sum()))


def test_the_gradient_of_max_pool_can_be_differentiated_forward():
    x = jax.random.normal(jax.random.key(0), (1, 4, 8, 8))

    def energy(x):
        return (relu_max_pool(x, 3) ** 2).sum()

    # Where the maxima stay, the energy is a quadratic form: its Hessian takes a point to the
    # gradient there.
    _, product = jax.jvp(jax.grad(energy), (x,), (x,))
    np.testing.assert_allclose(product, jax.grad(energy)(x), rtol=1e-5)


def test_a_backbone_reads_images_and_blocks():
    pyramid = tuple(jax.random.normal(jax.random.key(i), (1, 64 >> i, 32 >> i, 3)) for i in (0, 1))
    backbone = GuidedResNet(depth=18, fusion_stages=(2,))
    init = jax.jit(functools.partial(backbone.init, train=False))
    variables = init(jax.random.key(0), pyramid)
    apply = jax.jit(lambda pyramid: backbone.apply(variables, pyramid, train=False))
    jax.tree.map(
        np.testing.assert_array_equal,
        apply(pyramid),
        apply(tuple(to_blocks(level, 4) for level in pyramid)),
    )


def test_widths_without_pairs_give_the_same(monkeypatch):
    """Widths of an odd number of blocks take the plain layers."""
    image = jax.random.normal(jax.random.key(0), (1, 16, 24, 3))
    backbone = GuidedResNet(depth=18, fusion_stages=(), norm="group_norm")
    variables = jax.jit(functools.partial(backbone.init, train=False))(jax.random.key(1), (image,))

    def apply(image):
        return jax.jit(functools.partial(backbone.apply, train=False))(variables, (image,))

    want = apply(image)
    monkeypatch.setattr("ipg_jax.models.backbone.has_pairs_of_blocks", lambda image: False)
    got = apply(image)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), got, want)
    odd = apply(image[:, :, :20])
    assert odd["c2"].shape == (1, 4, 5, 64)


def test_sizes_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="multiples of 4, got 8 x 6"):
        StemConv().init(jax.random.key(0), jnp.zeros((1, 8, 6, 3)), method="rows")
