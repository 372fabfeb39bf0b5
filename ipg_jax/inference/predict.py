"""Prediction on image and video files: with boxes drawn, as JSON, and as files of other tools."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from etils import epath
from jaxtyping import UInt8

from ipg_jax import visualize
from ipg_jax.files import is_remote
from ipg_jax.inference.ahead import map_ahead
from ipg_jax.inference.detector import Detector, Seen, Thresholds
from ipg_jax.inference.formats import FORMATS
from ipg_jax.inference.inputs import find_inputs
from ipg_jax.inference.outputs import OutputFolder, VideoOutput
from ipg_jax.inference.prediction import Prediction
from ipg_jax.inference.videos import Frame, UnreadableVideoError, Video, is_video
from ipg_jax.text import shown
from ipg_jax.training.metrics import duration

logger = logging.getLogger(__name__)

MOST_CAPTIONS = 3000
"""Boxes of a picture beyond which none gets a caption: these would take longer than to detect."""

LEGEND_FROM = 12
"""Boxes of a picture from which on it gets a legend, as some may have no caption."""

REPORT_SECONDS = 10.0
"""How long the log of a video is silent."""


def predict(
    detector: Detector,
    files: Sequence[epath.PathLike],
    out: epath.PathLike,
    *,
    threshold: float | Sequence[float] | None = None,
    captions: visualize.Captions = "auto",
    line_width: int | None = None,
    formats: Sequence[str] = (),
    save_crops: bool = False,
) -> list[str]:
    """Detects objects in image and video files; draws them and writes JSON.

    No file is replaced but those that an earlier call wrote to `out`, and what is done when an
    exception or a signal ends the process is not lost (`outputs`, which says what is written).

    Args:
      detector: the detector.
      files: images and videos to look at, folders of such files, and patterns
        (`inputs.find_inputs`).
      out: folder for what is written; made if need be.
      threshold: least score of what is drawn, cut out and written to label files, or that of each
        class by its label; by default as the detector has it. The JSON has all.
      captions: see `visualize.draw_boxes`, as for the next.
      line_width: the same.
      formats: of the label files that are written for each image, by the names of
        `formats.FORMATS`.
      save_crops: whether what is in the boxes is written, too, as a picture for each.

    Returns:
      What could not be read, of the files and of `files`; it is reported and left out. Of a video,
      the frames before the damage are written.

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
    drawing = _Drawing(thresholds, captions, line_width, save_crops)
    with OutputFolder(out, categories) as folder:
        inputs = find_inputs(files, ours=folder.pictures)
        folder.protect(inputs.files)
        for argument, reason in inputs.refused.items():
            logger.error("%s: left out: %s", shown(argument), reason)
        failed = list(inputs.refused)
        images = [path for path in inputs.files if not is_video(path)]
        if images and "yolo" in formats:  # whose labels are numbers
            folder.add_text("classes", ".txt", "".join(f"{x}\n" for x in detector.class_names))
        failed += _predict_images(detector, images, folder, drawing, formats)
        for path in filter(is_video, inputs.files):
            try:
                if is_remote(out):
                    raise UnreadableVideoError("videos are written to local folders alone")
                _predict_video(detector, path, folder, drawing)
            except UnreadableVideoError as error:
                logger.error("%s: %s", shown(path), error)
                failed.append(path)
    if len(folder):
        logger.info("wrote %d file(s) and detections.json to %s", len(folder), out)
    return failed


class _Drawn(NamedTuple):
    """What is shown of a picture.

    Attributes:
      best: the objects.
      picture: the pixels with their boxes.
      crops: the class of each object and a PNG of the pixels in its box, if these are asked for.
    """

    best: Prediction
    picture: UInt8[np.ndarray, "h w 3"]
    crops: list[tuple[str, bytes]]


@dataclasses.dataclass(frozen=True)
class _Drawing:
    """How pictures are shown; the fields are arguments of `predict`."""

    thresholds: Thresholds
    captions: visualize.Captions
    line_width: int | None
    save_crops: bool

    def __call__(self, seen: Seen) -> _Drawn | None:
        """Returns what is shown of a picture, None if it could not be read."""
        if seen.pixels is None or seen.found is None:
            return None
        best = seen.found.select(seen.found.scores >= self.thresholds[seen.found.labels])
        picture = visualize.draw_boxes(
            seen.pixels,
            best.boxes,
            best.labels,
            best.class_names,
            best.scores,
            captions=self.captions if len(best) <= MOST_CAPTIONS else "none",
            line_width=self.line_width,
        )
        cut = zip(best.names, best.crops(seen.pixels), strict=True) if self.save_crops else ()
        return _Drawn(best, picture, [(name, visualize.encode_png(crop)) for name, crop in cut])

    @property
    def least(self) -> str:
        """The least score, or the lowest and the highest of the classes'."""
        return "-".join(f"{x:.3g}" for x in sorted({self.thresholds.min(), self.thresholds.max()}))


