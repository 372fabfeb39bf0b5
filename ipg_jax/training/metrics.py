"""Metrics of a run: `metrics.jsonl`, what trackers show, and the progress line."""

from __future__ import annotations

import collections
import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from etils import epath
from jaxtyping import UInt8

from ipg_jax.errors import RunStoppedError
from ipg_jax.files import make_folder, read_regular, write_whole
from ipg_jax.text import shown
from ipg_jax.training.trackers import Tracker, open_trackers
from ipg_jax.visualize import save_image

logger = logging.getLogger(__name__)


class DivergedError(RunStoppedError):
    """A loss or gradient was not finite."""


class MetricWriter:
    """Writes scalars to `metrics.jsonl`, pictures to `samples/`, and both to trackers.

    A tracker that fails in the middle of a run is left out of the rest of it, with a warning: the
    files have everything, and the next start asks it again.
    """

    def __init__(
        self,
        workdir: epath.PathLike,
        *,
        start_step: int = 0,
        evaluated: bool = True,
        enabled: bool = True,
        trackers: Sequence[str] = ("tensorboard",),
        config: Mapping[str, Any] | None = None,
    ):
        """Opens the files of a workdir and the trackers.

        Args:
          workdir: the run's folder.
          start_step: the step that the run (re)starts from: what an earlier, killed run wrote of
            later steps is removed, since it will be written again. Of a run that starts from
            scratch, the lines of an earlier one are moved to the end of `metrics.old.jsonl`.
          evaluated: whether the evaluation of that step is complete, if there was one; else its
            figures are removed too.
          enabled: False in every process but one of a multi-host run: writes nothing.
          trackers: names of `TRACKERS`.
          config: the run's, as plain JSON values, for trackers to show.

        Raises:
          OSError: the files cannot be read or written; the message names the file.
          ValueError: a tracker does not start.
        """
        self._enabled = enabled
        if not enabled:
            return
        self._workdir = epath.Path(workdir)
        make_folder(self._workdir)
        self._path = self._workdir / "metrics.jsonl"
        if self._path.exists():
            self._rewind(start_step, evaluated)
        self._trackers = open_trackers(trackers, self._workdir, config or {}, start_step=start_step)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line of scalars; values that are not finite become null in the JSON."""
        if not self._enabled:
            return
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        try:
            with self._path.open("a") as file:  # on gs:// a file is there once it is closed
                file.write(json.dumps({"step": step} | finite) + "\n")
        except OSError as error:
            raise OSError(f"cannot write {self._path}: {error.strerror or error}") from error
        known = {name: value for name, value in values.items() if math.isfinite(value)}
        self._track(lambda tracker: tracker.scalars(step, known))

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes one picture, to `samples/<name>_<step>.png` and to trackers under `name`."""
        if not self._enabled:
            return
        save_image(self._workdir / "samples" / f"{name}_{step:07d}.png", image)
        self._track(lambda tracker: tracker.image(step, name, image))

    def close(self, *, failed: bool = False) -> None:
        """Lets the trackers send what is left, and tells them whether an error ended the run."""
        if self._enabled:
            self._track(lambda tracker: tracker.close(failed=failed))

    def __enter__(self) -> MetricWriter:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self.close(failed=kind is not None)

    def _track(self, tell: Callable[[Tracker], None]) -> None:
        """Tells every tracker something; one that fails is told nothing more."""
        for name, tracker in list(self._trackers.items()):
            try:
                tell(tracker)
            except Exception as error:  # a service that is away, in whatever way it says so
                del self._trackers[name]
                logger.warning(
                    "%s failed and shows no more of this run, which metrics.jsonl and samples/ "
                    "have: %s",
                    name,
                    shown(error, limit=500),
                )

    def _rewind(self, step: int, evaluated: bool) -> None:
        """Removes the lines after `step`; keeps, counts and reports those that are damaged."""
        written = read_regular(self._path)
        if step == 0 and written:
            place = self._path.with_name("metrics.old.jsonl")
            older = read_regular(place) if place.exists() else b""
            write_whole(place, older + written)
            write_whole(self._path, b"")
            logger.warning("the run starts from scratch; its earlier metrics are now in %s", place)
            return
        *lines, rest = written.split(b"\n")
        if _is_kept(rest, step, evaluated) is not None:  # else it was cut off by the end of a run
            lines.append(rest)
        kept = [_is_kept(line, step, evaluated) for line in lines]
        damaged = [number for number, keep in enumerate(kept, start=1) if keep is None]
        if damaged:
            logger.warning(
                "%s: %d damaged line(s) left as they are, the first is line %d",
                self._path,
                len(damaged),
                damaged[0],
            )
        text = b"".join(
            line + b"\n" for line, keep in zip(lines, kept, strict=True) if keep is not False
        )
        if text != written:
            write_whole(self._path, text)


