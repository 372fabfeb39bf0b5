"""SIGTERM, by which clusters announce that they take a machine away."""

from __future__ import annotations

import logging
import signal
from typing import Any

import jax

logger = logging.getLogger(__name__)


class StopSignal:
    """Notes SIGTERM while its context lasts, so that a run can save before it ends.

    Only where the process runs alone: on several hosts JAX's own handler makes all of them stop
    after the same step (`Checkpoints.reached_preemption`), and must not be replaced.

    Attributes:
      requested: whether the signal has come.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous: Any = None

    def __enter__(self) -> StopSignal:
        if jax.process_count() > 1:
            return self
        try:
            self._previous = signal.signal(signal.SIGTERM, self._request)
        except ValueError:  # not in the main thread, as in some notebooks: nothing to catch
            logger.info("not the main thread: SIGTERM will not be caught")
        return self

    def __exit__(self, *_: object) -> None:
        if self._previous is not None:
            signal.signal(signal.SIGTERM, self._previous)

    def _request(self, *_: object) -> None:
        self.requested = True
