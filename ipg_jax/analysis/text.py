"""The report as text: all of it, and the lines that matter at the start of a training."""

from __future__ import annotations

from typing import NamedTuple

from ipg_jax.analysis.proposal import COVERED
from ipg_jax.analysis.report import TINY, DatasetReport, Limit
from ipg_jax.analysis.tables import (
    class_table,
    level_table,
    match_table,
    percent,
    percentiles,
    settings_table,
    size_table,
    value_text,
)
from ipg_jax.text import shown

ENOUGH = 0.9
"""Share of covered objects below which a training is warned of its anchors."""


class Hints(NamedTuple):
    """What matters at the start of a training.

    Attributes:
      lines: what the objects are like.
      warnings: what will cost accuracy, and the field to change.
    """

    lines: list[str]
    warnings: list[str]


def hints(report: DatasetReport) -> Hints:
    """Returns the lines that matter at the start of a training; none without objects."""
    covered = report.overlaps.covered
    if covered is None:
        return Hints([], [])
    line = (
        f"objects after the resize: {percentiles(report.side, ' px')}; smallest anchor "
        f"{report.levels[0].sizes[0]:g} px: {percent(1 - covered)} of the objects have none with "
        f"IoU {COVERED:g}"
    )
    warnings = [_limit_text(limit, report) for limit in report.limits if limit.images_over]
    if covered < ENOUGH and report.by_iou:
        remedy = f"; try {proposed_changes(report)}" if report.proposal else ""
        warnings.append(f"the anchors cover {percent(covered)} of the objects{remedy}")
    return Hints([line], warnings)


def proposed_changes(report: DatasetReport) -> str:
    """Returns what the proposal changes, as overrides of a config, and what that does."""
    now, other = report.settings[0], report.settings[-1]
    new = [
        f"config.model.{name}={value_text(getattr(other, name))}"
        for name in ("fpn_levels", "anchor_scale", "anchor_ratios")
        if getattr(other, name) != getattr(now, name)
    ]
    return f"{' '.join(new)}, which covers {percent(other.covered)}"


def verdict(report: DatasetReport) -> str:
    """Returns what there is to say of the anchors."""
    if report.proposal is None:
        return "The anchors fit: no others that were tried cover a percent more."
    if not report.by_iou:
        return (
            "The matcher needs no anchor of an object's size. For matching by IoU: "
            f"{proposed_changes(report)}."
        )
    return f"Proposal: {proposed_changes(report)}."


def summary(report: DatasetReport) -> list[str]:
    """Returns what the data are, in a few lines."""
    ignored = f", and {report.ignored:,} to ignore" if report.ignored else ""
    return [
        f"{count(report.images, 'image')}, {count(report.objects, 'object')} of "
        f"{count(len(report.classes), 'class', 'classes')}{ignored}",
        f"objects an image: {percentiles(report.objects_per_image)}, at most "
        f"{report.most_objects:,}; {count(report.empty_images, 'image')} without any",
        f"after the resize to {report.image_size}: {percentiles(report.side, ' px')}; "
        f"{count(report.tiny, 'object')} below {TINY:g} px",
        *(_limit_text(limit, report) for limit in report.limits),
    ]


def format_report(report: DatasetReport) -> str:
    """The report as aligned plain text; sizes are square roots of areas, in pixels."""
    parts = [
        "\n".join([shown(report.name), *summary(report)]),
        class_table(report),
        size_table(report),
        f"By the matcher, on {count(report.matched_images, 'image')}:\n{match_table(report)}",
        level_table(report),
        f"{settings_table(report)}\n{verdict(report)}",
    ]
    return "\n\n".join(map(str, parts))


def count(number: int, noun: str, plural: str | None = None) -> str:
    """A number of things."""
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def _limit_text(limit: Limit, report: DatasetReport) -> str:
    if not limit.images_over:
        return f"{limit.name}: {limit.value:,}, and no image has more objects"
    return (
        f"{limit.name}: {limit.value:,}, and {limit.images_over:,} of "
        f"{count(report.images, 'image')} have more objects, up to {report.most_objects:,}"
    )
