"""A page of a data set: numbers, charts and pictures in one HTML file that needs no network."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Sequence

from etils import epath
from PIL import Image

from ipg_jax import visualize
from ipg_jax.analysis.charts import bar_chart
from ipg_jax.analysis.pictures import Album, Picture
from ipg_jax.analysis.proposal import COVERED
from ipg_jax.analysis.report import CROWDING, DatasetReport
from ipg_jax.analysis.tables import (
    Table,
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

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 1280px;
  margin: 2em auto; padding: 0 1.5em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.25em; margin: 2em 0 .5em;
  border-bottom: 1px solid #d1d5db; } h3 { font-size: 1em; margin: 1.2em 0 .4em; }
table { border-collapse: collapse; font-size: 14px; margin: .8em 0; }
td, th { padding: 2px 12px; text-align: right; border-bottom: 1px solid #e5e7eb; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
svg text { font: 13px system-ui, sans-serif; fill: #1f2937; }
.warning { background: #fef3c7; border-left: 4px solid #f59e0b; padding: .4em 1em; }
.crops { display: flex; flex-wrap: wrap; gap: 10px; }
figure { margin: 0; } figcaption { font-size: 13px; color: #4b5563; text-align: center; }
.images { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
.images img { width: 100%; } .images figcaption { text-align: left; }
.images.single { grid-template-columns: 1fr; }
.row { display: flex; flex-wrap: wrap; gap: 0 48px; align-items: center; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .35em; }
.legend span { margin-right: 1.2em; white-space: nowrap; }
.note { color: #4b5563; }
"""


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
        _section(
            "Sizes after the resize",
            _row(_table(size_table(report)), _size_chart(report)),
            _note(
                "A size is the square root of a box's area, in pixels. Forced are objects that no "
                "anchor overlaps enough to be positive: the matcher takes their best, whatever the "
                "IoU."
            ),
        ),
        _section(
            "Anchors",
            _row(_table(level_table(report)), _table(settings_table(report))),
            f"<p>{html.escape(verdict(report))}</p>",
        ),
        _section(
            "Matches",
            _table(match_table(report)),
            _note(
                f"Anchors that the matcher makes positive, on {report.matched_images} images: "
                "where objects crowd, an anchor goes to one of them."
            ),
        ),
        _section(
            "Classes",
            _row(_table(class_table(report)), _class_chart(report)),
            _note("Sizes in pixels of the original images, then of the resized ones."),
        ),
        _section("Objects an image", _crowding_chart(report)),
        _section("The smallest objects", _figures("crops", album.smallest(SMALLEST))),
        _section(
            "The most crowded image", _legend(source), _figures("images single", album.densest())
        ),
        _section("Images at random", _figures("images", album.random(IMAGES))),
        _section("Objects of each class", *_crops_by_class(album, report)),
    ]
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        f"<title>{name}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _section(title: str, *parts: str) -> str:
    return f"<h2>{html.escape(title)}</h2>{''.join(parts)}"


def _row(*parts: str) -> str:
    return f'<div class="row">{"".join(parts)}</div>'


def _note(text: str) -> str:
    return f'<p class="note">{html.escape(text)}</p>'


def _table(table: Table) -> str:
    header = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    return f"<table><tr>{header}</tr>{rows}</table>"


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
        color = "#{:02x}{:02x}{:02x}".format(*visualize.class_color(label))
        key = f'<i class="key" style="background:{color}"></i>'
        spans.append(f"<span>{key}{html.escape(shown(name))}</span> ")
    return f'<p class="legend">{"".join(spans)}</p>'


def _crops_by_class(album: Album, report: DatasetReport) -> Iterable[str]:
    order = sorted(range(len(report.classes)), key=lambda k: -report.classes[k].objects)
    for label in sorted(order[:MOST_CLASSES]):
        crops = album.of_class(label, CROPS)
        if crops:
            name = html.escape(shown(report.classes[label].name))
            yield f"<h3>{name}</h3>{_figures('crops', crops)}"


def _figures(kind: str, pictures: Sequence[Picture]) -> str:
    if not pictures:
        return _note("There is no such image, or it cannot be read.")
    figures = "".join(
        f'<figure><img src="{_data_uri(p)}" alt="{html.escape(p.title)}" '
        f'title="{html.escape(p.title)}"><figcaption>{html.escape(p.caption)}</figcaption></figure>'
        for p in pictures
    )
    return f'<div class="{kind}">{figures}</div>'


def _data_uri(picture: Picture) -> str:
    encoded = io.BytesIO()
    Image.fromarray(picture.pixels).save(encoded, format="JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
