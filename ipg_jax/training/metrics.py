"""Metrics of a run: `metrics.jsonl`, TensorBoard events and the progress line."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Mapping

import numpy as np
from etils import epath
from jaxtyping import UInt8
from tensorboardX import SummaryWriter

from ipg_jax.visualize import save_image

logger = logging.getLogger(__name__)


class DivergedError(RuntimeError):
    """A loss or gradient was not finite."""


class MetricWriter:
    """Writes scalars to `metrics.jsonl` and TensorBoard, pictures to `samples/` and TensorBoard."""

    def __init__(self, workdir: epath.PathLike, *, start_step: int = 0, enabled: bool = True):
        """Opens the files of a workdir.

        Args:
          workdir: the run's folder.
          start_step: the step that the run (re)starts from: what an earlier, killed run wrote of
            later steps is removed, since it will be written again.
          enabled: False in every process but one of a multi-host run: writes nothing.

        Raises:
          ImportError: a `gs://` workdir without the extra `gcs`.
        """
        self._enabled = enabled
        if not enabled:
            return
        self._workdir = epath.Path(workdir)
        self._workdir.mkdir(parents=True, exist_ok=True)
        self._path = self._workdir / "metrics.jsonl"
        if self._path.exists():
            self._path.write_text("".join(_lines_until(self._path.read_text(), start_step)))
        self._events = SummaryWriter(str(self._workdir), purge_step=start_step + 1, flush_secs=30)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Writes one line of scalars; values that are not finite become null in the JSON."""
        if not self._enabled:
            return
        finite = {k: v if math.isfinite(v) else None for k, v in values.items()}
        with self._path.open("a") as file:  # on gs:// a file is there once it is closed
            file.write(json.dumps({"step": step} | finite) + "\n")
        for name, value in values.items():
            if math.isfinite(value):
                self._events.add_scalar(name, value, step)

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """Writes one picture, to `samples/<name>_<step>.png` and under `name`."""
        if not self._enabled:
            return
        save_image(self._workdir / "samples" / f"{name}_{step:07d}.png", image)
        self._events.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        """Flushes and closes the events."""
        if self._enabled:
            self._events.close()


def _lines_until(text: str, step: int) -> list[str]:
    """Returns the whole lines of a `metrics.jsonl` whose step is not after `step`."""
    kept = []
    for line in text.splitlines(keepends=True):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # a line cut off when the run was killed
        if record["step"] <= step:
            kept.append(line)
    return kept


class Progress:
    """Speed and remaining time of training, without compilation and evaluations."""

    def __init__(self, start_step: int, num_steps: int, batch_size: int) -> None:
        """Starts at `start_step` of `num_steps` steps of `batch_size` images."""
        self._num_steps = num_steps
        self._batch_size = batch_size
        self._seconds = 0.0
        self._steps = 0
        self._mark: tuple[float, int] | None = None
        self._step = start_step

    def tick(self, step: int) -> None:
        """Tells that `step` is done; the first tick after a start or a pause starts the clock."""
        now = time.perf_counter()
        if self._mark is not None:
            self._seconds += now - self._mark[0]
            self._steps += step - self._mark[1]
        self._mark = (now, step)
        self._step = step

    def pause(self) -> None:
        """Leaves the time until the next tick out of account (evaluation, checkpoint)."""
        self._mark = None

    @property
    def images_per_second(self) -> float:
        """Images per second since the start, over all processes; NaN before the second tick."""
        return self._steps * self._batch_size / self._seconds if self._seconds else math.nan

    @property
    def eta(self) -> str:
        """Time that the remaining steps will take, e.g. `1h02m` or `3m20s`."""
        if not self._steps:
            return "?"
        return duration((self._num_steps - self._step) * self._seconds / self._steps)


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
        "step %d/%d  epoch %.2f  %s  %.3g images/s  ETA %s",
        step,
        num_steps,
        epoch,
        shown,
        progress.images_per_second,
        progress.eta,
    )
