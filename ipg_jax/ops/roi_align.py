"""RoIAlign: features of boxes, averaged from bilinear samples (He et al., "Mask R-CNN", 2017).

A box is cut into `output_size` bins, each holding `sampling_ratio^2` evenly spaced samples. A
sample is a bilinear mixture of four cells, and its weights are products of a weight along y and
one along x. A bin's value is therefore a sum over *taps*: `2 * sampling_ratio` rows times as many
columns. One tap at a time is gathered for all bins and boxes and added up, so memory is that of
the output; levels of a pyramid are laid end to end and each box gathers from its own.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ipg_jax.ops.boxes import box_area
from ipg_jax.types import Array


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
      strides: pixels per feature cell of each map; that of level `k` is `2^k`.
      sampling_ratio: samples of a bin along each side.
      aligned: as in `roi_align`.
      canonical_size: square root of the area of the boxes that go to `canonical_level`, in pixels.
      canonical_level: their level.

    Returns:
      The features' type, `[r, height, width, c]`.

    Raises:
      ValueError: `strides` are not successive powers of two, one for each map, or
        `sampling_ratio` is not positive.
    """
    levels = [stride.bit_length() - 1 for stride in strides]
    first, last = levels[0], levels[-1]
    if list(strides) != [2**level for level in range(first, first + len(features))]:
        raise ValueError(
            f"Expected successive powers of two, one for each of {len(features)} feature maps, "
            f"got strides {tuple(strides)}."
        )
    # The small constant keeps a box of exactly the canonical size from falling one level short.
    level = canonical_level + jnp.log2(jnp.sqrt(box_area(boxes)) / canonical_size) + 1e-6
    level = jnp.clip(jnp.floor(level), first, last).astype(jnp.int32) - first
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
    channels, dtype = features[0].shape[-1], features[0].dtype
    # Float32 here, so that the gradients of overlapping boxes are summed in float32.
    cells = jnp.concatenate(
        [jnp.reshape(map_, (-1, channels)).astype(jnp.float32) for map_ in features]
    )
    shapes = np.array([map_.shape[:2] for map_ in features], np.int32)
    offsets = np.cumsum([0, *np.prod(shapes, axis=1)[:-1]], dtype=np.int32)
    height, width = jnp.asarray(shapes)[level].T
    offset = jnp.asarray(offsets)[level]

    # Without this, differentiating by the boxes would keep the features of every tap.
    boxes = jax.lax.stop_gradient(jnp.asarray(boxes, jnp.float32))
    x1, y1, x2, y2 = jnp.unstack(boxes * scales[level][:, None] - 0.5 * aligned, axis=-1)
    min_length = 0.0 if aligned else 1.0
    rows, row_weights = _taps(y1, y2, min_length, height, bins_y, sampling_ratio)
    columns, column_weights = _taps(x1, x2, min_length, width, bins_x, sampling_ratio)

    # Every pair of a row tap and a column tap, [taps, r, bins_y, bins_x].
    shape = ((2 * sampling_ratio) ** 2, boxes.shape[0], bins_y, bins_x)
    rows, row_weights = rows[:, None, :, :, None], row_weights[:, None, :, :, None]
    columns, column_weights = columns[None, :, :, None, :], column_weights[None, :, :, None, :]
    index = offset[:, None, None] + rows * width[:, None, None] + columns
    weight = row_weights * column_weights

    def add_tap(total: jax.Array, tap: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        index, weight = tap
        return total + weight[..., None] * cells[index], None

    total, _ = jax.lax.scan(
        add_tap,
        jnp.zeros((*shape[1:], channels), jnp.float32),
        (index.reshape(shape), weight.reshape(shape)),
    )
    return total.astype(dtype)


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
      Int32 indices in `[0, size)` and float32 weights, `[2 * samples, r, bins]`.
    """
    bin_length = (jnp.maximum(end - start, min_length) / bins)[:, None]
    bin_start = start[:, None] + bin_length * jnp.arange(bins, dtype=jnp.float32)
    fraction = (jnp.arange(samples, dtype=jnp.float32) + 0.5) / samples
    position = bin_start + bin_length * fraction[:, None, None]
    size = size[:, None]
    inside = (position >= -1) & (position <= size.astype(jnp.float32))
    # Samples within a cell of the border take its value, and no index is out of range.
    position = jnp.clip(position, 0, (size - 1).astype(jnp.float32))
    low = jnp.floor(position)
    high_weight = position - low
    low = low.astype(jnp.int32)
    index = jnp.concatenate([low, jnp.minimum(low + 1, size - 1)])
    weight = jnp.concatenate([1 - high_weight, high_weight])
    return index, jnp.where(jnp.tile(inside, (2, 1, 1)), weight / samples, 0)
