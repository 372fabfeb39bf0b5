"""What the matcher of a detector makes of whole images, where objects compete for anchors."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int64

from ipg_jax.analysis.coverage import AnchorLayout
from ipg_jax.analysis.objects import NetworkObjects
from ipg_jax.ops import Matches, MatchState, pyramid_anchors
from ipg_jax.types import Array

Match: TypeAlias = Callable[[tuple[Array, ...], Array, Array], Matches]
"""What an image's anchors are trained to find: from anchors `[_, 4]` of each level, boxes `[m, 4]`
and which of them are valid, to matches of all anchors in some order."""

_MOST_PAIRS = 5 * 10**7
"""Pairs of an anchor and an object on one image, which take 200 MB as one array of floats."""


@dataclasses.dataclass(frozen=True)
class Assignment:
    """Objects of some images and the anchors that are trained to find them.

    Attributes:
      images: how many images.
      side: float64 `[n]`, of each object, in pixels of the network's input.
      anchors: int64 `[n]`, how many anchors are positive for it.
    """

    images: int
    side: Float[np.ndarray, " n"]
    anchors: Int64[np.ndarray, " n"]


def assign(
    objects: NetworkObjects, layout: AnchorLayout, match: Match, *, images: int
) -> Assignment:
    """Matches the objects of some images at random, always the same ones.

    Images of so many objects that all pairs would take too much memory are left out.

    Args:
      objects: of all images.
      layout: the anchors.
      match: the matcher.
      images: how many images at most.
    """
    _, start, counts = np.unique(objects.image, return_index=True, return_counts=True)
    canvases, which = np.unique(objects.canvas[start], axis=0, return_inverse=True)
    anchors = np.array([layout.count((h, w)) for h, w in canvases.tolist()], np.int64)
    pairs = counts * anchors[which.reshape(-1)]
    fits = np.flatnonzero(pairs <= _MOST_PAIRS)
    chosen = np.sort(np.random.default_rng(0).permutation(fits)[:images])
    rows = max(8, -(-int(counts[chosen].max(initial=0)) // 8) * 8)  # one program for all
    counters: dict[tuple[int, ...], Callable[[Array, Array], Array]] = {}
    found = []
    for i in chosen.tolist():
        of_image = slice(start[i], start[i] + counts[i])
        canvas = tuple(objects.canvas[start[i]].tolist())
        if canvas not in counters:
            counters[canvas] = _counter(canvas, layout, match)
        boxes = np.zeros((rows, 4), np.float32)
        boxes[: counts[i]] = objects.boxes[of_image]
        positive = counters[canvas](boxes, np.arange(rows) < counts[i])
        found.append(np.asarray(positive, np.int64)[: counts[i]])
    side = [objects.of(np.arange(start[i], start[i] + counts[i])).side for i in chosen.tolist()]
    return Assignment(
        images=len(chosen),
        side=np.concatenate([np.zeros(0), *side]),
        anchors=np.concatenate([np.zeros(0, np.int64), *found]),
    )


def _counter(
    canvas: tuple[int, ...], layout: AnchorLayout, match: Match
) -> Callable[[Array, Array], Array]:
    """The function from boxes and their validity to the positive anchors of each box."""
    height, width = canvas
    shapes = [(-(-height // stride), -(-width // stride)) for stride in layout.strides]
    pitches = [(height // rows, width // columns) for rows, columns in shapes]

    @jax.jit
    def count(boxes: Array, valid: Array) -> Array:
        anchors = pyramid_anchors(shapes, pitches, layout.sizes, layout.ratios)
        matches = match(anchors, boxes, valid)
        positive = matches.state == MatchState.POSITIVE
        return jnp.zeros(len(boxes), jnp.int32).at[matches.index].add(positive.astype(jnp.int32))

    return count
