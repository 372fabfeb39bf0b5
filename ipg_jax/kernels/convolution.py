"""Two-dimensional convolution.

The fast form is for CPUs. XLA:CPU takes the gradient by a kernel two to ten times slower than the
forward pass: it transposes whole feature maps and contracts over all positions at once, out of
cache. Here it is a sum of matrix products over a few rows at a time; 1x1 convolutions are matrix
products, and 3x3 ones of stride 1 take fewer multiplications (`kernels.winograd`). Accelerators
have XLA's convolution and its own gradients.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ipg_jax.kernels import winograd
from ipg_jax.kernels.dispatch import Implementation, dispatch
from ipg_jax.kernels.spatial import height_shards, num_devices, shard_channels, shard_height
from ipg_jax.kernels.winograd import Padding
from ipg_jax.types import Array

_POSITIONS = 640  # of a chunk: its patches and gradients fit a core's cache

Pair: TypeAlias = tuple[int, int]


class Spec(NamedTuple):
    """How a kernel is laid over a map, and the precision of their product."""

    strides: Pair
    padding: Padding
    dilation: Pair
    precision: Any


Form: TypeAlias = Callable[[jax.Array, jax.Array, Spec], jax.Array]
Saved: TypeAlias = tuple[jax.Array, jax.Array]


@functools.partial(
    jax.jit,
    static_argnames=("strides", "padding", "dilation", "groups", "precision", "implementation"),
)
def conv2d(
    x: Float[Array, "b h w c"],
    kernel: Float[Array, "kh kw _ f"],
    *,
    strides: int | Pair = 1,
    padding: int | Padding = 0,
    dilation: int | Pair = 1,
    groups: int = 1,
    precision: Any = None,
    implementation: Implementation | None = None,
) -> Float[Array, "b h2 w2 f"]:
    """Returns the convolution (correlation) of a feature map, in the type of both arguments.

    An output has `(size + padding - dilation * (taps - 1) - 1) // stride + 1` rows, padding being
    the sum of both sides.

    Args:
      x: the feature map.
      kernel: `[height, width, c / groups, f]`.
      strides: of rows and columns; one number stands for both, as below.
      padding: rows and columns of zeros, `((top, bottom), (left, right))`; one number stands for
        all four sides.
      dilation: distance between the taps of the kernel.
      groups: of channels that are convolved apart; `c` groups are a depthwise convolution.
      precision: of the products.
      implementation: see `kernels.dispatch`. The fast form can be differentiated in forward mode
        once it has been in reverse mode (`jvp` of `grad`), and not by itself.
    """
    spec = Spec(_pair(strides), _sides(padding), _pair(dilation), precision)
    x, kernel = jnp.asarray(x), jnp.asarray(kernel)
    if groups > 1:
        return _grouped(x, kernel, spec, groups)
    (x,) = shard_height(x)  # as the gradients by input and output then are
    y = dispatch(
        x,
        kernel,
        name="conv2d",
        reference=functools.partial(_convolution, spec=spec),
        fast=functools.partial(_fast, spec),
        platforms=("cpu",),
        implementation=implementation,
    )
    (y,) = shard_height(y)
    return y


def _grouped(x: jax.Array, kernel: jax.Array, spec: Spec, groups: int) -> jax.Array:
    """Returns the convolution of groups of channels, which several devices along `space` divide.

    XLA's partitioner gets gradients wrong where they divide the height, or nothing.
    """
    features, shards = kernel.shape[-1], height_shards()
    missing = -groups % shards

    def padded(x: jax.Array, of_group: int) -> jax.Array:
        return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, missing * of_group)))

    if missing:
        x, kernel = padded(x, kernel.shape[2]), padded(kernel, features // groups)
    x, kernel = shard_channels(x, kernel)
    (y,) = shard_channels(_convolution(x, kernel, spec, groups=groups + missing))
    (y,) = shard_height(y[..., :features])
    return y


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else value


def _sides(value: int | Padding) -> Padding:
    return ((value, value), (value, value)) if isinstance(value, int) else value


def _convolution(
    x: jax.Array,
    kernel: jax.Array,
    spec: Spec,
    *,
    dimensions: tuple[str, str, str] = ("NHWC", "HWIO", "NHWC"),
    groups: int = 1,
) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x,
        kernel,
        spec.strides,
        spec.padding,
        rhs_dilation=spec.dilation,
        dimension_numbers=dimensions,
        feature_group_count=groups,
        precision=spec.precision,
    )


def _gradient_by_input(
    gradient: jax.Array, x: jax.Array, kernel: jax.Array, spec: Spec
) -> jax.Array:
    """Returns the gradient as a convolution of NHWC by HWIO.

    XLA:CPU is fast with these alone. It turns others into such ones, but not within loops (over
    micro-batches, or images), where they took a hundred times as long.
    """
    turned = jnp.swapaxes(kernel, 2, 3)
    forward = functools.partial(
        _convolution, kernel=turned, spec=spec, dimensions=("NHWC", "HWOI", "NHWC")
    )
    return jax.vjp(forward, x)[1](gradient)[0]


def _gradient_by_kernel(
    gradient: jax.Array, x: jax.Array, kernel: jax.Array, spec: Spec
) -> jax.Array:
    """Returns the gradient as a sum of matrix products over a few rows of the output at a time."""
    (row_stride, stride), (row_step, step) = spec.strides, spec.dilation
    if gradient.size == 0:
        return jnp.zeros_like(kernel)
    height, width, channels, features = kernel.shape
    images, rows, columns, _ = gradient.shape
    chunks = max(1, min(rows, images * rows * columns // _POSITIONS))
    chunk = -(-rows // chunks)
    # Rows without gradient make the chunks equal.
    (top, bottom), sides = spec.padding
    missing = chunks * chunk - rows
    gradient = jnp.pad(gradient, ((0, 0), (0, missing), (0, 0), (0, 0)))
    x = jnp.pad(x, ((0, 0), (top, bottom + row_stride * missing), sides, (0, 0)))
    seen = row_stride * (chunk - 1) + row_step * (height - 1) + 1

    # XLA:CPU transposes the left side of the products, which had better be the narrower one.
    taps = width * channels  # of a row of the kernel
    turned = taps < features
    shape = (taps, features) if turned else (features, taps)

    def add_chunk(totals: list[jax.Array], index: jax.Array) -> tuple[list[jax.Array], None]:
        part = jax.lax.dynamic_slice_in_dim(gradient, chunk * index, chunk, axis=1)
        under = jax.lax.dynamic_slice_in_dim(x, row_stride * chunk * index, seen, axis=1)
        # Columns are laid side by side for all rows at once, and each row of the kernel cuts its
        # own out of them, which copies less than patches of the whole kernel.
        patches = jnp.concatenate(
            [under[:, :, j::stride][:, :, :columns] for j in range(0, step * width, step)],
            axis=-1,
        )

        def product(row: int) -> jax.Array:
            side, other = part, patches[:, row_step * row :: row_stride][:, :chunk]
            if turned:
                side, other = other, side
            return jnp.einsum(
                "bhwm,bhwn->mn",
                side.astype(jnp.float32),  # XLA:CPU does not sum products of bfloat16 in float32
                other.astype(jnp.float32),
                precision=spec.precision,
            )

        return [total + product(row) for row, total in enumerate(totals)], None

    zeros = [jnp.zeros(shape, jnp.float32)] * height
    totals, _ = jax.lax.scan(add_chunk, zeros, jnp.arange(chunks))
    total = jnp.stack([total if turned else total.T for total in totals])
    return total.reshape(kernel.shape).astype(kernel.dtype)


def _product(x: jax.Array, kernel: jax.Array, spec: Spec) -> jax.Array:
    """Returns the convolution with a kernel of one tap, without padding."""
    x = x[:, :: spec.strides[0], :: spec.strides[1]]
    return jnp.matmul(x, kernel[0, 0], precision=spec.precision)


def _patches_product(x: jax.Array, kernel: jax.Array, spec: Spec) -> jax.Array:
    """Returns the convolution of or to a map that has fewer positions than the kernel.

    XLA exchanges the two there, and XLA:CPU has no fast convolution for what comes of it: that of
    eight maps of 2x2 with 3x3 taps from 512 to 512 channels took 0.2 s.
    """

    def selection(axis: int) -> jax.Array:
        """Returns which position each tap of each output looks at, `[taps, outputs, positions]`."""
        size, taps = x.shape[1 + axis], kernel.shape[axis]
        (before, behind), step = spec.padding[axis], spec.dilation[axis]
        first = np.arange(-before, size + behind - step * (taps - 1), spec.strides[axis])
        positions = first + step * np.arange(taps)[:, None]
        return jnp.asarray(positions[..., None] == np.arange(size), x.dtype)

    patches = jnp.einsum("ihy,jwx,byxc->bhwijc", selection(0), selection(1), x)
    return jnp.einsum("bhwijc,ijcf->bhwf", patches, kernel, precision=spec.precision)


def _tiles(x: jax.Array, kernel: jax.Array, spec: Spec) -> jax.Array:
    """Returns the convolution of a large map with 3x3 taps."""
    return winograd.convolve_3x3(x, kernel, spec.padding, precision=spec.precision)


def _gradient_by_tiles(gradient: jax.Array, kernel: jax.Array, spec: Spec) -> jax.Array:
    """Returns the gradient of `_tiles` by its input."""
    (top, bottom), (left, right) = spec.padding
    rest = (2 - top, 2 - bottom), (2 - left, 2 - right)
    return winograd.convolve_3x3(gradient, kernel, rest, transposed=True, precision=spec.precision)


def _form(x: jax.Array, kernel: jax.Array, spec: Spec) -> Form:
    """Returns which of the functions above computes a convolution."""
    taps, shards = kernel.shape[:2], height_shards()
    # XLA's partitioner gets gradients of strided slices of a divided map wrong.
    sliced = shards > 1 and spec.strides != (1, 1)
    if taps == (1, 1) and spec.padding == ((0, 0), (0, 0)) and not sliced:
        return _product
    height, width = x.shape[1:3]
    height2, width2 = (
        (size + sum(sides) - step * (length - 1) - 1) // stride + 1
        for size, length, stride, sides, step in zip(x.shape[1:3], taps, *spec[:3], strict=True)
    )
    rows, rows2 = (h if h % shards else h // shards for h in (height, height2))  # of a device
    if min(rows * width, rows2 * width2) < math.prod(taps):
        return _patches_product
    sides = {*itertools.chain(*spec.padding)}
    usual = spec.strides == spec.dilation == (1, 1) and sides <= {0, 1, 2}
    # Several devices would exchange the borders of all tiles.
    if usual and num_devices() == 1 and winograd.pays(x, kernel):
        return _tiles
    return _convolution


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _fast(spec: Spec, x: jax.Array, kernel: jax.Array) -> jax.Array:
    return _form(x, kernel, spec)(x, kernel, spec)


def _fast_forward(spec: Spec, x: jax.Array, kernel: jax.Array) -> tuple[jax.Array, Saved]:
    return _form(x, kernel, spec)(x, kernel, spec), (x, kernel)  # not `_fast`, which has no jvp


def _fast_backward(spec: Spec, saved: Saved, gradient: jax.Array) -> Saved:
    x, kernel = saved
    form = _form(x, kernel, spec)
    alone = num_devices() == 1
    if alone:  # or XLA:CPU would compute it once for each of the two products
        gradient = jax.lax.optimization_barrier(gradient)
    if form is _convolution:
        by_x = _gradient_by_input(gradient, x, kernel, spec)
    elif form is _tiles:
        by_x = _gradient_by_tiles(gradient, kernel, spec)
    else:
        (by_x,) = jax.vjp(lambda x: form(x, kernel, spec), x)[1](gradient)
    x, gradient = shard_height(x, gradient)
    if alone:  # else the loop over rows would hold a sum over the devices
        by_kernel = _gradient_by_kernel(gradient, x, kernel, spec)
    else:
        (by_kernel,) = jax.vjp(lambda kernel: form(x, kernel, spec), kernel)[1](gradient)
    return by_x, by_kernel


_fast.defvjp(_fast_forward, _fast_backward)
