"""Prediction on image files: annotated pictures, one JSON file, and label files of other tools."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from etils import epath

from ipg_jax import visualize
from ipg_jax.inference.ahead import map_ahead
from ipg_jax.inference.detector import Detector, Seen
from ipg_jax.inference.formats import FORMATS
from ipg_jax.inference.inputs import find_inputs
from ipg_jax.inference.outputs import OutputFolder
from ipg_jax.inference.prediction import Prediction
from ipg_jax.text import shown

logger = logging.getLogger(__name__)

MOST_CAPTIONS = 3000
"""Boxes of a picture beyond which none gets a caption: these would take longer than to detect."""

LEGEND_FROM = 12
"""Boxes of a picture from which on it gets a legend, as some may have no caption."""


def predict(
    detector: Detector,
    images: Sequence[epath.PathLike],
    out: epath.PathLike,
    *,
    threshold: float | Sequence[float] | None = None,
    captions: visualize.Captions = "auto",
    line_width: int | None = None,
    formats: Sequence[str] = (),
) -> list[str]:
    """Detects objects in image files; writes annotated PNGs and one COCO-format JSON.

    No file is replaced but those that an earlier call wrote to `out`, and what is done when an
    exception or a signal ends the process is not lost (`outputs`).

    Args:
      detector: the detector.
      images: files to look at, folders of such files, and patterns (`inputs.find_inputs`).
      out: folder for `<name>_detections.png` and `detections.json`; made if need be.
      threshold: least score of what is drawn and written to label files, or that of each class by
        its label; by default as the detector has it. The JSON has all.
      captions: see `visualize.draw_boxes`, as for the next.
      line_width: the same.
      formats: of the label files that are written for each image, by the names of
        `formats.FORMATS`.

    Returns:
      What could not be read, of the files and of `images`; it is reported and left out.

    Raises:
      ValueError: the threshold is no score, a format is unknown, or another process is writing
        predictions to `out`.
      FileExistsError: `out` holds somebody else's `detections.json`.
      OSError: `out` cannot be made or written to.
    """
    thresholds = detector.thresholds_for(threshold)
    if unknown := [name for name in formats if name not in FORMATS]:
        raise ValueError(
            f"the format {unknown[0]!r} is unknown: label files are {', '.join(FORMATS)}"
        )
    categories = [
        {"id": number, "name": name}
        for number, name in zip(detector.category_ids, detector.class_names, strict=True)
    ]

    def drawn(seen: Seen) -> tuple[Seen, Prediction | None, bytes]:
        """What was seen, that of it which is drawn, and a PNG of the picture with its boxes."""
        if seen.pixels is None or seen.found is None:
            return seen, None, b""
        best = seen.found.select(seen.found.scores >= thresholds[seen.found.labels])
        picture = visualize.draw_boxes(
            seen.pixels,
            best.boxes,
            best.labels,
            best.class_names,
            best.scores,
            captions=captions if len(best) <= MOST_CAPTIONS else "none",
            line_width=line_width,
        )
        if len(best) >= LEGEND_FROM:
            picture = visualize.add_legend(picture, best.labels, best.class_names)
        return seen, best, visualize.encode_png(picture)

    with OutputFolder(out, categories) as folder:
        inputs = find_inputs(images, ours=folder.pictures)
        folder.protect(inputs.files)
        for argument, reason in inputs.refused.items():
            logger.error("%s: left out: %s", shown(argument), reason)
        failed = list(inputs.refused)
        least = "-".join(f"{x:.3g}" for x in sorted({thresholds.min(), thresholds.max()}))
        progress = _Progress(detector, len(inputs.files))
        stream = detector.stream(inputs.files, threshold=0.0)
        results = map_ahead(drawn, stream, 2)
        for path, (seen, best, picture) in zip(inputs.files, results, strict=True):
            if seen.found is None or best is None:
                logger.error("%s: left out: %s", shown(path), seen.error)
                failed.append(path)
                continue
            labels = {
                label_format.suffix: label_format.content(best, folder.path_from(path))
                for label_format in (FORMATS[name] for name in formats)
            }
            name = folder.add(path, seen.found, picture, labels)
            limit = detector.task.max_detections
            logger.info(
                "%s: %d drawn (score >= %s), %d kept%s, %s%s",
                shown(path),
                len(best),
                least,
                len(seen.found),
                " (the limit, config.eval.max_detections)" if len(seen.found) == limit else "",
                shown(name),
                progress.tick(),
            )
    if len(folder):
        logger.info("wrote %d picture(s) and detections.json to %s", len(folder), out)
    return failed


class _Progress:
    """Counts images, and tells the speed of those for which nothing was compiled."""

    def __init__(self, detector: Detector, total: int):
        self._detector = detector
        self._total = total
        self._done = self._timed = 0
        self._seconds = 0.0
        self._last = time.perf_counter()
        self._programs = 0

    def tick(self) -> str:
        """Counts an image; returns how many are done, and how many are done in a second."""
        now, programs = time.perf_counter(), len(self._detector.shapes)
        self._done += 1
        if programs == self._programs:
            self._seconds += now - self._last
            self._timed += 1
        self._last, self._programs = now, programs
        if self._total == 1:
            return ""
        speed = f", {self._timed / self._seconds:.3g} images/s" if self._timed else ""
        return f" [{self._done}/{self._total}{speed}]"
