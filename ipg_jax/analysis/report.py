"""The numbers of a data set and of the detector that is to be trained on it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64

from ipg_jax.analysis.assignment import Match, assign
from ipg_jax.analysis.coverage import best_overlaps
from ipg_jax.analysis.objects import NetworkObjects, network_objects
from ipg_jax.analysis.proposal import COVERED, Anchors, Proposal, propose
from ipg_jax.data import Source
from ipg_jax.images import Geometry

EDGES = (0.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0)
"""Lower ends of the size classes, by the square root of a box's area in pixels; the last class has
no upper end."""

CROWDING = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
"""Lower ends of the classes of images by their number of objects."""

TINY = EDGES[1]
"""Pixels of the network's input; of an object below that, its features see next to nothing."""

SEARCHED = 10_000
"""Objects that the proposal is searched with."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class DetectorSettings:
    """What of a detector the objects of a data set must fit.

    Attributes:
      geometry: how images are resized and padded.
      anchors: settings of the anchors.
      foreground_iou: IoU from which an anchor is positive.
      background_iou: IoU below which it is negative.
      match: the matcher.
      by_iou: whether it decides by the IoU, so that objects need an anchor of their size.
      limits: by name, such as the field of the config, how many boxes of an image something lets
        through.
    """

    geometry: Geometry
    anchors: Anchors
    foreground_iou: float
    background_iou: float
    match: Match
    by_iou: bool = True
    limits: Mapping[str, int]


@dataclasses.dataclass(frozen=True)
class Spread:
    """5 %, half and 95 % of the values are below; None of no values."""

    p5: float | None
    median: float | None
    p95: float | None


@dataclasses.dataclass(frozen=True)
class ClassNumbers:
    """One class: its objects, the images that show it, its sizes before and after the resize."""

    name: str
    objects: int
    images: int
    side_original: Spread
    side: Spread


@dataclasses.dataclass(frozen=True)
class Overlaps:
    """What the anchors do for some objects; shares of them, None of no objects.

    Attributes:
      objects: how many there are.
      covered: share with an anchor of IoU `proposal.COVERED` or more.
      foreground: share with a positive anchor by the threshold.
      background: share with an anchor that is not negative by the threshold.
      forced: share that overlaps an anchor, none of them positive by the threshold: its best ones
        are forced to match.
      none: share that overlaps no anchor.
    """

    objects: int
    covered: float | None
    foreground: float | None
    background: float | None
    forced: float | None
    none: float | None


@dataclasses.dataclass(frozen=True)
class Matched:
    """What the matcher does for some objects, which compete for anchors with their neighbours.

    Attributes:
      objects: how many there are.
      matched: share that gets a positive anchor; None of no objects.
      anchors: how many it gets.
    """

    objects: int
    matched: float | None
    anchors: Spread


@dataclasses.dataclass(frozen=True)
class LevelNumbers:
    """One level of the feature pyramid.

    Attributes:
      level: its number.
      stride: in pixels.
      sizes: sides of the square anchors.
      best: share of the objects whose best anchor is on this level.
      foreground: share with a positive anchor, by the threshold, on this level.
      background: share with one that is not negative.
    """

    level: int
    stride: int
    sizes: tuple[float, ...]
    best: float | None
    foreground: float | None
    background: float | None


@dataclasses.dataclass(frozen=True)
class Limit:
    """How many images have more objects than something lets through, a field of the config say."""

    name: str
    value: int
    images_over: int


@dataclasses.dataclass(frozen=True)
class DatasetReport:
    """The numbers of a data set and of a detector. Sides are square roots of areas of boxes.

    Attributes:
      name: of the data.
      images: how many there are.
      empty_images: those without an object.
      objects: those that training learns from.
      ignored: crowds, difficult objects and regions to ignore, which count nowhere else here.
      image_size: limits of the (short, long) side of a resized image.
      classes: in the order of the labels.
      objects_per_image: of all images.
      most_objects: of one image.
      crowding: number of images by their number of objects, in the classes of `CROWDING`.
      side_original: sides in pixels of the original images.
      side: sides in pixels of the network's input, as in all that follows.
      edges: lower ends of the size classes.
      sizes_original: objects of each size class, by their original size.
      sizes: the same by their size in the network's input.
      tiny: objects below `TINY` pixels.
      foreground_iou: IoU from which an anchor is positive.
      background_iou: IoU below which an anchor is negative.
      by_iou: whether the matcher decides by these.
      overlaps: of all objects.
      overlaps_by_size: of the objects of each size class.
      matched_images: on how many images the matcher was tried; the next two are of them.
      matched: of all objects.
      matched_by_size: of the objects of each size class.
      levels: from the finest to the coarsest.
      limits: what bounds the boxes of an image.
      settings: of the anchors: now, with other levels alone, with another scale alone, and the
        proposal, which is as now where that is as good (see `proposal.propose`); empty without
        objects.
    """

    name: str
    images: int
    empty_images: int
    objects: int
    ignored: int
    image_size: tuple[int, int]
    classes: tuple[ClassNumbers, ...]
    objects_per_image: Spread
    most_objects: int
    crowding: tuple[int, ...]
    side_original: Spread
    side: Spread
    edges: tuple[float, ...]
    sizes_original: tuple[int, ...]
    sizes: tuple[int, ...]
    tiny: int
    foreground_iou: float
    background_iou: float
    by_iou: bool
    overlaps: Overlaps
    overlaps_by_size: tuple[Overlaps, ...]
    matched_images: int
    matched: Matched
    matched_by_size: tuple[Matched, ...]
    levels: tuple[LevelNumbers, ...]
    limits: tuple[Limit, ...]
    settings: tuple[Proposal, ...]

    @property
    def proposal(self) -> Proposal | None:
        """Settings that cover more objects than the current ones; None if these are as good."""
        if not self.settings or self.settings[-1] == self.settings[0]:
            return None
        return self.settings[-1]

    def to_json(self) -> dict[str, Any]:
        """Returns the report as JSON values; what is not defined is None, JSON's `null`."""
        values = dataclasses.asdict(self)
        values["settings"] = [p._asdict() for p in self.settings]
        values["proposal"] = None if self.proposal is None else self.proposal._asdict()
        return values


