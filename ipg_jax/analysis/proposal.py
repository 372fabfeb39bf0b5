"""Anchors that would cover the objects of a data set better."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Float64, Int64

from ipg_jax.analysis.coverage import AnchorLayout, best_overlaps
from ipg_jax.ops import level_anchor_sizes

COVERED = 0.5
"""An object is covered if some anchor's IoU with it is at least this, RetinaNet's threshold of a
positive anchor."""

SCALES = (2.0, 3.0, 4.0, 6.0, 8.0)
RATIOS = ((0.5, 1.0, 2.0), (1 / 3, 1.0, 3.0), (0.25, 0.5, 1.0, 2.0, 4.0))
EQUAL = 0.01
"""Shares of covered objects that differ by no more are as good as equal."""


class Proposal(NamedTuple):
    """Settings of the anchors and what they would do.

    Attributes:
      fpn_levels: first and last level.
      anchor_scale: side of a level's smallest anchor, in units of 2^level.
      anchor_ratios: heights over widths.
      covered: share of the objects that are covered.
      anchors: how many there are on one image.
    """

    fpn_levels: tuple[int, int]
    anchor_scale: float
    anchor_ratios: tuple[float, ...]
    covered: float
    anchors: int


class Anchors(NamedTuple):
    """Settings that a proposal changes, and what they depend on.

    Attributes:
      fpn_levels: first and last level.
      scale: side of a level's smallest anchor, in units of 2^level.
      ratios: heights over widths.
      octaves: sizes per level.
      strides: of each level that the neck may have.
      deepest: the level of the backbone's last feature. A neck has at least that.
    """

    fpn_levels: tuple[int, int]
    scale: float
    ratios: tuple[float, ...]
    octaves: int
    strides: Mapping[int, int]
    deepest: int

    @property
    def layout(self) -> AnchorLayout:
        """The anchors."""
        first, last = self.fpn_levels
        levels = range(first, last + 1)
        return AnchorLayout(
            strides=tuple(self.strides[level] for level in levels),
            sizes=level_anchor_sizes(levels, self.scale, self.octaves),
            ratios=self.ratios,
        )


def propose(
    boxes: Float64[np.ndarray, "n 4"], canvas: Int64[np.ndarray, "n 2"], current: Anchors
) -> list[Proposal]:
    """Searches levels, scales and ratios for anchors that cover more objects.

    Of what covers as good as most, the fewest levels are preferred, then the current ratios, then
    the scale nearest to the current one.

    Args:
      boxes: `xyxy` in pixels of the network's input.
      canvas: height and width of the padded image of each.
      current: the settings now.

    Returns:
      The current settings; the best with other levels alone; the best with another scale alone; and
      the proposal, which is the current settings again where they are as good. Without boxes,
      nothing.
    """
    if not len(boxes):
        return []
    height, width = canvas[0].tolist()
    best: dict[tuple[int, float, tuple[float, ...]], Float32[np.ndarray, " n"]] = {}

    def evaluated(settings: Anchors) -> Proposal:
        first, last = settings.fpn_levels
        overlaps = []
        for level in range(first, last + 1):
            key = level, settings.scale, settings.ratios
            if key not in best:
                alone = settings._replace(fpn_levels=(level, level))
                best[key] = best_overlaps(boxes, canvas, alone.layout)[:, 0]
            overlaps.append(best[key])
        covered = float((np.max(overlaps, axis=0) >= COVERED).mean())
        anchors = settings.layout.count((height, width))
        return Proposal(settings.fpn_levels, settings.scale, settings.ratios, covered, anchors)

    now = evaluated(current)
    spans = {
        (first, last)
        for first in range(2, current.deepest)
        for last in range(current.deepest, current.deepest + 3)
    } | {current.fpn_levels}
    scales = {*SCALES, current.scale}
    ratios = {*RATIOS, current.ratios}

    def preferred(found: Sequence[Proposal]) -> Proposal:
        enough = max(p.covered for p in found) - EQUAL
        if now.covered >= enough:
            return now
        return min(
            (p for p in found if p.covered >= enough),
            key=lambda p: (
                p.fpn_levels[1] - p.fpn_levels[0],
                p.anchor_ratios != current.ratios,
                len(p.anchor_ratios),
                abs(math.log(p.anchor_scale / current.scale)),
                -p.covered,
            ),
        )

    by_levels = [evaluated(current._replace(fpn_levels=span)) for span in spans]
    by_scale = [evaluated(current._replace(scale=scale)) for scale in scales]
    everything = [
        evaluated(current._replace(fpn_levels=span, scale=scale, ratios=ratio))
        for span in spans
        for scale in scales
        for ratio in ratios
        if _whole(current, span, scale, ratio)
    ]
    return [now, preferred(by_levels), preferred(by_scale), preferred(everything)]


def _whole(
    current: Anchors, span: tuple[int, int], scale: float, ratios: tuple[float, ...]
) -> bool:
    """Whether the smallest anchors are at least two pixels high and wide."""
    smallest = level_anchor_sizes([span[0]], scale, current.octaves)[0][0]
    return smallest * math.sqrt(min(*ratios, *(1 / ratio for ratio in ratios))) >= 2
