"""The section of a run's page that compares it with others."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ipg_jax.analysis.charts import interval_chart
from ipg_jax.analysis.compare import RESAMPLES, Comparison, Estimate
from ipg_jax.analysis.elements import note, section, table
from ipg_jax.analysis.tables import Table
from ipg_jax.text import shown


def comparison_section(names: Sequence[str], comparison: Comparison) -> str:
    """Returns the section as HTML.

    Args:
      names: of the runs, the page's own first.
      comparison: theirs.
    """
    rows = []
    for k, name in enumerate(names):
        cells = [cell for of in ("AP", "AP50") for cell in _cells(comparison.figures[of][k])]
        change = comparison.differences["AP"][k - 1] if k else None
        rows.append([shown(name), *cells, *(["", ""] if change is None else _cells(change, "+"))])
    interval = "95 % interval"
    header = ["run", "AP", interval, "AP50", interval, "AP above the first", interval]
    parts = [f"<p>{html.escape(line)}</p>" for line in verdicts(names, comparison)]
    parts.append(table(Table(header, rows)))
    charts = []
    for k, name in enumerate(names[1:]):
        drawn = [
            ("all" if figure == "AP50" else figure.removeprefix("AP50/"), estimates[k])
            for figure, estimates in comparison.differences.items()
            if figure.startswith("AP50") and estimates[k].value is not None
        ]
        if not drawn:
            continue
        chart = interval_chart(
            [shown(label, limit=16) for label, _ in drawn],
            [_points(estimate) for _, estimate in drawn],
            [" to ".join(_ends(estimate, "+")) for _, estimate in drawn],
            width=356,
        )
        title = html.escape(f"AP50 of {shown(name)} above that of {shown(names[0])}")
        charts.append(f"<div><h3>{title}</h3>{chart}</div>")
    return section(
        "Comparison",
        *parts,
        f'<div class="charts">{"".join(charts)}</div>',
        note(
            f"In points. Intervals of 95 % are of {RESAMPLES:,} draws of the images with "
            "replacement, the same for all runs: they say what other images of this kind would "
            "have given, not what another training would."
        ),
    )


def verdicts(names: Sequence[str], comparison: Comparison) -> list[str]:
    """Returns a sentence for each run but the first: whether its AP is another one."""
    lines = []
    for name, change in zip(names[1:], comparison.differences["AP"], strict=True):
        low, high = change.low, change.high
        if change.value is None or low is None or high is None:
            lines.append(f"{shown(name)} cannot be compared: there is no object.")
            continue
        ends = " to ".join(_ends(change, "+"))
        if low <= 0 <= high:
            verdict = f"AP of {shown(name)} and {shown(names[0])} cannot be told apart"
        else:
            better, worse = (name, names[0]) if low > 0 else (names[0], name)
            verdict = f"AP of {shown(better)} is above that of {shown(worse)}"
        lines.append(f"{verdict}: the difference is {100 * change.value:+.1f} points ({ends}).")
    return lines


def _points(estimate: Estimate) -> tuple[float, float, float]:
    value, low, high = (0.0 if x is None else 100 * x for x in estimate)
    return value, low, high


def _ends(estimate: Estimate, sign: str = "") -> list[str]:
    return ["" if x is None else f"{100 * x:{sign}.1f}" for x in (estimate.low, estimate.high)]


def _cells(estimate: Estimate, sign: str = "") -> list[str]:
    if estimate.value is None:
        return ["", ""]
    return [f"{100 * estimate.value:{sign}.1f}", " to ".join(_ends(estimate, sign))]