def _predict_images(
    detector: Detector,
    images: Sequence[str],
    folder: OutputFolder,
    drawing: _Drawing,
    formats: Sequence[str],
) -> list[str]:
    """Writes what is in each image; returns those that could not be read."""

    def draw(seen: Seen) -> tuple[Seen, _Drawn | None, bytes]:
        drawn = drawing(seen)
        if drawn is None:
            return seen, None, b""
        picture, best = drawn.picture, drawn.best
        if len(best) >= LEGEND_FROM:
            picture = visualize.add_legend(picture, best.labels, best.class_names)
        return seen, drawn, visualize.encode_png(picture)

    failed = []
    progress = _Progress(detector, len(images), "images")
    results = map_ahead(draw, detector.stream(images, threshold=0.0), 2)
    for path, (seen, drawn, png) in zip(images, results, strict=True):
        if seen.found is None or drawn is None:
            logger.error("left out: %s", seen.error)  # which names the file
            failed.append(path)
            progress.tick()
            continue
        labels = {
            label_format.suffix: label_format.content(drawn.best, folder.path_from(path))
            for label_format in (FORMATS[name] for name in formats)
        }
        name = folder.add(path, seen.found, png, labels)
        folder.add_crops(path, drawn.crops)
        progress.tick()
        limit = detector.task.max_detections
        logger.info(
            "%s: %d drawn (score >= %s), %d kept%s, %s%s",
            shown(path),
            len(drawn.best),
            drawing.least,
            len(seen.found),
            " (the limit, config.eval.max_detections)" if len(seen.found) == limit else "",
            shown(name),
            progress,
        )
    return failed


def _predict_video(detector: Detector, path: str, folder: OutputFolder, drawing: _Drawing) -> None:
    """Writes what is in the frames of a video, as they come.

    Raises:
      UnreadableVideoError: the video is damaged; what is before the damage was written.
    """
    times: collections.deque[int] = collections.deque()  # of frames that are being looked at

    def pixels() -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for frame in video.frames():
            times.append(frame.time)
            yield frame.pixels

    with Video(path) as video, contextlib.ExitStack() as stack:
        progress = _Progress(detector, video.length, "frames")
        stream = detector.stream(pixels(), threshold=0.0)
        results = map_ahead(lambda seen: (seen.result(), drawing(seen)), stream, 2)
        stack.enter_context(contextlib.closing(results))
        output: VideoOutput | None = None
        boxes, reported = 0, time.perf_counter()
        for found, drawn in results:
            assert drawn is not None  # as `result` raised nothing
            if output is None:  # the first frame tells the size
                output = stack.enter_context(VideoOutput(folder, path, video, found.size))
            output.add(found, Frame(drawn.picture, times.popleft()))
            folder.add_crops(path, drawn.crops, f"_{output.frames:06d}")
            boxes += len(drawn.best)
            progress.tick()
            if time.perf_counter() - reported > REPORT_SECONDS:
                reported = time.perf_counter()
                logger.info("%s%s", shown(path), progress)
        assert output is not None  # a video without a frame is unreadable
        logger.info(
            "%s: %d drawn (score >= %s) in %d frames, %s%s",
            *(shown(path), boxes, drawing.least, output.frames, shown(output.name), progress),
        )


class _Progress:
    """Counts images or frames, and tells the speed of those for which nothing was compiled."""

    def __init__(self, detector: Detector, total: int | None, unit: str):
        self._detector = detector
        self._total = total
        self._unit = unit
        self._done = self._timed = 0
        self._seconds = 0.0
        self._last = time.perf_counter()
        self._programs = 0

    def tick(self) -> None:
        """Counts one."""
        now, programs = time.perf_counter(), len(self._detector.shapes)
        self._done += 1
        if programs == self._programs:
            self._seconds += now - self._last
            self._timed += 1
        self._last, self._programs = now, programs

    def __str__(self) -> str:
        """How many are done, how many are done in a second, and the time that the rest takes."""
        if self._total == 1:
            return ""
        done = f"{self._done}/{self._total}" if self._total else f"{self._done} {self._unit}"
        if not self._timed or not self._seconds:
            return f" [{done}]"
        speed = self._timed / self._seconds
        left = max((self._total or 0) - self._done, 0) / speed
        left_text = f", {duration(left)} left" if left else ""
        return f" [{done}, {speed:.3g} {self._unit}/s{left_text}]"
