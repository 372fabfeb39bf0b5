"""A page of a trained run: curves, figures, errors and pictures of them, in one HTML file."""

from __future__ import annotations

import functools
import html
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ipg_jax import visualize
from ipg_jax.analysis.charts import Line, bar_chart, line_chart
from ipg_jax.analysis.elements import document, figures, note, row, section, table
from ipg_jax.analysis.errors import (
    FOREGROUND_IOU,
    Curve,
    Judged,
    Outcome,
    Tide,
    confusion,
    curves,
    thresholds,
    tide,
)
from ipg_jax.analysis.pictures import Picture, crop
from ipg_jax.analysis.report import EDGES, size_class_of
from ipg_jax.analysis.tables import Table, percent, range_label
from ipg_jax.data import Source
from ipg_jax.evaluation.ground_truth import Result
from ipg_jax.text import shown

CROPS = 8
"""Pictures in each gallery."""

SAME_IMAGE = 2
"""Pictures of a gallery that may be of one image."""

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


class RunFigures(NamedTuple):
    """What a run's folder holds.

    Attributes:
      name: of the run.
      history: steps and values of each scalar of the training and its evaluations.
      step: of the evaluated checkpoint.
      metrics: COCO's, as `evaluation.evaluate_coco` returns them.
      results: the detections, in COCO's results format.
      parameters: how many the model has, by part.
      image_size: limits of the (short, long) side of its images, in pixels.
      class_names: what it was trained with.
      evaluated: how many images the evaluation saw; None if the run does not say.
      max_detections: how many of an image the detector keeps at most.
    """

    name: str
    history: Mapping[str, tuple[Sequence[int], Sequence[float]]]
    step: int
    metrics: Mapping[str, Any]
    results: Sequence[Result]
    parameters: Mapping[str, int]
    image_size: tuple[int, int]
    class_names: Sequence[str]
    evaluated: int | None
    max_detections: int


def check_comparable(first: RunFigures, other: RunFigures) -> None:
    """Raises ValueError unless two runs have the same classes and saw equally many images."""
    if list(first.class_names) != list(other.class_names):
        names = [", ".join(map(shown, run.class_names)) for run in (first, other)]
        raise ValueError(
            f"--compare={shown(other.name)}: it was trained with the classes\n  {names[1]}\n"
            f"{shown(first.name)} with\n  {names[0]}"
        )
    counts = first.evaluated, other.evaluated
    if None not in counts and counts[0] != counts[1]:
        raise ValueError(
            f"--compare={shown(other.name)}: it was evaluated on {counts[1]} images, and "
            f"{shown(first.name)} on {counts[0]}: python eval.py evaluates a run on other data "
            "(--config.data...)"
        )


def run_page(source: Source, run: RunFigures, judged: Judged, comparison: str = "") -> str:
    """Returns the page as HTML.

    Args:
      source: the data that the run was evaluated on.
      run: the run.
      judged: its detections (`errors.judge`).
      comparison: a section about other runs, as HTML.
    """
    of_classes = curves(judged)
    best = thresholds(of_classes)
    gallery = _Gallery(source, judged, best)
    return document(
        f"Report of {shown(run.name)}",
        f"<h1>{html.escape(shown(run.name))}</h1>",
        f"<p>Checkpoint of step {run.step:,} on {html.escape(shown(source.name))}: "
        f"{len(source):,} images, {len(judged.objects.label):,} objects, "
        f"{len(judged.found.score):,} detections.</p>",
        _headline(run),
        comparison,
        section("Training", _history(run)),
        section(
            "Average precision",
            table(_precision_table(run)),
            note("COCO's figures of the whole evaluation, in per cent. Sizes are areas."),
        ),
        section("Errors", _error_section(tide(judged))),
        section("Precision, recall and thresholds", *_curve_section(of_classes)),
        section("Sizes", *_size_section(judged, best)),
        section("Confusion", *_confusion_section(judged, best)),
        section(
            "Missed objects",
            note(
                "Coloured: what was not found, the least noticed and largest first; the score is "
                "that of a detection below the threshold. White: what was detected around it."
            ),
            *gallery.missed(),
        ),
        section(
            "False positives",
            note(
                "Coloured: what was detected wrongly, the surest first, and by what error. White: "
                "the objects around it."
            ),
            *gallery.false_positives(),
        ),
        section("Model", table(_parameter_table(run))),
    )


