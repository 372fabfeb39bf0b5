"""Convolution that is fast on CPUs too.

XLA:CPU takes the gradient by the kernel two to ten times slower than the forward pass: it
transposes whole feature maps and contracts over all of their positions at once, out of cache. Here
it is a sum of matrix products over a few rows at a time; 1x1 convolutions are matrix products, and
3x3 ones of stride 1 take fewer multiplications (`models.winograd`).
Accelerators get convolutions, which on TPUs have the better layout, and XLA's own rule.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ipg_jax.models import winograd
from ipg_jax.models.spatial import divided_by_rows, rows_of_a_device
from ipg_jax.models.winograd import Padding
from ipg_jax.types import Array, PyTree

_POSITIONS = 640  # of a chunk: its patches and gradients fit a core's cache

Pair: TypeAlias = tuple[int, int]
Saved: TypeAlias = tuple[jax.Array, jax.Array]


class Geometry(NamedTuple):
    """How a kernel is laid over a map, and how precisely the two are multiplied."""

    strides: Pair
    padding: Padding
    dilation: Pair
    precision: Any


Form: TypeAlias = Callable[[jax.Array, jax.Array, Geometry], jax.Array]


def _pair(values: Sequence[int]) -> Pair:
    first, second = values
    return first, second


def conv_general_dilated(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw _ f"],
    strides: Sequence[int],
    padding: Sequence[Sequence[int]],
    *,
    lhs_dilation: Sequence[int],
    rhs_dilation: Sequence[int],
    dimension_numbers: Any,
    feature_group_count: int,
    precision: Any = None,
) -> Float[Array, "b h2 w2 f"]:
    """`lax.conv_general_dilated` for NHWC, HWIO and one group, as `flax.linen.Conv` calls it.

    Its gradients can be differentiated in forward mode (`jvp` of `grad`), it itself cannot.

    Raises:
      ValueError: the input is dilated or has groups of channels.
    """
    del dimension_numbers  # those of `flax.linen.Conv`
    if any(step != 1 for step in lhs_dilation) or feature_group_count != 1:
        raise ValueError(
            f"lhs_dilation={tuple(lhs_dilation)} and feature_group_count={feature_group_count} "
            "must be 1: use flax.linen.Conv with its own convolution for others"
        )
    rows, columns = map(_pair, padding)
    how = Geometry(_pair(strides), (rows, columns), _pair(rhs_dilation), precision)
    # The gradients by input and output are divided like these.
    (x,) = divided_by_rows(jnp.asarray(x))
    (y,) = divided_by_rows(_convolve(x, jnp.asarray(kernel), how))
    return y


def convolve(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw c f"],
    dtype: Any,
    padding: Padding | None = None,
) -> Float[Array, "b _ _ f"]:
    """Returns the convolution of stride 1, in `dtype`.

    For modules that make their kernel out of their parameters; others use `flax.linen.Conv`.

    Args:
      x: what to convolve.
      kernel: with what.
      dtype: what to compute in.
      padding: `((top, bottom), (left, right))`; by default what keeps the size with a kernel of odd
        height and width.
    """
    height, width = (size // 2 for size in kernel.shape[:2])
    return conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        (1, 1),
        padding or ((height, height), (width, width)),
        lhs_dilation=(1, 1),
        rhs_dilation=(1, 1),
        dimension_numbers=None,
        feature_group_count=1,
    )


@jax.custom_vjp
def add_bias(x: Float[Array, "b h w f"], bias: Float[Array, " f"]) -> Float[Array, "b h w f"]:
    """Returns the sum, whose gradient by the bias is a product with ones on TPUs.

    For large maps whose gradient does not come out of a convolution: there a TPU sums while it
    convolves, but here it would take longer to sum than for the gradient by a kernel.
    """
    return x + bias


def _sum_by_product(gradient: jax.Array) -> jax.Array:
    ones = jnp.ones((*gradient.shape[:3], 1), gradient.dtype)
    ones, gradient = divided_by_rows(ones, gradient)
    how = Geometry((1, 1), ((0, 0), (0, 0)), (1, 1), jax.lax.Precision.HIGHEST)
    kernel = jnp.zeros((1, 1, 1, gradient.shape[-1]), gradient.dtype)
    by_kernel = jax.linear_transpose(lambda kernel: _convolution(ones, kernel, how), kernel)
    return by_kernel(gradient)[0].reshape(-1)


def _add_bias_gradient(_: None, gradient: jax.Array) -> tuple[jax.Array, jax.Array]:
    return gradient, jax.lax.platform_dependent(
        gradient, tpu=_sum_by_product, default=lambda gradient: gradient.sum((0, 1, 2))
    )


add_bias.defvjp(lambda x, bias: (x + bias, None), _add_bias_gradient)


def with_shared_kernels(
    function: Callable[..., PyTree], module: nn.Module, *args: PyTree, dtype: Any
) -> PyTree:
    """Returns `function(module, *args)`, in which each kernel of `module` is cast to `dtype` once.

    For kernels that are used at several levels: the gradients of all levels are then one sum
    before the devices exchange them. With a cast at each use, XLA exchanges each by itself.

    Args:
      function: what to call; it may make submodules of `module`.
      module: whose variables it uses.
      *args: arrays.
      dtype: what the convolutions compute in.
    """

    def cast(params: PyTree) -> PyTree:
        return jax.tree_util.tree_map_with_path(
            lambda path, x: x.astype(dtype) if path[-1].key == "kernel" else x, params
        )

    if not module.is_initializing():  # what is made is not what is computed with
        function = nn.map_variables(function, "params", cast)
    return function(module, *args)


def _convolution(
    x: jax.Array,
    kernel: jax.Array,
    how: Geometry,
    dimensions: tuple[str, str, str] = ("NHWC", "HWIO", "NHWC"),
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        how.strides,
        how.padding,
        rhs_dilation=how.dilation,
        dimension_numbers=dimensions,
        precision=how.precision,
    )


# XLA:CPU is fast with convolutions of NHWC by HWIO alone. It turns others into such ones, but not
# within loops (over micro-batches, or images), where they took a hundred times as long. So the two
# gradients are such convolutions already.


def _gradient_by_input(
    gradient: jax.Array, x: jax.Array, kernel: jax.Array, how: Geometry
) -> jax.Array:
    turned = jnp.swapaxes(kernel, 2, 3)
    forward = functools.partial(
        _convolution, kernel=turned, how=how, dimensions=("NHWC", "HWOI", "NHWC")
    )
    return jax.vjp(forward, x)[1](gradient)[0]


def _gradient_by_kernel(
    gradient: jax.Array, x: jax.Array, kernel: jax.Array, how: Geometry
) -> jax.Array:
    turned = x.transpose(3, 1, 2, 0)
    forward = functools.partial(_convolution, turned, how=how, dimensions=("CHWN", "IHWO", "HWNC"))
    _, pull = jax.vjp(lambda kernel: forward(kernel=kernel), kernel.transpose(2, 0, 1, 3))
    return pull(gradient.transpose(1, 2, 0, 3))[0].transpose(1, 2, 0, 3)


def _product(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    """Returns the convolution with a kernel of one tap, without padding."""
    x = x[:, :: how.strides[0], :: how.strides[1]]
    return jnp.matmul(x, kernel[0, 0], precision=how.precision)


def _patches_product(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    """Returns the convolution of or to a map that has fewer positions than the kernel.

    XLA exchanges the two there, and XLA:CPU has no fast convolution for what comes of it: that of
    eight maps of 2x2 with 3x3 taps from 512 to 512 channels took 0.2 s.
    """

    def selection(axis: int) -> jax.Array:
        """Returns which position each tap of each output looks at, `[taps, outputs, positions]`."""
        size, taps = x.shape[1 + axis], kernel.shape[axis]
        (before, behind), step = how.padding[axis], how.dilation[axis]
        first = np.arange(-before, size + behind - step * (taps - 1), how.strides[axis])
        places = first + step * np.arange(taps)[:, None]
        return jnp.asarray(places[..., None] == np.arange(size), x.dtype)

    patches = jnp.einsum("ihy,jwx,byxc->bhwijc", selection(0), selection(1), x)
    return jnp.einsum("bhwijc,ijcf->bhwf", patches, kernel, precision=how.precision)


def _tiles(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    """Returns the convolution of a large map with 3x3 taps."""
    return winograd.convolve_3x3(x, kernel, how.padding, precision=how.precision)


def _gradient_by_tiles(gradient: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    """Returns the gradient of `_tiles` by its input."""
    (top, bottom), (left, right) = how.padding
    rest = (2 - top, 2 - bottom), (2 - left, 2 - right)
    return winograd.convolve_3x3(gradient, kernel, rest, transposed=True, precision=how.precision)


def _form_on_cpu(x: jax.Array, kernel: jax.Array, how: Geometry) -> Form:
    """Returns which of the functions above computes a convolution on a CPU."""
    taps = kernel.shape[:2]
    if taps == (1, 1) and how.padding == ((0, 0), (0, 0)):
        return _product
    height, width = x.shape[1:3]
    height2, width2 = (
        (size + sum(sides) - step * (length - 1) - 1) // stride + 1
        for size, length, stride, sides, step in zip(x.shape[1:3], taps, *how[:3], strict=True)
    )
    fewest = min(rows_of_a_device(height) * width, rows_of_a_device(height2) * width2)
    if fewest < math.prod(taps):
        return _patches_product
    usual = how.strides == how.dilation == (1, 1) and {*itertools.chain(*how.padding)} <= {0, 1, 2}
    # Not in a program for several devices, which would exchange the borders of all tiles.
    if usual and jax.device_count() == 1 and winograd.pays(x, kernel):
        return _tiles
    return _convolution


def _forward(x: jax.Array, kernel: jax.Array, how: Geometry) -> jax.Array:
    form = _form_on_cpu(x, kernel, how)
    if form is _convolution:
        return _convolution(x, kernel, how)
    return jax.lax.platform_dependent(
        x,
        kernel,
        cpu=lambda x, kernel: form(x, kernel, how),
        default=lambda x, kernel: _convolution(x, kernel, how),
    )


_convolve = jax.custom_vjp(_forward, nondiff_argnums=(2,))


def _save(x: jax.Array, kernel: jax.Array, how: Geometry) -> tuple[jax.Array, Saved]:
    return _forward(x, kernel, how), (x, kernel)


def _backward(how: Geometry, saved: Saved, gradient: jax.Array) -> Saved:
    x, kernel = saved
    form = _form_on_cpu(x, kernel, how)
    if jax.device_count() == 1:
        # XLA:CPU would compute it once for each of the two products.
        gradient = jax.lax.platform_dependent(
            gradient, cpu=jax.lax.optimization_barrier, default=lambda gradient: gradient
        )

    def by_input(form: Form, gradient: jax.Array) -> jax.Array:
        return jax.vjp(lambda x: form(x, kernel, how), x)[1](gradient)[0]

    def by_input_on_cpu(gradient: jax.Array) -> jax.Array:
        if form is _convolution:
            return _gradient_by_input(gradient, x, kernel, how)
        if form is _tiles:
            return _gradient_by_tiles(gradient, kernel, how)
        return by_input(form, gradient)

    by_x = jax.lax.platform_dependent(
        gradient, cpu=by_input_on_cpu, default=functools.partial(by_input, _convolution)
    )
    x, gradient = divided_by_rows(x, gradient)

    def by_kernel(form: Form, x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: form(x, kernel, how), kernel)[1](gradient)[0]

    def by_kernel_on_cpu(x: jax.Array, gradient: jax.Array) -> Array:
        # Of a program for several devices the loop over rows would hold a reduction over them.
        if jax.device_count() == 1:
            size = _pair(kernel.shape[:2])
            return kernel_gradient_by_rows(x, gradient, kernel_size=size, **how._asdict())
        if form is _convolution:
            return _gradient_by_kernel(gradient, x, kernel, how)
        return by_kernel(form, x, gradient)

    return by_x, jax.lax.platform_dependent(
        x, gradient, cpu=by_kernel_on_cpu, default=functools.partial(by_kernel, _convolution)
    )


_convolve.defvjp(_save, _backward)


def kernel_gradient_by_rows(
    x: Float[Array, "b h w c"],
    gradient: Float[Array, "b h2 w2 f"],
    *,
    kernel_size: Pair,
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    precision: Any = None,
) -> Float[Array, "kh kw c f"]:
    """Returns the gradient of a convolution by its kernel, a few rows of the output at a time.

    Args:
      x: the convolution's input.
      gradient: the gradient by its output.
      kernel_size: height and width of the kernel.
      strides: of the convolution.
      padding: of the convolution, ((top, bottom), (left, right)).
      dilation: distance between the taps of the kernel.
      precision: of the matrix products.
    """
    images, rows, columns, features = gradient.shape
    chunks = max(1, min(rows, images * rows * columns // _POSITIONS))
    chunk = -(-rows // chunks)
    # Rows without gradient make the chunks equal.
    (top, bottom), sides = padding
    missing = chunks * chunk - rows
    gradient = jnp.pad(gradient, ((0, 0), (0, missing), (0, 0), (0, 0)))
    x = jnp.pad(x, ((0, 0), (top, bottom + strides[0] * missing), sides, (0, 0)))
    seen = strides[0] * (chunk - 1) + dilation[0] * (kernel_size[0] - 1) + 1

    # XLA:CPU transposes the left side of the products, which had better be the narrower one.
    taps = kernel_size[1] * x.shape[-1]  # of a row of the kernel
    turned = taps < features
    shape = (taps, features) if turned else (features, taps)

    def add_chunk(totals: list[jax.Array], index: jax.Array) -> tuple[list[jax.Array], None]:
        part = jax.lax.dynamic_slice_in_dim(gradient, chunk * index, chunk, axis=1)
        under = jax.lax.dynamic_slice_in_dim(x, strides[0] * chunk * index, seen, axis=1)
        # Columns are laid side by side for all rows at once, and each row of the kernel cuts its
        # own out of them, which copies less than patches of the whole kernel.
        patches = jnp.concatenate(
            [
                under[:, :, j :: strides[1]][:, :, :columns]
                for j in range(0, dilation[1] * kernel_size[1], dilation[1])
            ],
            axis=-1,
        )

        def product(row: int) -> jax.Array:
            side, other = part, patches[:, dilation[0] * row :: strides[0]][:, :chunk]
            if turned:
                side, other = other, side
            return jnp.einsum(
                "bhwm,bhwn->mn",
                side.astype(jnp.float32),  # XLA:CPU does not sum products of bfloat16 in float32
                other.astype(jnp.float32),
                precision=precision,
            )

        return [total + product(row) for row, total in enumerate(totals)], None

    zeros = [jnp.zeros(shape, jnp.float32)] * kernel_size[0]
    totals, _ = jax.lax.scan(add_chunk, zeros, jnp.arange(chunks))
    total = jnp.stack([total if turned else total.T for total in totals])
    return total.reshape(*kernel_size, x.shape[-1], features).astype(gradient.dtype)
