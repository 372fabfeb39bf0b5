"""Charts as inline SVG, which a page shows without any script or network."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float64

WIDTH = 640
PLOT = (400, 260)
"""Width and height of a line chart in pixels, at which its text is as large as the page's."""

_ROW = 22
_COLORS = ("#2563eb", "#f59e0b", "#dc2626")


def bar_chart(
    labels: Sequence[str],
    parts: Sequence[Sequence[float | int]],
    notes: Sequence[str],
    legend: Sequence[str] = (),
    *,
    width: int = WIDTH,
) -> str:
    """Horizontal bars, a row for each label.

    Args:
      labels: of the rows.
      parts: for each row, lengths of what its bar is stacked of, at least 0; the longest bar fills
        the width.
      notes: texts behind the bars.
      legend: what the parts are; empty for bars of one part.
      width: of the chart in pixels.
    """
    left = 16 + 7 * max((len(label) for label in labels), default=0)
    room = width - left - 16 - 7 * max((len(note) for note in notes), default=0)
    longest = max((sum(row) for row in parts), default=0) or 1
    top = _ROW if legend else 0
    height = top + _ROW * len(labels)
    rows = []
    x = float(left)
    for k, name in enumerate(legend):
        rows.append(f'<rect x="{x:.0f}" y="5" width="12" height="12" fill="{_COLORS[k]}"/>')
        rows.append(f'<text x="{x + 17:.0f}" y="15">{html.escape(name)}</text>')
        x += 34 + 7 * len(name)
    for i, (label, row, note) in enumerate(zip(labels, parts, notes, strict=True)):
        y = top + _ROW * i
        rows.append(
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{html.escape(label)}</text>'
        )
        x = float(left)
        for k, part in enumerate(row):
            length = room * part / longest
            rows.append(
                f'<rect x="{x:.1f}" y="{y + 3}" width="{length:.1f}" height="{_ROW - 6}" '
                f'fill="{_COLORS[k]}"/>'
            )
            x += length
        rows.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{html.escape(note)}</text>')
    return (
        f'<div class="scroll"><svg viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">{"".join(rows)}</svg></div>'
    )


_LEAST_STEP = 0.5
"""Pixels between points of a line: curves of a large data set have a point for each detection."""


class Line(NamedTuple):
    """A line of a chart.

    Attributes:
      name: for the legend; empty for none.
      x: float64 `[n]`, ascending or descending.
      y: float64 `[n]`; the line is broken where this is not finite.
      color: as CSS has it.
      mark: a point of it to be marked, by its index.
    """

    name: str
    x: Float64[np.ndarray, " n"]
    y: Float64[np.ndarray, " n"]
    color: str = _COLORS[0]
    mark: int | None = None