def read_scalars(workdir: epath.PathLike) -> dict[str, tuple[list[int], list[float]]]:
    """Returns the steps and values of each scalar in a run's `metrics.jsonl`, by its name.

    Values that were not finite are NaN; lines that are damaged are left out.

    Args:
      workdir: folder of the run; without metrics there are no scalars.
    """
    path = epath.Path(workdir) / "metrics.jsonl"
    scalars: dict[str, tuple[list[int], list[float]]] = {}
    for line in read_regular(path).splitlines() if path.exists() else ():
        record = _record(line)
        if record is None:
            continue
        step = record.pop("step")
        for name, value in record.items():
            if value is None or type(value) in (int, float):
                steps, values = scalars.setdefault(name, ([], []))
                steps.append(step)
                values.append(math.nan if value is None else float(value))
    return scalars


def _record(line: bytes) -> dict[str, Any] | None:
    """Returns what a line of `metrics.jsonl` holds; None if it is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):  # also of bytes that are no UTF-8
        return None
    if not isinstance(record, dict) or type(record.get("step")) is not int:
        return None
    return record


def _is_kept(line: bytes, step: int, evaluated: bool) -> bool | None:
    """Returns whether a line of `metrics.jsonl` is of the time until `step`; None if damaged."""
    record = _record(line)
    if record is None:
        return None
    if record["step"] == step and not evaluated:
        return not any(name.startswith("eval/") for name in record)
    return record["step"] <= step


class Progress:
    """Speed and remaining time by the last steps, without compilation and evaluations."""

    def __init__(
        self, start_step: int, num_steps: int, batch_size: int, *, window: int = 100
    ) -> None:
        """Starts at `start_step`.

        Args:
          start_step: how many steps are done.
          num_steps: how many there are in all.
          batch_size: images of a step, of all processes.
          window: by how many of the last ticks the speed is measured.
        """
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._last: collections.deque[tuple[float, int]] = collections.deque(maxlen=window)
        self._mark: tuple[float, int] | None = None
        self._step = start_step

    def tick(self, step: int) -> None:
        """Tells that `step` is done; the first tick after a start or a pause starts the clock."""
        now = time.perf_counter()
        if self._mark is not None:
            self._last.append((now - self._mark[0], step - self._mark[1]))
        self._mark = (now, step)
        self._step = step

    def pause(self) -> None:
        """Leaves the time until the next tick out of account (evaluation, checkpoint)."""
        self._mark = None

    @property
    def images_per_second(self) -> float:
        """Images per second, over all processes; NaN before the second tick."""
        seconds, steps = map(sum, zip(*self._last, strict=True)) if self._last else (0.0, 0)
        return steps * self._batch_size / seconds if seconds else math.nan

    def __str__(self) -> str:
        """Speed and the time that the remaining steps will take; empty as long as it is unknown."""
        speed = self.images_per_second
        if math.isnan(speed):
            return ""
        rest = (self._num_steps - self._step) * self._batch_size / speed
        return f"{speed:.3g} images/s  {duration(rest)} left"


def duration(seconds: float) -> str:
    """Returns a time in seconds as `2d03h`, `1h02m`, `3m20s` or `12s`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    days, h = divmod(hours, 24)
    if days:
        return f"{days}d{h:02d}h"
    if hours:
        return f"{h}h{m:02d}m"
    return f"{m}m{s:02d}s" if minutes else f"{s}s"


def log_progress(
    step: int, num_steps: int, epoch: float, values: Mapping[str, float], progress: Progress
) -> None:
    """Logs one line with the losses, the learning rate, images/s and the remaining time."""
    shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items())
    logger.info(
        "step %d/%d  epoch %.2f  %s  %s",
        step,
        num_steps,
        epoch,
        shown,
        progress,
    )
