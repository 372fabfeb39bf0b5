"""The sections of a run's page about its errors: their costs, thresholds, sizes and confusion."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np

from ipg_jax.analysis.charts import Line, bar_chart, line_chart
from ipg_jax.analysis.confusion import confusion
from ipg_jax.analysis.curves import Curve
from ipg_jax.analysis.elements import class_css, note, row, section, table
from ipg_jax.analysis.errors import Judged, Outcome
from ipg_jax.analysis.matching import FOREGROUND_IOU
from ipg_jax.analysis.report import EDGES, size_class_of
from ipg_jax.analysis.tables import Table, percent, range_label
from ipg_jax.analysis.tide import tide
from ipg_jax.text import shown

MOST_LINES = 12
"""Classes with a line of their own in a chart, those with the most objects."""

MOST_CONFUSED = 30
"""Classes in the confusion matrix, those with the most objects."""

_KINDS = {
    "classification": "another class",
    "localisation": "badly placed",
    "both": "another class, badly placed",
    "duplicate": "found twice",
    "background": "nothing there",
    "missed": "not found",
}


def error_section(judged: Judged) -> str:
    """What errors there are and what each kind costs."""
    found = tide(judged)
    rows = [
        [kind, f"{found.counts[kind]:,}", f"{100 * cost:.2f}", _KINDS[kind]]
        for kind, cost in found.cost.items()
    ]
    for name, cost in (
        ("all false positives", found.false_positives),
        ("all false negatives", found.false_negatives),
    ):
        rows.append([name, "", f"{100 * cost:.2f}", ""])
    header = ["error", "number", "AP50 lost", "what is wrong"]
    bars = bar_chart(
        list(found.cost),
        [[cost] for cost in found.cost.values()],
        [f"{100 * cost:.2f}" for cost in found.cost.values()],
        width=356,
    )
    return section(
        "Errors",
        row(table(Table(header, rows)), bars),
        note(
            f"AP50 is {100 * found.ap50:.1f}; how much it would rise without one kind of error "
            "alone, in points (TIDE, Bolya et al., 2020). The costs do not add up: errors hide "
            "each other."
        ),
    )


def curve_section(of_classes: Sequence[Curve]) -> str:
    """Precision, recall and F1 of each class, and its best threshold."""
    order = sorted(range(len(of_classes)), key=lambda k: -of_classes[k].objects)[:MOST_LINES]
    drawn = [(k, of_classes[k]) for k in sorted(order) if len(of_classes[k].score)]
    precision, f1 = [], []
    for k, curve in drawn:
        name = shown(curve.name, limit=16)
        precision.append(Line(name, curve.recall, curve.precision, class_css(k), curve.best))
        f1.append(Line(name, curve.score, curve.f1, class_css(k), curve.best))
    unit = (0.0, 1.0)
    charts = [
        ("Precision over recall", precision, "recall"),
        ("F1 over the threshold", f1, "score"),
    ]
    shown_charts = "".join(
        f"<div><h3>{title}</h3>{line_chart(lines, x_label=label, x_range=unit, y_range=unit)}</div>"
        for title, lines, label in charts
    )
    rows = []
    for curve in of_classes:
        best = curve.best
        values = (curve.score, curve.f1, curve.precision, curve.recall)
        cells = ["" if best is None else f"{x[best]:.3f}" for x in values]
        rows.append([shown(curve.name), f"{curve.objects:,}", *cells])
    header = ["class", "objects", "best threshold", "F1", "precision", "recall"]
    return section(
        "Precision, recall and thresholds",
        f'<div class="charts">{shown_charts}</div>',
        table(Table(header, rows)),
        note(
            f"At an IoU of {FOREGROUND_IOU:g}. Dots mark the best F1 of each class. What follows "
            "is at these thresholds, which are in thresholds.json beside this page."
        ),
    )


def size_section(judged: Judged, best: np.ndarray) -> str:
    """What is found and missed by size, the square root of a box's area.

    Args:
      judged: the evaluation.
      best: the threshold of each class, as for the next.
    """
    missed, kept = judged.missed(best), judged.kept(best)
    wrong = kept & (judged.outcome != Outcome.TRUE_POSITIVE)
    object_size, found_size = size_class_of(judged.object_side), size_class_of(judged.found_side)
    rows, parts, labels, notes = [], [], [], []
    for k in range(len(EDGES)):
        of_size = object_size == k
        objects, lost = int(of_size.sum()), int((of_size & missed).sum())
        false = int((wrong & (found_size == k)).sum())
        if not objects + false:
            continue
        recall = percent((objects - lost) / objects if objects else None)
        rows.append([range_label(EDGES, k), f"{objects:,}", f"{lost:,}", recall, f"{false:,}"])
        labels.append(f"{range_label(EDGES, k)} px")
        parts.append([objects - lost, lost, false])
        notes.append("")
    header = ["size in pixels", "objects", "missed", "recall", "false positives"]
    legend = ["found", "missed", "false positives"]
    bars = bar_chart(labels, parts, notes, legend, width=356)
    return section("Sizes", row(table(Table(header, rows)), bars))


def confusion_section(judged: Judged, best: np.ndarray) -> str:
    """What the objects of each class were taken for."""
    counts = confusion(judged, best)
    background = len(judged.class_names)
    order = np.argsort(-np.bincount(judged.objects.label, minlength=background), kind="stable")
    classes = [*sorted(order[:MOST_CONFUSED].tolist()), background]
    names = [*(shown(name, limit=20) for name in judged.class_names), "background"]
    header = "".join(f"<th>{html.escape(names[k])}</th>" for k in classes)
    rows = []
    for k in classes:
        total = max(int(counts[k].sum()), 1)
        cells = []
        for other in classes:
            share = float(counts[k, other]) / total
            tint = "37,99,235" if k == other else "220,38,38"
            text = f"{counts[k, other]:,}" if counts[k, other] else ""
            color = f"rgba({tint},{0.75 * share:.2f})"
            cells.append(f'<td style="background:{color}">{text}</td>')
        rows.append(f"<tr><td>{html.escape(names[k])}</td>{''.join(cells)}</tr>")
    return section(
        "Confusion",
        f'<div class="scroll"><table class="matrix"><tr><th></th>{header}</tr>{"".join(rows)}'
        "</table></div>",
        note(
            "Rows are what is there, columns what was detected. The last column holds the objects "
            "that were missed, the last row detections of nothing. Colours are shares of the row."
        ),
    )