def line_chart(
    lines: Sequence[Line],
    *,
    x_label: str,
    x_range: tuple[float, float] | None = None,
    y_range: tuple[float, float] | None = None,
) -> str:
    """Lines on axes with round ticks; a line shows its name where the pointer rests on it.

    Args:
      lines: the last ones lie on top.
      x_label: below the axis.
      x_range: of the axis; None takes that of the lines.
      y_range: the same, with 0 where the lines come near it.
    """
    width, height = PLOT
    rows_of_legend = _legend_rows(lines, width)
    left, right, top, bottom = 62, width - 22, 10 + 18 * len(rows_of_legend), height - 38
    x0, x1 = x_range or _range([line.x for line in lines])
    y0, y1 = y_range or _range([line.y for line in lines], zero=True)

    def px(x: float) -> float:
        return left + (right - left) * (x - x0) / (x1 - x0)

    def py(y: float) -> float:
        return bottom - (bottom - top) * (y - y0) / (y1 - y0)

    parts = []
    for k, row in enumerate(rows_of_legend):
        for start, line in row:
            parts.append(
                f'<rect x="{start}" y="{4 + 18 * k}" width="12" height="12" fill="{line.color}"/>'
                f'<text x="{start + 17}" y="{14 + 18 * k}">{html.escape(line.name)}</text>'
            )
    for tick in _ticks(y0, y1):
        parts.append(
            f'<path d="M{left} {py(tick):.1f}H{right}" stroke="#e5e7eb"/>'
            f'<text x="{left - 6}" y="{py(tick) + 4:.1f}" text-anchor="end">{tick:g}</text>'
        )
    for tick in _ticks(x0, x1):
        parts.append(
            f'<path d="M{px(tick):.1f} {top}V{bottom}" stroke="#e5e7eb"/>'
            f'<text x="{px(tick):.1f}" y="{bottom + 16}" text-anchor="middle">{tick:g}</text>'
        )
    parts.append(
        f'<text x="{(left + right) / 2}" y="{height - 4}" text-anchor="middle">'
        f"{html.escape(x_label)}</text>"
    )
    for line in lines:
        path = _path(
            [(px(x), py(y)) for x, y in zip(line.x.tolist(), line.y.tolist(), strict=True)]
        )
        title = f"<title>{html.escape(line.name)}</title>"
        if path:
            parts.append(
                f'<path d="{path}" fill="none" stroke="{line.color}" stroke-width="1.8" '
                f'stroke-linejoin="round">{title}</path>'
            )
        if line.mark is not None:
            x, y = float(line.x[line.mark]), float(line.y[line.mark])
            parts.append(
                f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.5" fill="{line.color}">'
                f"{title}</circle>"
            )
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def _path(points: Sequence[tuple[float, float]]) -> str:
    """A line through points, broken where one is not finite, without those that none would see."""
    parts: list[str] = []
    pen, drawn = "M", (math.inf, math.inf)
    for k, (x, y) in enumerate(points):
        if not math.isfinite(y):
            pen = "M"
        elif pen == "M" or k == len(points) - 1 or math.dist(drawn, (x, y)) >= _LEAST_STEP:
            parts.append(f"{pen}{x:.1f} {y:.1f}")
            pen, drawn = "L", (x, y)
    return "".join(parts)


def interval_chart(
    labels: Sequence[str],
    intervals: Sequence[tuple[float, float, float]],
    notes: Sequence[str],
    *,
    width: int = WIDTH,
) -> str:
    """Values with their intervals above and below 0, a row for each label.

    Args:
      labels: of the rows.
      intervals: value, low and high end of each.
      notes: texts behind them.
      width: of the chart in pixels.
    """
    left = 16 + 7 * max((len(label) for label in labels), default=0)
    right = width - 16 - 7 * max((len(note) for note in notes), default=0)
    low, high = _range([np.array([x for row in intervals for x in (*row, 0.0)], np.float64)])

    def px(x: float) -> float:
        return left + (right - left) * (x - low) / (high - low)

    height = _ROW * len(labels)
    rows = [f'<path d="M{px(0):.1f} 0V{height}" stroke="#9ca3af"/>']
    for i, (label, ends, note) in enumerate(zip(labels, intervals, notes, strict=True)):
        y, (value, first, last) = _ROW * i + 11, ends
        color = _COLORS[0] if first > 0 else _COLORS[-1] if last < 0 else "#6b7280"
        rows.append(
            f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{html.escape(label)}</text>'
            f'<path d="M{px(first):.1f} {y}H{px(last):.1f}" stroke="{color}" stroke-width="2"/>'
            f'<circle cx="{px(value):.1f}" cy="{y}" r="4" fill="{color}"></circle>'
            f'<text x="{right + 10}" y="{y + 4}">{html.escape(note)}</text>'
        )
    return (
        f'<div class="scroll"><svg viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img">{"".join(rows)}</svg></div>'
    )


def _legend_rows(lines: Sequence[Line], width: int) -> list[list[tuple[int, Line]]]:
    """The named lines and where they stand in the rows of the legend."""
    rows: list[list[tuple[int, Line]]] = []
    x = width
    for line in lines:
        if not line.name:
            continue
        room = 34 + 7 * len(line.name)
        if x + room > width:
            rows.append([])
            x = 8
        rows[-1].append((x, line))
        x += room
    return rows


def _range(values: Sequence[np.ndarray], *, zero: bool = False) -> tuple[float, float]:
    """The ends of an axis that shows all finite values."""
    every = np.concatenate([*values, np.zeros(0)])
    every = every[np.isfinite(every)]
    if not len(every):
        return 0.0, 1.0
    low, high = float(every.min()), float(every.max())
    if zero and 0 < low < 0.5 * high:
        low = 0.0
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers within a range, three to seven of them."""
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= 0.999 * rough)
    first = math.ceil(low / step - 1e-9)
    return [k * step for k in range(first, math.floor(high / step + 1e-9) + 1)]
