"""What the pages of the analysis are made of: one HTML file each, which needs no other."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence

from PIL import Image

from ipg_jax import visualize
from ipg_jax.analysis.pictures import Picture
from ipg_jax.analysis.tables import Table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2937; max-width: 1280px;
  margin: 2em auto; padding: 0 1.5em; box-sizing: border-box; }
h1 { font-size: 1.6em; } h2 { font-size: 1.25em; margin: 2em 0 .5em;
  border-bottom: 1px solid #d1d5db; } h3 { font-size: 1em; margin: 1.2em 0 .4em; }
table { border-collapse: collapse; font-size: 14px; margin: .8em 0; }
td, th { white-space: nowrap; padding: 2px 12px; text-align: right;
  border-bottom: 1px solid #e5e7eb; }
td:first-child, th:first-child { text-align: left; padding-left: 0; }
.scroll { overflow-x: auto; max-width: 100%; }
svg { display: block; }
svg text { font: 13px system-ui, sans-serif; fill: #1f2937; }
.warning { background: #fef3c7; border-left: 4px solid #f59e0b; padding: .4em 1em; }
.crops { display: flex; flex-wrap: wrap; gap: 10px; }
figure { margin: 0; }
figcaption { font-size: 13px; color: #4b5563; text-align: center; overflow-wrap: anywhere; }
.crops figcaption { width: 144px; }
.images { display: grid; grid-template-columns: 1fr 1fr; gap: 16px; }
.images img { width: 100%; } .images figcaption { text-align: left; }
.images.single { grid-template-columns: 1fr; }
.samples { display: flex; flex-wrap: wrap; gap: 10px; align-items: flex-start; }
.samples img { display: block; cursor: zoom-in; }
.samples img.large { width: auto; cursor: zoom-out; }
.samples figcaption { max-width: 24rem; text-align: left; }
code { background: #e5e7eb; padding: 0 .3em; border-radius: 3px; }
.row { display: flex; flex-wrap: wrap; gap: 0 48px; align-items: center; }
.key { display: inline-block; width: .8em; height: .8em; margin-right: .35em; }
.legend span { margin-right: 1.2em; white-space: nowrap; }
.charts { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(390px, 100%), 1fr));
  gap: 20px; } .charts svg { width: 100%; height: auto; max-width: 520px; }
.charts h3 { margin: 0 0 .2em; }
.tiles { display: flex; flex-wrap: wrap; gap: 12px; }
.tiles div { border: 1px solid #e5e7eb; border-radius: 6px; padding: .5em 1em; }
.tiles b { display: block; font-size: 1.4em; }
.matrix td { text-align: center; border: 1px solid #fff; padding: 4px 10px; }
.matrix td:first-child { text-align: right; }
@media (max-width: 600px) { body { padding: 0 16px; margin-top: 1em; }
  td, th { padding: 2px 7px; }
  .tiles { display: grid; grid-template-columns: repeat(3, 1fr); gap: 8px; }
  .tiles div { padding: .4em .6em; font-size: 13px; } .tiles b { font-size: 1.3em; }
  .images { grid-template-columns: 1fr; } .crops img { width: 108px; height: 108px; }
  .crops figcaption { width: 108px; } }
.note { color: #4b5563; }
"""


def document(title: str, *parts: str) -> str:
    """Returns the page: a title as text, and its body as HTML. Fits screens and phones."""
    return (
        '<!DOCTYPE html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def section(title: str, *parts: str) -> str:
    """A heading, as text, and what stands below it, as HTML."""
    return f"<h2>{html.escape(title)}</h2>{''.join(parts)}"


def row(*parts: str) -> str:
    """HTML side by side where there is room."""
    return f'<div class="row">{"".join(parts)}</div>'


def note(text: str) -> str:
    """A remark, as text."""
    return f'<p class="note">{html.escape(text)}</p>'


def table(table: Table) -> str:
    """A table, which scrolls by itself where it is too wide."""
    header = "".join(f"<th>{html.escape(cell)}</th>" for cell in table.header)
    rows = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in table.rows
    )
    return f'<div class="scroll"><table><tr>{header}</tr>{rows}</table></div>'


def class_css(label: int) -> str:
    """The colour of a class as CSS has it."""
    return "#{:02x}{:02x}{:02x}".format(*visualize.class_color(label))


def figures(kind: str, pictures: Sequence[Picture]) -> str:
    """Pictures with their captions: `crops`, `images`, `images single` or `samples`."""
    if not pictures:
        return note("There is no such image, or it cannot be read.")
    return f'<div class="{kind}">{"".join(map(_figure, pictures))}</div>'


def _figure(picture: Picture) -> str:
    title = html.escape(picture.title)
    width = "" if picture.width is None else f' width="{picture.width}"'
    return (
        f'<figure><img src="{_data_uri(picture)}" alt="{title}" title="{title}"{width}>'
        f"<figcaption>{html.escape(picture.caption)}</figcaption></figure>"
    )


def _data_uri(picture: Picture) -> str:
    encoded = io.BytesIO()
    Image.fromarray(picture.pixels).save(encoded, format="JPEG", quality=88, subsampling=0)
    return f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
