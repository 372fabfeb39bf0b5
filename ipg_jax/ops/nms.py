"""Greedy non-maximum suppression with static shapes.

The definition is sequential: take the boxes in decreasing order of score, and keep a box unless
it overlaps one already kept. Nothing but a *kept* box suppresses. The work is done in tiles of
sorted boxes, each compared at once with the boxes kept so far, of which there are at most
`max_output_size`. Within a tile, `keep[j] = alive[j] and no i < j with keep[i] and over[i, j]`
has the greedy answer as its only solution (by induction on `j`), and iterating it from
`keep = alive` settles box `j` after as many steps as the longest chain of overlaps that ends in
it: a few in practice, never more than a tile's length. Tiles stop when enough boxes are kept.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from ipg_jax.ops.boxes import pairwise_iou
from ipg_jax.types import Array

_TILE = 128
"""Boxes a step: as many as a TPU's row has lanes. Smaller tiles were no faster on a CPU."""


def nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    iou_threshold: float | Float[Array, ""],
    max_output_size: int,
    valid: Bool[Array, " n"] | None = None,
) -> tuple[Int[Array, " k"], Bool[Array, " k"]]:
    """Greedy non-maximum suppression, whatever the classes; see `batched_nms`.

    Args:
      boxes: the boxes, in any order.
      scores: their scores.
      iou_threshold: a kept box suppresses those that overlap it by strictly more.
      max_output_size: the number `k` of boxes to return at most; may be larger than `n`.
      valid: False for boxes that take no part; by default all do. A box whose score is NaN is not
        valid either.

    Returns:
      Int32 `[k]`, indices of the kept boxes in decreasing order of score, equal scores in order of
      index; and bool `[k]`, False for the unused slots at the end, whose index is 0.
    """
    labels = jnp.zeros(boxes.shape[0], jnp.int32)
    return batched_nms(boxes, scores, labels, iou_threshold, max_output_size, valid)


# Compiled, lest its loops be compiled anew at every call from outside a compiled function.
@functools.partial(jax.jit, static_argnames="max_output_size")
def batched_nms(
    boxes: Float[Array, "n 4"],
    scores: Float[Array, " n"],
    labels: Int[Array, " n"],
    iou_threshold: float | Float[Array, ""],
    max_output_size: int,
    valid: Bool[Array, " n"] | None = None,
) -> tuple[Int[Array, " k"], Bool[Array, " k"]]:
    """Greedy non-maximum suppression within each class.

    Exact: labels are compared, rather than classes moved apart by an offset that costs the
    coordinates their last bits.

    Args:
      boxes: the boxes, in any order.
      scores: their scores.
      labels: their classes; only boxes of the same class suppress each other.
      iou_threshold: a kept box suppresses those of its class that overlap it by strictly more.
      max_output_size: the number `k` of boxes to return at most, over all classes; may be larger
        than `n`.
      valid: False for boxes that take no part; by default all do. A box whose score is NaN is not
        valid either.

    Returns:
      Int32 `[k]`, indices of the kept boxes in decreasing order of score, equal scores in order of
      index; and bool `[k]`, False for the unused slots at the end, whose index is 0.
    """
    n = boxes.shape[0]
    if n == 0:
        return jnp.zeros(max_output_size, jnp.int32), jnp.zeros(max_output_size, bool)
    boxes, scores = jnp.asarray(boxes, jnp.float32), jnp.asarray(scores, jnp.float32)
    participates = ~jnp.isnan(scores)
    if valid is not None:
        participates &= valid

    # The boxes that take part come first. The sort is stable: ties stay in order of index.
    order = jnp.lexsort((-scores, ~participates)).astype(jnp.int32)
    num_boxes = jnp.sum(participates, dtype=jnp.int32)
    tile = min(_TILE, n)
    order = jnp.pad(order, (0, -n % tile))  # to whole tiles, by places that are never looked at
    boxes, labels = boxes[order], jnp.asarray(labels)[order]
    # Kept boxes are looked up by chunks, so that slots which are not filled yet cost nothing.
    chunk = max(1, min(tile, max_output_size))
    num_slots = max(1, -(-max_output_size // chunk)) * chunk

    def unfinished(state: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        start, count, _ = state
        return (start < num_boxes) & (count < max_output_size)

    def process_tile(
        state: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        start, count, kept = state
        position = start + jnp.arange(tile, dtype=jnp.int32)
        tile_boxes, tile_labels = boxes[position], labels[position]

        def suppress(i: jax.Array, alive: jax.Array) -> jax.Array:
            slot = i * chunk + jnp.arange(chunk, dtype=jnp.int32)
            by = kept[slot]
            over = _overlaps(boxes[by], labels[by], tile_boxes, tile_labels, iou_threshold)
            return alive & ~jnp.any(over & (slot < count)[:, None], axis=0)

        alive = jax.lax.fori_loop(0, -(-count // chunk), suppress, position < num_boxes)
        keep = _greedy(
            alive, _overlaps(tile_boxes, tile_labels, tile_boxes, tile_labels, iou_threshold)
        )
        # Survivors go to the next slots, by comparison instead of a scatter; those beyond the last
        # slot are dropped.
        slot = jnp.where(keep, count + jnp.cumsum(keep, dtype=jnp.int32) - 1, num_slots)
        goes = slot[:, None] == jnp.arange(num_slots, dtype=jnp.int32)
        kept += jnp.sum(jnp.where(goes, position[:, None], 0), axis=0)
        return start + tile, count + jnp.sum(keep, dtype=jnp.int32), kept

    start = jnp.zeros((), jnp.int32)
    kept = jnp.zeros(num_slots, jnp.int32)
    _, count, kept = jax.lax.while_loop(unfinished, process_tile, (start, start, kept))
    filled = jnp.arange(max_output_size, dtype=jnp.int32) < count
    return jnp.where(filled, order[kept[:max_output_size]], 0), filled


def _overlaps(
    a: Array, labels_a: Array, b: Array, labels_b: Array, iou_threshold: float | Array
) -> Array:
    """Whether each box of `a` would suppress each box of `b`, bool `[n, m]`."""
    return (pairwise_iou(a, b) > iou_threshold) & (labels_a[:, None] == labels_b)


def _greedy(alive: Array, over: Array) -> Array:
    """Greedy suppression among boxes in order, from their pairwise overlaps `[n, n]`."""
    over = jnp.triu(over, k=1)

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        _, keep = state
        return keep, alive & ~jnp.any(keep[:, None] & over, axis=0)

    _, keep = jax.lax.while_loop(
        lambda state: jnp.any(state[0] != state[1]), step, step((alive, alive))
    )
    return keep
