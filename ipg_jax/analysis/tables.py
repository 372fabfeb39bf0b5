"""The report as tables of texts, for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from ipg_jax.analysis.proposal import COVERED, Proposal
from ipg_jax.analysis.report import DatasetReport, Overlaps, Spread
from ipg_jax.text import shown


class Table(NamedTuple):
    """A header and rows, whose first column is what the others are about."""

    header: list[str]
    rows: list[list[str]]

    def __str__(self) -> str:
        widths = [max(map(len, column)) for column in zip(self.header, *self.rows, strict=True)]
        return "\n".join(
            "  ".join(
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in (self.header, *self.rows)
        )


def class_table(report: DatasetReport) -> Table:
    """A row for each class: its objects, the images that show it, its sizes, and those resized."""
    rows = [
        [
            shown(c.name),
            f"{c.objects:,}",
            percent(c.objects / report.objects if report.objects else None),
            f"{c.images:,}",
            *_cells(c.side_original),
            *_cells(c.side),
        ]
        for c in report.classes
    ]
    sizes = [*_cells(report.side_original), *_cells(report.side)]
    everything = ["all", f"{report.objects:,}", "", "", *sizes]
    spread = ["5 %", "median", "95 %"]
    header = ["class", "objects", "share", "images", *spread, "resized 5 %", *spread[1:]]
    return Table(header, [*rows, everything])


def size_table(report: DatasetReport) -> Table:
    """A row for each size class: its objects, and what the anchors do for those after the resize.

    Thresholds that are the same have one column.
    """
    used = [k for k in range(len(report.edges)) if report.sizes_original[k] + report.sizes[k]]
    rows = [
        [
            size_label(report, k),
            f"{report.sizes_original[k]:,}",
            f"{report.sizes[k]:,}",
            *_overlap_cells(report, report.overlaps_by_size[k]),
        ]
        for k in used
    ]
    count = f"{report.objects:,}"
    everything = ["all", count, count, *_overlap_cells(report, report.overlaps)]
    thresholds = [f"IoU {x:g}" for x in _reached(report, report.overlaps)]
    header = ["size", "original", "resized", *thresholds, "forced", "no anchor"]
    return Table(header, [*rows, everything])


def match_table(report: DatasetReport) -> Table:
    """A row for each size class: what the matcher does for its objects on some images."""
    used = [k for k, matched in enumerate(report.matched_by_size) if matched.objects]
    named = [(size_label(report, k), report.matched_by_size[k]) for k in used]
    rows = [
        [name, f"{x.objects:,}", percent(x.matched), *_cells(x.anchors)]
        for name, x in [*named, ("all", report.matched)]
    ]
    header = ["size", "objects", "matched", "anchors 5 %", "median", "95 %"]
    return Table(header, rows)


def level_table(report: DatasetReport) -> Table:
    """A row for each level: its anchors, and the shares of objects that find one there."""
    thresholds = (report.foreground_iou, report.background_iou)
    rows = [
        [
            f"p{x.level}",
            str(x.stride),
            " ".join(f"{size:g}" for size in x.sizes),
            percent(x.best),
            percent(x.foreground),
            percent(x.background),
        ]
        for x in report.levels
    ]
    header = ["level", "stride", "anchors", "best here", *(f"IoU {x:g}" for x in thresholds)]
    return Table(header, rows)


def settings_table(report: DatasetReport) -> Table:
    """The anchors' settings now and others worth comparing, each once."""
    named: dict[Proposal, str] = {}
    # In this order, so that settings that are the same have the name that says most.
    for index, name in ((0, "now"), (3, "proposal"), (2, "scale alone"), (1, "levels alone")):
        if report.settings:
            named.setdefault(report.settings[index], name)
    rows = [
        [
            name,
            value_text(settings.fpn_levels),
            value_text(settings.anchor_scale),
            value_text(settings.anchor_ratios),
            percent(settings.covered),
            f"{settings.anchors:,}",
        ]
        for settings, name in named.items()
    ]
    header = ["", "fpn_levels", "anchor_scale", "anchor_ratios", f"IoU {COVERED:g}", "anchors"]
    return Table(header, rows)


def percent(share: float | None) -> str:
    """A share in per cent."""
    return "" if share is None else f"{100 * share:.1f} %"


def percentiles(spread: Spread, unit: str = "") -> str:
    """The spread of some numbers in a line."""
    if spread.median is None:
        return "none"
    low, middle, high = _cells(spread)
    return f"5 % {low}, median {middle}, 95 % {high}{unit}"


def size_label(report: DatasetReport, k: int) -> str:
    """The name of a size class of a report."""
    return range_label(report.edges, k)


def range_label(edges: Sequence[float], k: int) -> str:
    """The name of the class from one of some edges to the next."""
    low, *high = edges[k : k + 2]
    return f"{low:g}-{high[0]:g}" if high else f"{low:g}-"


def value_text(value: float | tuple[float, ...] | tuple[int, int]) -> str:
    """A value of the config as the command line takes it."""
    if isinstance(value, tuple):
        return f"({','.join(f'{x:.3g}' for x in value)}{',' if len(value) == 1 else ''})"
    return f"{value:g}"


def _cells(spread: Spread) -> list[str]:
    values = (spread.p5, spread.median, spread.p95)
    return ["" if value is None else f"{value:.1f}" for value in values]


def _reached(report: DatasetReport, overlaps: Overlaps) -> dict[float, float | None]:
    """The thresholds of the IoU and the shares that reach them."""
    return {
        COVERED: overlaps.covered,
        report.foreground_iou: overlaps.foreground,
        report.background_iou: overlaps.background,
    }


def _overlap_cells(report: DatasetReport, overlaps: Overlaps) -> list[str]:
    shares = (*_reached(report, overlaps).values(), overlaps.forced, overlaps.none)
    return [percent(share) for share in shares]
