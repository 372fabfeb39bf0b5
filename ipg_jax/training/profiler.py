"""A trace of some steps of a run, for TensorBoard's and Perfetto's profile viewers."""

from __future__ import annotations

import logging
import os

import jax
from etils import epath

logger = logging.getLogger(__name__)


class StepProfiler:
    """Traces the steps `first` to `last`, both included, or those of them that the run still does.

    Its context ends a trace that is still being written.
    """

    def __init__(self, folder: epath.PathLike, steps: tuple[int, int] | None):
        """Does nothing yet.

        Args:
          folder: for the trace.
          steps: first and last step, counted from 1; None traces nothing.

        Raises:
          ValueError: the first is below 1 or above the last.
        """
        if steps is not None and not 1 <= steps[0] <= steps[1]:
            raise ValueError(
                f"--profile={steps[0]}:{steps[1]} is not first:last, steps counted from 1"
            )
        self._folder = os.fspath(folder)
        self._steps = steps
        self._running = False

    def __enter__(self) -> StepProfiler:
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """Begins the trace if `step` is the first of it that is done."""
        if self._steps and self._steps[0] <= step <= self._steps[1] and not self._running:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def due(self, step: int) -> bool:
        """Whether the trace ends with `step`, which then is to be waited for before `after`."""
        return self._running and self._steps is not None and step == self._steps[1]

    def after(self, step: int) -> None:
        """Ends the trace if `step` is its last."""
        if self.due(step):
            self._stop()

    def _stop(self) -> None:
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            logger.info("wrote a trace to %s", self._folder)
