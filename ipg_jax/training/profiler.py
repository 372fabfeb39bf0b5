"""A trace of some steps of a run, for TensorBoard's and Perfetto's profile viewers."""

from __future__ import annotations

import logging
import os

import jax
from etils import epath

logger = logging.getLogger(__name__)


class StepProfiler:
    """Traces the steps `first` to `last`, both included, or those of them that the run still does.

    The trace is written to a folder of its own, `steps_<first>_<last>`: JAX names a trace by the
    second in which it was taken, and a second one of that second would replace the first.
    """

    def __init__(
        self, folder: epath.PathLike, steps: tuple[int, int] | None, *, start: int, end: int
    ):
        """Does nothing yet, but warns if there will be no trace.

        Args:
          folder: for the traces of a run.
          steps: first and last step, counted from 1; None traces nothing.
          start: the step that the run was resumed at, 0 for its beginning.
          end: the last step of the run.

        Raises:
          ValueError: the first is below 1 or above the last.
        """
        self._running = False
        self._steps: tuple[int, int] | None = None
        if steps is None:
            return
        first, last = steps
        if not 1 <= first <= last:
            raise ValueError(f"--profile={first}:{last} is not first:last, steps counted from 1")
        if first > end or last <= start:
            logger.warning(
                "--profile=%d:%d: no trace, the run does the steps %d to %d",
                *(first, last, start + 1, end),
            )
            return
        self._steps = max(first, start + 1), min(last, end)
        self._folder = os.fspath(epath.Path(folder) / "steps_{}_{}".format(*self._steps))

    def before(self, step: int) -> None:
        """Begins the trace if `step` is its first."""
        if self._steps is not None and step == self._steps[0]:
            jax.profiler.start_trace(self._folder)
            self._running = True

    def due(self, step: int) -> bool:
        """Whether the trace ends with `step`, which then is to be waited for before `stop`."""
        return self._running and self._steps is not None and step == self._steps[1]

    def stop(self) -> None:
        """Ends the trace if one is being written."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
            logger.info("wrote a trace to %s", self._folder)