def analyse(
    source: Source,
    detector: DetectorSettings,
    *,
    sample: int | None = None,
    matched_images: int = 16,
) -> DatasetReport:
    """Returns the numbers of a data set; reads no image.

    Args:
      source: the data.
      detector: what is to be trained on it.
      sample: how many objects, drawn at random, overlaps are computed of; None for all. The
        proposal is always searched with no more than `SEARCHED`.
      matched_images: on how many images, drawn at random, the matcher is tried.
    """
    records = source.records
    objects = network_objects(records, detector.geometry)
    per_image = np.bincount(objects.image, minlength=len(records))
    judged = objects if sample is None else objects.sample(sample)
    searched = judged.sample(SEARCHED)
    overlaps = best_overlaps(judged.boxes, judged.canvas, detector.anchors.layout)
    size_class = size_class_of(judged.side)
    assigned = assign(objects, detector.anchors.layout, detector.match, images=matched_images)
    assigned_class = size_class_of(assigned.side)
    return DatasetReport(
        name=source.name,
        images=len(records),
        empty_images=int((per_image == 0).sum()),
        objects=len(objects.row),
        ignored=int(records.ignore.sum()),
        image_size=(detector.geometry.short, detector.geometry.long),
        classes=_classes(source.class_names, objects),
        objects_per_image=_spread(per_image.astype(np.float64)),
        most_objects=int(per_image.max()),
        crowding=tuple(
            np.bincount(
                np.searchsorted(CROWDING, per_image, side="right") - 1, minlength=len(CROWDING)
            ).tolist()
        ),
        side_original=_spread(objects.original_side),
        side=_spread(objects.side),
        edges=EDGES,
        sizes_original=_histogram(objects.original_side),
        sizes=_histogram(objects.side),
        tiny=int((objects.side < TINY).sum()),
        foreground_iou=detector.foreground_iou,
        background_iou=detector.background_iou,
        by_iou=detector.by_iou,
        overlaps=_overlaps(overlaps.max(axis=1), detector),
        overlaps_by_size=tuple(
            _overlaps(overlaps[size_class == k].max(axis=1), detector) for k in range(len(EDGES))
        ),
        matched_images=assigned.images,
        matched=_matched(assigned.anchors),
        matched_by_size=tuple(
            _matched(assigned.anchors[assigned_class == k]) for k in range(len(EDGES))
        ),
        levels=_levels(overlaps, detector),
        limits=tuple(
            Limit(name, value, int((per_image > value).sum()))
            for name, value in detector.limits.items()
        ),
        settings=tuple(propose(searched.boxes, searched.canvas, detector.anchors)),
    )


def _spread(values: Float64[np.ndarray, " n"]) -> Spread:
    if not len(values):
        return Spread(None, None, None)
    return Spread(*np.percentile(values, (5, 50, 95)).tolist())


def size_class_of(side: Float64[np.ndarray, " n"]) -> np.ndarray:
    """Returns the index in `EDGES` of each size, the square root of an area in pixels."""
    return np.searchsorted(EDGES, side, side="right") - 1


def _histogram(side: Float64[np.ndarray, " n"]) -> tuple[int, ...]:
    return tuple(np.bincount(size_class_of(side), minlength=len(EDGES)).tolist())


def _classes(names: Sequence[str], objects: NetworkObjects) -> tuple[ClassNumbers, ...]:
    side = objects.side
    by_label = np.argsort(objects.label, kind="stable")
    ends = np.searchsorted(objects.label[by_label], np.arange(len(names) + 1))
    numbers = []
    for k, name in enumerate(names):
        mine = by_label[ends[k] : ends[k + 1]]
        images = len(np.unique(objects.image[mine]))
        spreads = _spread(objects.original_side[mine]), _spread(side[mine])
        numbers.append(ClassNumbers(name, len(mine), images, *spreads))
    return tuple(numbers)


def _overlaps(best: np.ndarray, detector: DetectorSettings) -> Overlaps:
    """What the anchors do for objects with these best IoUs."""

    def share(mask: np.ndarray) -> float | None:
        return float(mask.mean()) if len(mask) else None

    foreground = best >= detector.foreground_iou
    return Overlaps(
        objects=len(best),
        covered=share(best >= COVERED),
        foreground=share(foreground),
        background=share(best >= detector.background_iou),
        forced=share((best > 0) & ~foreground),
        none=share(best <= 0),
    )


def _matched(anchors: np.ndarray) -> Matched:
    """What the matcher does for objects with so many positive anchors."""
    share = float((anchors > 0).mean()) if len(anchors) else None
    return Matched(len(anchors), share, _spread(anchors.astype(np.float64)))


def _levels(overlaps: np.ndarray, detector: DetectorSettings) -> tuple[LevelNumbers, ...]:
    layout, first = detector.anchors.layout, detector.anchors.fpn_levels[0]
    best = np.argmax(overlaps, axis=1)
    shares = [
        [
            None if not len(overlaps) else float(x.mean())
            for x in (
                best == i,
                overlaps[:, i] >= detector.foreground_iou,
                overlaps[:, i] >= detector.background_iou,
            )
        ]
        for i in range(overlaps.shape[1])
    ]
    return tuple(
        LevelNumbers(first + i, layout.strides[i], layout.sizes[i], *shares[i])
        for i in range(len(shares))
    )
