"""Metrics as text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ipg_jax.text import shown


def format_metrics(metrics: Mapping[str, Any]) -> str:
    """The figures of an evaluation as aligned plain text.

    Args:
      metrics: what the evaluation returned.

    Returns:
      A table with a line per class, and below it a line per figure of the whole data set.
      Fractions are in per cent, as papers quote them; `n/a` where nothing is defined.
    """
    summary = _summary(metrics)
    per_class = metrics["per_class"]
    header = ["class", *next(iter(per_class.values()))]
    rows = [header, *([shown(name), *map(_cell, row.values())] for name, row in per_class.items())]
    table = _table(rows)
    rule = "-" * len(table[0])
    name_width = max(map(len, summary))
    lines = [f"{name.ljust(name_width)}  {_cell(value):>6}" for name, value in summary.items()]
    return "\n".join([table[0], rule, *table[1:], rule, *lines])


def nothing_found(score_threshold: float) -> str:
    """Returns the sentence that a log and a report have of an evaluation without detections.

    Args:
      score_threshold: detections of this score or less were dropped.
    """
    return (
        f"0 detections: nothing was found above config.eval.score_threshold={score_threshold:g}. "
        "Train for longer, or run ipg-jax eval with a lower one to see less sure detections."
    )


def format_summaries(metrics: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of whole data sets beside each other, as aligned plain text.

    Args:
      metrics: by the heading of the column, what the evaluations returned, all of one kind.

    Returns:
      A table with a line per figure; see `format_metrics`.
    """
    summaries = [_summary(of_one) for of_one in metrics.values()]
    rows = [
        ["", *metrics],
        *([name, *(_cell(summary[name]) for summary in summaries)] for name in summaries[0]),
    ]
    return "\n".join(_table(rows))


def _summary(metrics: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if name != "per_class"}


def _table(rows: list[list[str]]) -> list[str]:
    """Lines of a table whose columns are aligned, the first to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def _cell(value: float | int | None) -> str:
    if value is None:
        return "n/a"
    return str(value) if isinstance(value, int) else f"{100 * value:.2f}"
