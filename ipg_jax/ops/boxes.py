"""Areas, overlaps and clipping of boxes.

Boxes are `xyxy` in pixels: a box covers `[x1, x2] x [y1, y2]`, so its width is `x2 - x1`.
"""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from ipg_jax.types import Array


def box_sizes(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n 2"]:
    """Height and width of each box, in pixels; negative where the corners are swapped."""
    boxes = jnp.asarray(boxes, jnp.float32)
    x1, y1, x2, y2 = jnp.unstack(boxes, axis=-1)
    return jnp.stack([y2 - y1, x2 - x1], axis=-1)


def center_size(boxes: Float[Array, "*n 4"]) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Centre (x, y), width and height of each box, in pixels."""
    x1, y1, x2, y2 = jnp.unstack(jnp.asarray(boxes, jnp.float32), axis=-1)
    w, h = x2 - x1, y2 - y1
    return x1 + 0.5 * w, y1 + 0.5 * h, w, h


def box_area(boxes: Float[Array, "*n 4"]) -> Float[Array, "*n"]:
    """Area of each box in square pixels; 0 where the corners are swapped."""
    # A reduction and not `*`, which XLA would contract with the sum of areas in `pairwise_iou` to
    # a multiply-add: compiled and uncompiled overlaps would differ in the last bit, and matching
    # and suppression decide by comparing overlaps.
    return jnp.prod(jnp.maximum(box_sizes(boxes), 0), axis=-1)


def paired_intersection(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*#n"]:
    """Area that each box of `a` shares with the box of `b` in its place, in square pixels.

    Both broadcast: `a[:, None]` and `b[None]` give all pairs. Corners are compared one coordinate
    at a time, so that no array is larger than the result.
    """
    ax1, ay1, ax2, ay2 = jnp.unstack(jnp.asarray(a, jnp.float32), axis=-1)
    bx1, by1, bx2, by2 = jnp.unstack(jnp.asarray(b, jnp.float32), axis=-1)
    width = jnp.maximum(jnp.minimum(ax2, bx2) - jnp.maximum(ax1, bx1), 0)
    height = jnp.maximum(jnp.minimum(ay2, by2) - jnp.maximum(ay1, by1), 0)
    return width * height


def paired_iou(a: Float[Array, "*#n 4"], b: Float[Array, "*#n 4"]) -> Float[Array, "*#n"]:
    """Intersection over union of each box of `a` with the box of `b` in its place; both broadcast.

    The value is in [0, 1]; it is 0, with finite gradients, where the union is empty.
    """
    intersection = paired_intersection(a, b)
    union = box_area(a) + box_area(b) - intersection
    return jnp.where(union > 0, intersection / jnp.where(union > 0, union, 1), 0)


@functools.partial(jax.jit, inline=True)
def pairwise_intersection(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Area that every box of `a` shares with every box of `b`, in square pixels.

    Args:
      a: `n` boxes.
      b: `m` boxes.

    Returns:
      Float32 `[n, m]`.
    """
    return paired_intersection(a[:, None], b[None])


@functools.partial(jax.jit, inline=True)
def pairwise_iou(a: Float[Array, "n 4"], b: Float[Array, "m 4"]) -> Float[Array, "n m"]:
    """Intersection over union of every box of `a` with every box of `b`, see `paired_iou`.

    Args:
      a: `n` boxes.
      b: `m` boxes.

    Returns:
      Float32 `[n, m]`.
    """
    return paired_iou(a[:, None], b[None])


def clip_boxes(
    boxes: Float[Array, "*n 4"], image_size: Int[Array, "2"] | Sequence[int]
) -> Float[Array, "*n 4"]:
    """Moves the corners of boxes into an image.

    Args:
      boxes: the boxes.
      image_size: (height, width) of the image in pixels.

    Returns:
      The boxes with `0 <= x <= width` and `0 <= y <= height`.
    """
    boxes = jnp.asarray(boxes, jnp.float32)
    height, width = jnp.asarray(image_size, jnp.float32)
    return jnp.clip(boxes, 0, jnp.stack([width, height, width, height]))
