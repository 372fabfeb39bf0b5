"""RoIAlign: features of boxes, averaged from bilinear samples (He et al., "Mask R-CNN", 2017).

A box is cut into `output_size` bins, each holding `sampling_ratio^2` evenly spaced samples. A
sample is a bilinear mixture of four cells, and its weights are products of a weight along y and
one along x. A bin's value is therefore a sum over *taps*: `2 * sampling_ratio` rows times as many
columns. Levels of a pyramid are laid end to end and each box gathers from its own. Few boxes at a
time gather all their taps, so that these are added up where they are instead of in memory; other
formulations were slower (`docs/operators.md`).
"""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ipg_jax.ops.boxes import box_area
from ipg_jax.types import Array

_BOXES = 64
"""How many boxes gather at once: their bins stay in a cache (CPU) or in VMEM (TPU)."""


def roi_align(
    features: Float[Array, "h w c"],
    boxes: Float[Array, "r 4"],
    output_size: int | tuple[int, int],
    spatial_scale: float = 1.0,
    sampling_ratio: int = 2,
    aligned: bool = False,
) -> Float[Array, "r oh ow c"]:
    """Features of boxes on one feature map.

    Samples more than one cell outside the map count as zeros, those within one cell take the
    border's value. Gradients go to the features and not to the boxes, as in torchvision.

    Args:
      features: a feature map.
      boxes: `xyxy` in pixels of the image.
      output_size: (height, width) in bins, or both at once.
      spatial_scale: feature cells per pixel.
      sampling_ratio: samples of a bin along each side.
      aligned: where the centre of cell `i` is, in feature units: at `i + 0.5` if true (and boxes
        may be of any size), at `i` if false (and boxes are at least one cell wide and high).
        torchvision's detectors are trained with false, Detectron2's with true.

    Returns:
      The features' type, `[r, height, width, c]`.

    Raises:
      ValueError: `sampling_ratio` is not positive. torchvision then takes as many samples as each
        box needs, which has no static shape.
    """
    level = jnp.zeros(boxes.shape[0], jnp.int32)
    scales = jnp.asarray([spatial_scale], jnp.float32)
    return _roi_align([features], boxes, level, scales, output_size, sampling_ratio, aligned)


def multilevel_roi_align(
    features: Sequence[Float[Array, "_ _ c"]],
    boxes: Float[Array, "r 4"],
    output_size: int | tuple[int, int],
    strides: Sequence[int],
    sampling_ratio: int = 2,
    aligned: bool = False,
    canonical_size: float = 224.0,
    canonical_level: int = 4,
) -> Float[Array, "r oh ow c"]:
    """Features of boxes, each on the level of a feature pyramid that suits its size.

    The level is `floor(canonical_level + log2(sqrt(area) / canonical_size))`, limited to those
    given (Lin et al., "Feature Pyramid Networks", 2017, eq. 1).

    Args:
      features: feature maps, finest first.
      boxes: `xyxy` in pixels of the image.
      output_size: (height, width) in bins, or both at once.
      strides: pixels per feature cell of each map: powers of two, each twice the one before, or
        as large where a backbone keeps the resolution. The first, `2^k`, makes its map level `k`;
        the others follow.
      sampling_ratio: samples of a bin along each side.
      aligned: as in `roi_align`.
      canonical_size: square root of the area of the boxes that go to `canonical_level`, in pixels.
      canonical_level: their level.

    Returns:
      The features' type, `[r, height, width, c]`.

    Raises:
      ValueError: `strides` are not as said, or `sampling_ratio` is not positive.
    """
    first = strides[0].bit_length() - 1
    steps = zip(strides, (2**first, *strides), strict=False)
    if len(strides) != len(features) or any(b not in (a, 2 * a) for b, a in steps):
        raise ValueError(
            f"Expected powers of two, one for each of {len(features)} feature maps and each as "
            f"large as the one before or twice that, got strides {tuple(strides)}."
        )
    # The small constant keeps a box of exactly the canonical size from falling one level short.
    level = canonical_level + jnp.log2(jnp.sqrt(box_area(boxes)) / canonical_size) + 1e-6
    level = jnp.clip(jnp.floor(level).astype(jnp.int32) - first, 0, len(features) - 1)
    scales = 1 / jnp.asarray(strides, jnp.float32)
    return _roi_align(features, boxes, level, scales, output_size, sampling_ratio, aligned)


