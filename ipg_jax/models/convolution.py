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
from typing import Any, TypeAlias

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ipg_jax.models import winograd
from ipg_jax.models.spatial import divided_by_rows, is_divided
from ipg_jax.models.winograd import Padding
from ipg_jax.types import Array, PyTree

_POSITIONS = 640  # of a chunk: its patches and gradients fit a core's cache

Pair: TypeAlias = tuple[int, int]
Saved: TypeAlias = tuple[jax.Array, jax.Array]


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
    above_below, sides = map(tuple, padding)
    # The gradients by input and output are divided like these.
    (x,) = divided_by_rows(jnp.asarray(x))
    (y,) = divided_by_rows(
        _convolve(
            x,
            jnp.asarray(kernel),
            tuple(strides),
            (above_below, sides),
            tuple(rhs_dilation),
            precision,
        )
    )
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
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, dilation: Pair, precision: Any
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        strides,
        padding,
        rhs_dilation=dilation,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        precision=precision,
    )


def _by_tiles(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, dilation: Pair
) -> bool:
    """Returns whether a CPU takes a convolution and its gradient by the input by `winograd`.

    Not of a program for several devices, which would exchange the borders of all tiles.
    """
    usual = strides == dilation == (1, 1) and set(itertools.chain(*padding)) <= {0, 1, 2}
    return usual and jax.device_count() == 1 and winograd.pays(x, kernel)


def _forward(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, dilation: Pair, precision: Any
) -> jax.Array:
    def convolution(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _convolution(x, kernel, strides, padding, dilation, precision)

    def product(x: jax.Array, kernel: jax.Array) -> jax.Array:
        x = x[:, :: strides[0], :: strides[1]]
        return jnp.matmul(x, kernel[0, 0], precision=precision)

    def by_tiles(x: jax.Array, kernel: jax.Array) -> Array:
        return winograd.convolve_3x3(x, kernel, padding, precision=precision)

    def by_patches(x: jax.Array, kernel: jax.Array) -> jax.Array:
        return _patches_product(x, kernel, strides, padding, dilation, precision)

    if kernel.shape[:2] == (1, 1) and padding == ((0, 0), (0, 0)):
        return jax.lax.platform_dependent(x, kernel, cpu=product, default=convolution)
    # Maps whose height is divided are left to XLA, which knows how to exchange their borders.
    if math.prod(x.shape[1:3]) < math.prod(kernel.shape[:2]) and not is_divided():
        return jax.lax.platform_dependent(x, kernel, cpu=by_patches, default=convolution)
    if _by_tiles(x, kernel, strides, padding, dilation):
        return jax.lax.platform_dependent(x, kernel, cpu=by_tiles, default=convolution)
    return convolution(x, kernel)


def _patches_product(
    x: jax.Array, kernel: jax.Array, strides: Pair, padding: Padding, dilation: Pair, precision: Any
) -> jax.Array:
    """Returns the convolution of a map that has fewer positions than the kernel.

    XLA exchanges the two there, and XLA:CPU has no fast convolution for what comes of it: that of
    eight maps of 2x2 with 3x3 taps from 512 to 512 channels took 0.2 s.
    """

    def selection(axis: int) -> jax.Array:
        """Returns which position each tap of each output looks at, `[taps, outputs, positions]`."""
        size, taps = x.shape[1 + axis], kernel.shape[axis]
        (before, behind), step = padding[axis], dilation[axis]
        first = np.arange(-before, size + behind - step * (taps - 1), strides[axis])
        places = first + step * np.arange(taps)[:, None]
        return jnp.asarray(places[..., None] == np.arange(size), x.dtype)

    patches = jnp.einsum("ihy,jwx,byxc->bhwijc", selection(0), selection(1), x)
    return jnp.einsum("bhwijc,ijcf->bhwf", patches, kernel, precision=precision)


_convolve = jax.custom_vjp(_forward, nondiff_argnums=(2, 3, 4, 5))


def _save(x: jax.Array, kernel: jax.Array, *static: Any) -> tuple[jax.Array, Saved]:
    return _forward(x, kernel, *static), (x, kernel)


def _backward(
    strides: Pair,
    padding: Padding,
    dilation: Pair,
    precision: Any,
    saved: Saved,
    gradient: jax.Array,
) -> Saved:
    x, kernel = saved
    static = (strides, padding, dilation, precision)
    if jax.device_count() == 1:
        # XLA:CPU would compute it once for each of the two products.
        gradient = jax.lax.platform_dependent(
            gradient, cpu=jax.lax.optimization_barrier, default=lambda gradient: gradient
        )

    by_tiles = _by_tiles(x, kernel, strides, padding, dilation)
    form = _convolution if by_tiles else _forward

    def by_input(gradient: Array) -> Array:
        return jax.vjp(lambda x: form(x, kernel, *static), x)[1](gradient)[0]

    def by_input_by_tiles(gradient: Array) -> Array:
        (top, bottom), (left, right) = padding
        rest = (2 - top, 2 - bottom), (2 - left, 2 - right)
        return winograd.convolve_3x3(gradient, kernel, rest, transposed=True, precision=precision)

    if by_tiles:
        by_x = jax.lax.platform_dependent(gradient, cpu=by_input_by_tiles, default=by_input)
    else:
        by_x = by_input(gradient)
    x, gradient = divided_by_rows(x, gradient)

    def whole(x: jax.Array, gradient: jax.Array) -> jax.Array:
        return jax.vjp(lambda kernel: form(x, kernel, *static), kernel)[1](gradient)[0]

    by_rows = functools.partial(
        kernel_gradient_by_rows,
        kernel_size=(kernel.shape[0], kernel.shape[1]),
        strides=strides,
        padding=padding,
        dilation=dilation,
        precision=precision,
    )
    # Of a program for several devices the loop would hold a reduction over them.
    cpu = by_rows if jax.device_count() == 1 else whole
    by_kernel = jax.lax.platform_dependent(x, gradient, cpu=cpu, default=whole)
    return by_x, by_kernel


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
