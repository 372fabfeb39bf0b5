"""The sections of a run's page about its training, its figures and its model."""

from __future__ import annotations

import html
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from ipg_jax.analysis.charts import Line, line_chart
from ipg_jax.analysis.elements import class_css, note, section, table
from ipg_jax.analysis.run_figures import RunFigures
from ipg_jax.analysis.tables import Table, percent
from ipg_jax.evaluation import METRICS
from ipg_jax.text import shown


def headline(run: RunFigures) -> str:
    """The figures that one looks for first."""
    values = [(name, percent(run.metrics.get(name))) for name in ("AP", "AP50", "AP75")]
    values += [
        (name.replace("_", " "), percent(value))
        for name, value in run.metrics.items()
        if name.startswith("AP_") and value is not None
    ]
    values.append(("parameters", f"{sum(run.parameters.values()) / 1e6:.2f} M"))
    if (rate := _speed(run)) is not None:
        values.append(("images/s in training", f"{rate:.3g}"))
    values.append(("image size", " x ".join(map(str, run.image_size))))
    tiles = "".join(f"<div><b>{html.escape(v)}</b>{html.escape(k)}</div>" for k, v in values if v)
    return f'<div class="tiles">{tiles}</div>'


def _speed(run: RunFigures) -> float | None:
    """Images per second in training, the median over the run."""
    _, values = run.history.get("train/images_per_second", ((), ()))
    finite = [value for value in values if np.isfinite(value)]
    return float(np.median(finite)) if finite else None


def training_section(run: RunFigures) -> str:
    """A chart for each group of scalars: AP, losses, and each other one of the training."""
    groups: dict[str, dict[str, str]] = {"COCO's AP": {}, "loss": {}}
    for name in run.history:
        if (chart := _chart(name)) is not None:
            groups.setdefault(chart[0], {})[chart[1]] = name
    charts = []
    for title, names in groups.items():
        data = {
            line: tuple(np.array(x, np.float64) for x in run.history[name])
            for line, name in names.items()
        }
        every = np.concatenate([np.zeros(0), *(values for _, values in data.values())])
        every = every[np.isfinite(every)]
        longest = max((len(steps) for steps, _ in data.values()), default=0)
        if len(every) == 0 or np.ptp(every) == 0 or longest < 2:
            continue  # there is no curve
        lines = [
            Line(line if len(names) > 1 else "", steps, values, class_css(k))
            for k, (line, (steps, values)) in enumerate(data.items())
        ]
        charts.append(
            f"<div><h3>{html.escape(title)}</h3>{line_chart(lines, x_label='step')}</div>"
        )
    if not charts:
        return section("Training", note("The run's metrics.jsonl holds no curve."))
    return section("Training", f'<div class="charts">{"".join(charts)}</div>')


_EVALUATED = re.compile(rf"eval/(?:(\w+)_)?({'|'.join(METRICS)})_(\w+)")
"""A figure of an evaluation: what the detections are of, if that is said, the metric, its name."""


def _chart(scalar: str) -> tuple[str, str] | None:
    """The titles of the chart and the line of a scalar; None of what is not drawn."""
    if found := _EVALUATED.fullmatch(scalar):
        view, metric, figure = found.groups()
        if metric == "coco" and figure not in ("AP", "AP50", "AP75"):
            return None
        return "COCO's AP" if metric == "coco" else metric, f"{view or ''} {figure}".strip()
    name = scalar.partition("/")[2]
    return "loss" if name.startswith("loss") else name.replace("_", " "), name


def precision_section(run: RunFigures) -> str:
    """COCO's figures by class."""
    per_class = run.metrics["per_class"]
    names = [name for name in next(iter(per_class.values()), {}) if name != "objects"]

    def cells(values: Mapping[str, Any]) -> list[str]:
        return ["" if (x := values.get(name)) is None else f"{100 * x:.1f}" for name in names]

    rows = [
        [shown(name), f"{values['objects']:,}", *cells(values)]
        for name, values in per_class.items()
    ]
    total = sum(values["objects"] for values in per_class.values())
    header = ["class", "objects", *(name.replace("_", " ") for name in names)]
    rows.append(["all", f"{total:,}", *cells(run.metrics)])
    return section(
        "Average precision",
        table(Table(header, rows)),
        note("COCO's figures of the whole evaluation, in per cent. Sizes are areas."),
    )


def model_section(run: RunFigures) -> str:
    """Parameters by part."""
    rows = [
        [shown(name), f"{count:,}", f"{4 * count / 2**20:.1f}"]
        for name, count in (*run.parameters.items(), ("all", sum(run.parameters.values())))
    ]
    return section("Model", table(Table(["part", "parameters", "MiB in float32"], rows)))
