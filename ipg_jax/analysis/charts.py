"""Charts as inline SVG, which a page shows without any script or network."""

from __future__ import annotations

import html
from collections.abc import Sequence

WIDTH = 640
_ROW = 22
_COLORS = ("#2563eb", "#60a5fa", "#f59e0b", "#dc2626")


def bar_chart(
    labels: Sequence[str],
    parts: Sequence[Sequence[float | int]],
    notes: Sequence[str],
    legend: Sequence[str] = (),
) -> str:
    """Horizontal bars, a row for each label.

    Args:
      labels: of the rows.
      parts: for each row, lengths of what its bar is stacked of, at least 0; the longest bar fills
        the width.
      notes: texts behind the bars.
      legend: what the parts are; empty for bars of one part.
    """
    left = 16 + 7 * max((len(label) for label in labels), default=0)
    room = WIDTH - left - 16 - 7 * max((len(note) for note in notes), default=0)
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
            width = room * part / longest
            rows.append(
                f'<rect x="{x:.1f}" y="{y + 3}" width="{width:.1f}" height="{_ROW - 6}" '
                f'fill="{_COLORS[k]}"/>'
            )
            x += width
        rows.append(f'<text x="{x + 6:.1f}" y="{y + 15}">{html.escape(note)}</text>')
    return (
        f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img">'
        f"{''.join(rows)}</svg>"
    )