def _headline(run: RunFigures) -> str:
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


def _color(label: int) -> str:
    return "#{:02x}{:02x}{:02x}".format(*visualize.class_color(label))


def _history(run: RunFigures) -> str:
    """A chart for each group of scalars: AP, losses, and each other one of the training."""
    groups: dict[str, list[str]] = {"COCO's AP": [], "loss": []}
    for name in run.history:
        kind, _, rest = name.partition("/")
        if kind == "eval":
            metric = rest.partition("_")[0]
            if metric != "coco":
                groups.setdefault(metric, []).append(name)
            elif rest in ("coco_AP", "coco_AP50", "coco_AP75"):
                groups["COCO's AP"].append(name)
        else:
            group = "loss" if rest.startswith("loss") else rest.replace("_", " ")
            groups.setdefault(group, []).append(name)
    charts = []
    for title, names in groups.items():
        data = [tuple(np.array(x, np.float64) for x in run.history[name]) for name in names]
        every = np.concatenate([np.zeros(0), *(values for _, values in data)])
        every = every[np.isfinite(every)]
        if len(every) == 0 or np.ptp(every) == 0 or max(len(steps) for steps, _ in data) < 2:
            continue  # there is no curve
        lines = [
            Line(_short(name) if len(names) > 1 else "", steps, values, _color(k))
            for k, (name, (steps, values)) in enumerate(zip(names, data, strict=True))
        ]
        charts.append(
            f"<div><h3>{html.escape(title)}</h3>{line_chart(lines, x_label='step')}</div>"
        )
    if not charts:
        return note("The run's metrics.jsonl holds no curve.")
    return f'<div class="charts">{"".join(charts)}</div>'


def _short(name: str) -> str:
    return name.partition("/")[2].removeprefix("coco_")


def _precision_table(run: RunFigures) -> Table:
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
    return Table(header, [*rows, ["all", f"{total:,}", *cells(run.metrics)]])


def _error_section(found: Tide) -> str:
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
    return row(table(Table(header, rows)), bars) + note(
        f"AP50 is {100 * found.ap50:.1f}; how much it would rise without one kind of error alone, "
        "in points (TIDE, Bolya et al., 2020). The costs do not add up: errors hide each other."
    )


def _curve_section(of_classes: Sequence[Curve]) -> list[str]:
    order = sorted(range(len(of_classes)), key=lambda k: -of_classes[k].objects)[:MOST_LINES]
    drawn = [(k, of_classes[k]) for k in sorted(order) if len(of_classes[k].score)]
    precision, f1 = [], []
    for k, curve in drawn:
        name = shown(curve.name, limit=16)
        precision.append(Line(name, curve.recall, curve.precision, _color(k), curve.best))
        f1.append(Line(name, curve.score, curve.f1, _color(k), curve.best))
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
    return [
        f'<div class="charts">{shown_charts}</div>',
        table(Table(header, rows)),
        note(
            f"At an IoU of {FOREGROUND_IOU:g}. Dots mark the best F1 of each class. What follows "
            "is at these thresholds, which are in thresholds.json beside this page."
        ),
    ]


def _size_section(judged: Judged, best: np.ndarray) -> list[str]:
    """What is found and missed by size, the square root of a box's area."""
    missed, kept = judged.missed(best), judged.kept(best)
    wrong = kept & (judged.outcome != Outcome.TRUE_POSITIVE)
    object_size, found_size = _object_sizes(judged), _found_sizes(judged)
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
    return [row(table(Table(header, rows)), bar_chart(labels, parts, notes, legend, width=356))]


def _object_sizes(judged: Judged) -> np.ndarray:
    sides = judged.objects.boxes[:, 2:] - judged.objects.boxes[:, :2]
    return size_class_of(np.sqrt(np.prod(sides, axis=1)))


