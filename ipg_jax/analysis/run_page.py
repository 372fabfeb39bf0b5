"""A page of a trained run: curves, figures, errors and pictures of them, in one HTML file."""

from __future__ import annotations

import html
from collections.abc import Sequence

from ipg_jax.analysis.curves import Curve, thresholds
from ipg_jax.analysis.elements import document, note, section
from ipg_jax.analysis.error_sections import (
    confusion_section,
    curve_section,
    error_section,
    size_section,
)
from ipg_jax.analysis.errors import Judged
from ipg_jax.analysis.gallery import Gallery
from ipg_jax.analysis.run_figures import RunFigures
from ipg_jax.analysis.run_sections import (
    headline,
    model_section,
    precision_section,
    training_section,
)
from ipg_jax.data import Source
from ipg_jax.evaluation import nothing_found
from ipg_jax.text import shown


def run_page(
    source: Source,
    run: RunFigures,
    judged: Judged,
    of_classes: Sequence[Curve],
    comparison: str = "",
) -> str:
    """Returns the page as HTML.

    Args:
      source: the data that the run was evaluated on.
      run: the run.
      judged: its detections (`errors.judge`).
      of_classes: their curves (`curves.curves`).
      comparison: a section about other runs, as HTML.
    """
    best = thresholds(of_classes)
    gallery = Gallery(source, judged, best)
    if run.results:
        sections = [
            error_section(judged),
            curve_section(of_classes),
            size_section(judged, best),
            confusion_section(judged, best),
            gallery.missed(),
            gallery.false_positives(),
        ]
    else:  # every object is missed, and of nothing there are no curves and no errors
        sections = [section("Errors", note(nothing_found(run.score_threshold))), gallery.missed()]
    return document(
        f"Report of {shown(run.name)}",
        f"<h1>{html.escape(shown(run.name))}</h1>",
        f"<p>Checkpoint of step {run.step:,} on {html.escape(shown(source.name))}: "
        f"{len(source):,} images, {len(judged.objects.label):,} objects, "
        f"{len(judged.found.score):,} detections.</p>",
        headline(run),
        comparison,
        training_section(run),
        precision_section(run),
        *sections,
        model_section(run),
    )
