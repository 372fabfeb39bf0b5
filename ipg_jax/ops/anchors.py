"""Anchor boxes of a feature pyramid, by the conventions of torchvision.

An aspect ratio is height over width. The anchors of one position are ordered ratio by ratio and,
within a ratio, size by size. Anchors are centred on the top left corner of a feature's cell
(offset 0), and positions are ordered row by row.
"""

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ipg_jax.types import Array

RETINANET_SIZES = tuple(
    (size, int(size * 2 ** (1 / 3)), int(size * 2 ** (2 / 3))) for size in (32, 64, 128, 256, 512)
)
"""Three anchor sizes for each of the levels p3..p7 of RetinaNet, in pixels."""

ASPECT_RATIOS = (0.5, 1.0, 2.0)
"""Height over width of the anchors of RetinaNet and Faster R-CNN."""


def level_anchor_sizes(
    levels: Sequence[int], scale: float, octaves: int
) -> tuple[tuple[float, ...], ...]:
    """Sides of the square anchors of each level of a pyramid, in whole pixels as torchvision's.

    Args:
      levels: numbers of the levels, such as 3 to 7 for p3 to p7. Sizes go by them and not by
        strides: where the backbone keeps the resolution, levels of one stride have anchors of
        their own.
      scale: side of a level's smallest anchor, in units of `2^level`.
      octaves: sizes per level, `2^(1 / octaves)` apart.
    """
    return tuple(
        tuple(float(int(scale * 2**level * 2 ** (i / octaves))) for i in range(octaves))
        for level in levels
    )


def base_anchors(
    sizes: Sequence[int | float], ratios: Sequence[int | float], *, rounded: bool = True
) -> Float[np.ndarray, "k 4"]:
    """Anchors centred on the origin, one for each ratio and size.

    Args:
      sizes: square roots of the anchors' areas, in pixels.
      ratios: heights over widths.
      rounded: whether corners are rounded to whole pixels (half to even), as torchvision does.

    Returns:
      Float32 `[len(ratios) * len(sizes), 4]`; anchor `i * len(sizes) + j` has ratio `i`, size `j`.
    """
    root = np.sqrt(np.asarray(ratios, np.float32))[:, None]
    size = np.asarray(sizes, np.float32)[None, :]
    w, h = np.ravel((1 / root) * size), np.ravel(root * size)
    anchors = np.stack([-w, -h, w, h], axis=-1) / 2
    return np.round(anchors) if rounded else anchors


def grid_anchors(
    feature_shape: tuple[int, int], stride: tuple[int, int], base: Float[Array, "k 4"]
) -> Float[Array, "n 4"]:
    """The base anchors at every position of a feature map.

    The grid is made of iotas, so a compiled program holds no table of anchors.

    Args:
      feature_shape: (height, width) of the feature map.
      stride: pixels between neighbouring positions, (y, x).
      base: anchors around the origin, from `base_anchors`.

    Returns:
      Float32 `[height * width * k, 4]`, by row, then column, then base anchor.
    """
    height, width = feature_shape
    y = jnp.arange(height, dtype=jnp.float32) * stride[0]
    x = jnp.arange(width, dtype=jnp.float32) * stride[1]
    y, x = jnp.meshgrid(y, x, indexing="ij")
    shifts = jnp.stack([x, y, x, y], axis=-1)
    return (shifts[:, :, None] + jnp.asarray(base, jnp.float32)).reshape(-1, 4)


def pyramid_anchors(
    feature_shapes: Sequence[tuple[int, int]],
    strides: Sequence[tuple[int, int]],
    sizes_per_level: Sequence[Sequence[int | float]] = RETINANET_SIZES,
    ratios: Sequence[int | float] = ASPECT_RATIOS,
    *,
    rounded: bool = True,
) -> tuple[Float[Array, "_ 4"], ...]:
    """Anchors of every level of a feature pyramid.

    torchvision takes `image height // feature height` for the stride, which on the coarse levels
    of an image that their stride does not divide is less than the nominal power of two (800
    pixels on 13 positions: 61). To reproduce its boxes, pass strides computed that way.

    Args:
      feature_shapes: (height, width) of each level.
      strides: pixels between neighbouring positions of each level, (y, x).
      sizes_per_level: anchor sizes of each level, in pixels.
      ratios: heights over widths, the same on all levels.
      rounded: whether base anchors are rounded to whole pixels.

    Returns:
      For each level, float32 `[height * width * len(ratios) * len(sizes), 4]`.

    Raises:
      ValueError: the arguments describe different numbers of levels.
    """
    if not len(feature_shapes) == len(strides) == len(sizes_per_level):
        raise ValueError(
            f"Got {len(feature_shapes)} feature shapes, {len(strides)} strides and "
            f"{len(sizes_per_level)} tuples of sizes; expected one of each per level."
        )
    return tuple(
        grid_anchors(shape, stride, base_anchors(sizes, ratios, rounded=rounded))
        for shape, stride, sizes in zip(feature_shapes, strides, sizes_per_level, strict=True)
    )
