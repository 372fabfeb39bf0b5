"""A page of a data set: numbers, charts and pictures in one HTML file that needs no network."""

from __future__ import annotations

import html
from collections.abc import Iterable

from etils import epath

from ipg_jax.analysis.charts import bar_chart
from ipg_jax.analysis.elements import class_css, document, figures, note, row, section, table
from ipg_jax.analysis.pictures import Album
from ipg_jax.analysis.proposal import COVERED
from ipg_jax.analysis.report import CROWDING, DatasetReport
from ipg_jax.analysis.tables import (
    class_table,
    level_table,
    match_table,
    percent,
    settings_table,
    size_label,
    size_table,
)
from ipg_jax.analysis.text import hints, summary, verdict
from ipg_jax.data import Source
from ipg_jax.files import make_folder, write_whole
from ipg_jax.text import shown

SMALLEST = 16
CROPS = 8
IMAGES = 4

MOST_CLASSES = 100
"""Classes with crops on the page, those with the most objects."""


def write_page(path: epath.PathLike, source: Source, report: DatasetReport) -> None:
    """Writes the page of a data set, local or `gs://`, making parent folders.

    Images that cannot be read are left out of it.

    Args:
      path: the file.
      source: the data.
      report: their numbers.
    """
    path = epath.Path(path)
    make_folder(path.parent)
    write_whole(path, page(source, report))


def page(source: Source, report: DatasetReport) -> str:
    """Returns the page as HTML."""
    name = html.escape(shown(report.name))
    album = Album(source)
    warnings = "".join(f'<p class="warning">{html.escape(w)}</p>' for w in hints(report).warnings)
    lines = "<br>".join(map(html.escape, summary(report)))
    parts = [
        f"<h1>{name}</h1><p>{lines}</p>{warnings}",
        section(
            "Sizes after the resize",
            row(table(size_table(report)), _size_chart(report)),
            note(
                "A size is the square root of a box's area, in pixels. Forced are objects that no "
                "anchor overlaps enough to be positive: a matcher by IoU takes their best."
            ),
        ),
        section(
            "Anchors",
            row(table(level_table(report)), table(settings_table(report))),
            f"<p>{html.escape(verdict(report))}</p>",
        ),
        section(
            "Matches",
            table(match_table(report)),
            note(
                f"Anchors that the matcher makes positive, on {report.matched_images} images: "
                "where objects crowd, an anchor goes to one of them."
            ),
        ),
        section(
            "Classes",
            row(table(class_table(report)), _class_chart(report)),
            note("Sizes in pixels of the original images, then of the resized ones."),
        ),
        section("Objects an image", _crowding_chart(report)),
        section("The smallest objects", figures("crops", album.smallest(SMALLEST))),
        section(
            "The most crowded image", _legend(source), figures("images single", album.densest())
        ),
        section("Images at random", figures("images", album.random(IMAGES))),
        section("Objects of each class", *_crops_by_class(album, report)),
    ]
    return document(shown(report.name), *parts)


def _size_chart(report: DatasetReport) -> str:
    used = [k for k, overlaps in enumerate(report.overlaps_by_size) if overlaps.objects]
    parts, notes = [], []
    for k in used:
        covered = report.overlaps_by_size[k].covered or 0.0
        parts.append([report.sizes[k] * covered, report.sizes[k] * (1 - covered)])
        notes.append(f"{report.sizes[k]:,}, {percent(covered)} covered")
    legend = [f"with an anchor of IoU {COVERED:g} or more", "without"]
    return bar_chart([f"{size_label(report, k)} px" for k in used], parts, notes, legend)


def _class_chart(report: DatasetReport) -> str:
    classes = sorted(report.classes, key=lambda c: -c.objects)[:MOST_CLASSES]
    return bar_chart(
        [shown(c.name, limit=30) for c in classes],
        [[c.objects] for c in classes],
        [f"{c.objects:,} in {c.images:,} images" for c in classes],
    )


def _crowding_chart(report: DatasetReport) -> str:
    last = max(k for k, images in enumerate(report.crowding) if images)
    ends = [*CROWDING[1:], None]
    labels = [
        str(low) if high == low + 1 else f"{low} to {high - 1}" if high else f"from {low}"
        for low, high in zip(CROWDING, ends, strict=True)
    ]
    counts = report.crowding[: last + 1]
    return bar_chart(
        labels[: last + 1], [[images] for images in counts], [f"{images:,}" for images in counts]
    )


def _legend(source: Source) -> str:
    names = [*source.class_names[:MOST_CLASSES]]
    if (source.records.labels == len(source.class_names)).any():
        names.append("to ignore")
    spans = []
    for label, name in enumerate(names):
        key = f'<i class="key" style="background:{class_css(label)}"></i>'
        spans.append(f"<span>{key}{html.escape(shown(name))}</span> ")
    return f'<p class="legend">{"".join(spans)}</p>'


def _crops_by_class(album: Album, report: DatasetReport) -> Iterable[str]:
    order = sorted(range(len(report.classes)), key=lambda k: -report.classes[k].objects)
    for label in sorted(order[:MOST_CLASSES]):
        crops = album.of_class(label, CROPS)
        if crops:
            name = html.escape(shown(report.classes[label].name))
            yield f"<h3>{name}</h3>{figures('crops', crops)}"
