import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax.models import convolution
from ipg_jax.models.convolution import kernel_gradient_by_rows
from ipg_jax.models.resnet import conv


@pytest.mark.parametrize("devices", [1, 8])  # of one CPU the kernel's gradient is by rows
@pytest.mark.parametrize(
    ("shape", "kernel_size", "strides", "dilation"),
    [
        ((2, 7, 5, 6), 1, 1, 1),
        ((2, 7, 5, 6), 1, 2, 1),
        ((2, 15, 14, 64), 3, 1, 1),  # enough for fewer multiplications
        ((1, 37, 40, 3), 3, 1, 1),  # 37 rows in chunks of 19: one row is missing
        ((3, 37, 40, 3), 3, 2, 1),
        ((2, 30, 24, 2), 3, 1, 2),
        ((1, 61, 64, 3), 7, 2, 1),
        ((2, 2, 2, 6), 3, 1, 1),  # fewer positions than taps
        ((3, 2, 4, 6), 3, 2, 1),
        ((2, 4, 4, 6), 3, 2, 1),  # fewer positions of the output alone
        ((2, 3, 2, 6), 3, 1, 2),
        ((2, 1, 1, 6), 3, 1, 1),
    ],
)
def test_gradients_of_a_convolution_are_those_of_xla(
    shape, kernel_size, strides, dilation, devices, monkeypatch
):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    x = jax.random.normal(jax.random.key(0), shape)
    layer = conv(max(4, shape[-1]), kernel_size, strides=strides, dilation=dilation)
    kernel = layer.init(jax.random.key(1), x)["params"]["kernel"]
    pad = dilation * (kernel_size - 1) // 2

    def general(kernel, x):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            (strides, strides),
            ((pad, pad), (pad, pad)),
            rhs_dilation=(dilation, dilation),
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    want, pull = jax.vjp(general, kernel, x)
    got, own_pull = jax.vjp(
        lambda kernel, x: layer.apply({"params": {"kernel": kernel}}, x), kernel, x
    )
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)
    gradient = jax.random.normal(jax.random.key(2), want.shape)
    by_kernel, by_x = pull(gradient)
    own_by_kernel, own_by_x = own_pull(gradient)
    np.testing.assert_allclose(own_by_x, by_x, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(own_by_kernel, by_kernel, rtol=1e-4, atol=1e-3)


def test_maps_smaller_than_the_kernel_are_multiplied():
    layer = conv(4, 3)
    x = jnp.ones((2, 2, 2, 4))
    variables = layer.init(jax.random.key(0), x)

    def is_convolved(x: jax.Array) -> bool:
        loss = lambda x: jnp.sum(layer.apply(variables, x) ** 2)  # noqa: E731
        program = jax.jit(jax.value_and_grad(loss)).lower(x).compile()
        return "convolution(" in program.as_text()

    assert not is_convolved(x)
    assert is_convolved(jnp.ones((2, 3, 3, 4)))
    layer = conv(4, 3, strides=2)
    assert not is_convolved(jnp.ones((2, 4, 4, 4)))
    assert is_convolved(jnp.ones((2, 6, 6, 4)))


@pytest.mark.parametrize("strides", [1, 2])
def test_convolutions_in_loops_are_of_the_kind_that_cpus_are_fast_with(strides):
    images = jnp.ones((3, 2, 16, 16, 4))
    layer = conv(8, 3, strides=strides)
    variables = layer.init(jax.random.key(0), images[0])

    def kinds(convolve) -> set[str]:
        loss = lambda v, x: jnp.sum(convolve(v, x) ** 2)  # noqa: E731
        gradients = lambda v, xs: jax.lax.map(lambda x: jax.grad(loss, (0, 1))(v, x), xs)  # noqa: E731
        program = jax.jit(gradients).lower(variables, images).compile().as_text()
        return set(re.findall(r" convolution\(.* dim_labels=([^ ,]+)", program))

    def of_flax(variables, x):
        own = nn.Conv(8, (3, 3), strides=strides, padding=1, use_bias=False)
        return own.apply(variables, x)

    assert kinds(layer.apply) == {"b01f_01io->b01f"}
    assert len(kinds(of_flax)) > 1


def test_kernel_gradient_is_summed_in_float32():
    # 4096 ones: bfloat16 stops counting at 256.
    ones = jnp.ones((1, 64, 64, 1), jnp.bfloat16)
    single = (1, 1)
    got = kernel_gradient_by_rows(
        ones, ones, kernel_size=single, strides=single, padding=((0, 0), (0, 0)), dilation=single
    )
    assert got.dtype == jnp.bfloat16
    assert got.item() == 4096


def test_gradients_can_be_differentiated_forward():
    x = jax.random.normal(jax.random.key(0), (1, 8, 8, 3))
    layer = conv(4, 3)
    kernel = layer.init(jax.random.key(1), x)["params"]["kernel"]

    def energy(kernel):
        return (layer.apply({"params": {"kernel": kernel}}, x) ** 2).sum()

    # The energy is a quadratic form: its Hessian takes a point to the gradient there.
    _, product = jax.jvp(jax.grad(energy), (kernel,), (kernel,))
    np.testing.assert_allclose(product, jax.grad(energy)(kernel), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("options", [{"feature_group_count": 2}, {"input_dilation": 2}])
def test_what_the_convolution_cannot_do_is_refused(options):
    with pytest.raises(ValueError, match=r"use flax\.linen\.Conv"):
        conv(4, 3, **options).init(jax.random.key(0), jnp.zeros((1, 8, 8, 4)))


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_the_gradient_of_a_bias_is_the_sum(dtype):
    """By the form of the platform at hand, and by that of TPUs."""
    # Whole numbers, whose sums are exact in float32, and in bfloat16 up to 256.
    shape = (2, 3, 5, 4)
    gradient = jax.random.randint(jax.random.key(0), shape, -8, 9).astype(dtype)
    x, bias = jnp.ones(shape, dtype), jnp.arange(4, dtype=dtype)
    want, pull = jax.vjp(lambda x, bias: x + bias, x, bias)
    got, own_pull = jax.vjp(convolution.add_bias, x, bias)
    np.testing.assert_array_equal(got, want)
    jax.tree.map(np.testing.assert_array_equal, own_pull(gradient), pull(gradient))
    np.testing.assert_array_equal(convolution._sum_by_product(gradient), pull(gradient)[1])