def _found_sizes(judged: Judged) -> np.ndarray:
    return size_class_of(np.sqrt(np.prod(judged.found.xywh[:, 2:], axis=1)))


def _confusion_section(judged: Judged, best: np.ndarray) -> list[str]:
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
    return [
        f'<div class="scroll"><table class="matrix"><tr><th></th>{header}</tr>{"".join(rows)}'
        "</table></div>",
        note(
            "Rows are what is there, columns what was detected. The last column are objects that "
            "were missed, the last row detections of nothing. Colours are shares of the row."
        ),
    ]


def _parameter_table(run: RunFigures) -> Table:
    rows = [
        [shown(name), f"{count:,}", f"{4 * count / 2**20:.1f}"]
        for name, count in (*run.parameters.items(), ("all", sum(run.parameters.values())))
    ]
    return Table(["part", "parameters", "MiB in float32"], rows)


class _Gallery:
    """Crops of errors, size by size; an image that cannot be read makes none."""

    def __init__(self, source: Source, judged: Judged, best: np.ndarray):
        self._source, self._judged, self._best = source, judged, best
        self._load = functools.lru_cache(maxsize=4)(source.try_load_image)

    def missed(self) -> list[str]:
        """The objects that were not found at the thresholds, the least noticed first."""
        judged = self._judged
        score = np.append(judged.found.score, 0.0)[judged.finder]
        sides = judged.objects.boxes[:, 2:] - judged.objects.boxes[:, :2]
        order = np.lexsort((-np.prod(sides, axis=1), score))
        order = order[judged.missed(self._best)[order]]
        found = judged.found.of(judged.kept(self._best))

        def picture(image: np.ndarray, k: int) -> Picture:
            here = found.boxes[found.image == judged.objects.image[k]]
            text = f", {score[k]:.2f}" if score[k] else ""
            box, label = judged.objects.boxes[k], int(judged.objects.label[k])
            return self._picture(image, box, label, here, text, int(judged.objects.image[k]))

        return self._by_size(order, _object_sizes(judged), judged.objects.image, picture)

    def false_positives(self) -> list[str]:
        """The detections at the thresholds that are wrong, the surest first."""
        judged = self._judged
        kept = judged.kept(self._best) & (judged.outcome != Outcome.TRUE_POSITIVE)
        order = np.flatnonzero(kept)  # they are the best first

        def picture(image: np.ndarray, k: int) -> Picture:
            index = int(judged.found.image[k])
            here = judged.objects.boxes[judged.objects.image == index]
            kind = Outcome(int(judged.outcome[k])).name.lower()
            text = f", {judged.found.score[k]:.2f}, {kind}"
            box = judged.found.of(np.array([k])).boxes[0]
            return self._picture(image, box, int(judged.found.label[k]), here, text, index)

        return self._by_size(order, _found_sizes(judged), judged.found.image, picture)

    def _by_size(
        self, order: np.ndarray, size: np.ndarray, image: np.ndarray, picture: Any
    ) -> list[str]:
        """A gallery for each size class, the smallest first."""
        parts = []
        for k in range(len(EDGES)):
            mine = order[size[order] == k].tolist()
            if not mine:
                continue
            uses: dict[int, int] = {}
            pictures: list[Picture] = []
            for index in mine:
                number = int(image[index])
                if len(pictures) == CROPS or uses.get(number, 0) == SAME_IMAGE:
                    continue
                pixels = self._load(number)
                if pixels is not None:
                    uses[number] = uses.get(number, 0) + 1
                    pictures.append(picture(pixels, index))
            heading = f"<h3>{range_label(EDGES, k)} pixels: {len(mine):,}</h3>"
            parts.append(heading + figures("crops", pictures))
        return parts or [note("There are none.")]

    def _picture(
        self,
        image: np.ndarray,
        box: np.ndarray,
        label: int,
        others: np.ndarray,
        text: str,
        index: int,
    ) -> Picture:
        width, height = box[2:] - box[:2]
        name = shown(self._judged.class_names[label], limit=14)
        caption = f"{name} {width:.0f}x{height:.0f}{text}"
        title = shown(self._source.records.file_names[index])
        return Picture(crop(image, box, label, others), caption, title)