# Compiled, lest its loop be compiled anew at every call from outside a compiled function.
@functools.partial(jax.jit, static_argnames=("output_size", "sampling_ratio", "aligned"))
def _roi_align(
    features: Sequence[Array],
    boxes: Array,
    level: jax.Array,
    scales: jax.Array,
    output_size: int | tuple[int, int],
    sampling_ratio: int,
    aligned: bool,
) -> jax.Array:
    """`roi_align` of every box on the map that `level` names."""
    if sampling_ratio <= 0:
        raise ValueError(f"sampling_ratio must be positive, got {sampling_ratio}.")
    bins_y, bins_x = (output_size,) * 2 if isinstance(output_size, int) else output_size
    channels = features[0].shape[-1]
    cells = jnp.concatenate([jnp.reshape(map_, (-1, channels)) for map_ in features])
    shapes = np.array([map_.shape[:2] for map_ in features], np.int32)
    offsets = np.cumsum([0, *np.prod(shapes, axis=1)[:-1]], dtype=np.int32)
    height, width = jnp.asarray(shapes)[level].T
    offset = jnp.asarray(offsets)[level]

    boxes = jnp.asarray(boxes, jnp.float32)
    x1, y1, x2, y2 = jnp.unstack(boxes * scales[level][:, None] - 0.5 * aligned, axis=-1)
    min_length = 0.0 if aligned else 1.0
    rows, row_weights = _taps(y1, y2, min_length, height, bins_y, sampling_ratio)
    columns, column_weights = _taps(x1, x2, min_length, width, bins_x, sampling_ratio)

    # Every pair of a row tap and a column tap, [r, taps, bins_y, bins_x].
    shape = (boxes.shape[0], (2 * sampling_ratio) ** 2, bins_y, bins_x)
    rows, row_weights = rows[:, :, None, :, None], row_weights[:, :, None, :, None]
    columns, column_weights = columns[:, None, :, None, :], column_weights[:, None, :, None, :]
    index = offset[:, None, None, None, None] + rows * width[:, None, None, None, None] + columns
    weight = row_weights * column_weights
    return _weighted_sums(cells, index.reshape(shape), weight.reshape(shape))


@jax.custom_vjp
def _weighted_sums(cells: jax.Array, index: jax.Array, weight: jax.Array) -> jax.Array:
    """Sums of cells `[n, c]` over the taps of `[r, taps, bins_y, bins_x]`, in float32.

    Only the cells have a gradient. Left to itself, it would be summed in the cells' own type, one
    scatter for each tap of each few boxes.
    """

    def box_sum(taps: tuple[jax.Array, jax.Array]) -> jax.Array:
        index, weight = taps
        return sum(
            w[..., None] * cells[i].astype(jnp.float32) for i, w in zip(index, weight, strict=True)
        )

    return jax.lax.map(box_sum, (index, weight), batch_size=_BOXES).astype(cells.dtype)


def _weighted_sums_forward(cells: jax.Array, index: jax.Array, weight: jax.Array) -> Any:
    # Residuals are arrays: an empty one tells the backward pass the number and type of the cells.
    return _weighted_sums(cells, index, weight), (cells[:, :0], index, weight)


def _weighted_sums_backward(residuals: Any, gradient: jax.Array) -> Any:
    cells, index, weight = residuals
    gradient = gradient.astype(jnp.float32)
    total = jnp.zeros((cells.shape[0], gradient.shape[-1]), jnp.float32)

    def add_tap(total: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        index, weight = tap
        return total.at[index].add(weight[..., None] * gradient), None

    taps = jnp.swapaxes(index, 0, 1), jnp.swapaxes(weight, 0, 1)
    total, _ = jax.lax.scan(add_tap, total, taps)
    return total.astype(cells.dtype), None, None


_weighted_sums.defvjp(_weighted_sums_forward, _weighted_sums_backward)


def _taps(
    start: jax.Array, end: jax.Array, min_length: float, size: jax.Array, bins: int, samples: int
) -> tuple[jax.Array, jax.Array]:
    """Cells along one axis that enter each bin of each box, and their weights in its mean.

    Args:
      start: `[r]`, where the box begins, in cells; cell `i` is sampled exactly at `i`.
      end: `[r]`, where it ends.
      min_length: the box is made at least this long.
      size: `[r]`, cells of the map that the box is on.
      bins: number of bins.
      samples: samples of a bin along this axis.

    Returns:
      Int32 indices in `[0, size)` and float32 weights, `[r, 2 * samples, bins]`.
    """
    bin_length = (jnp.maximum(end - start, min_length) / bins)[:, None, None]
    bin_start = start[:, None, None] + bin_length * jnp.arange(bins, dtype=jnp.float32)
    fraction = (jnp.arange(samples, dtype=jnp.float32) + 0.5) / samples
    position = bin_start + bin_length * fraction[:, None]
    size = size[:, None, None]
    inside = (position >= -1) & (position <= size.astype(jnp.float32))
    # Samples within a cell of the border take its value, and no index is out of range.
    position = jnp.clip(position, 0, (size - 1).astype(jnp.float32))
    low = jnp.floor(position)
    high_weight = position - low
    low = low.astype(jnp.int32)
    index = jnp.concatenate([low, jnp.minimum(low + 1, size - 1)], axis=1)
    weight = jnp.concatenate([1 - high_weight, high_weight], axis=1)
    return index, jnp.where(jnp.tile(inside, (1, 2, 1)), weight / samples, 0)
