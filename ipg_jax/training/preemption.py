"""SIGTERM, by which clusters announce that they take a machine away, and Ctrl-C."""

from __future__ import annotations

import logging
import os
import signal
from typing import Any

import jax

logger = logging.getLogger(__name__)


class StopSignal:
    """Notes SIGTERM and Ctrl-C while its context lasts, so that a run can save before it ends.

    A second Ctrl-C raises KeyboardInterrupt at once. On several hosts SIGTERM is left to JAX's own
    handler, which makes all of them stop after the same step (`Checkpoints.reached_preemption`);
    Ctrl-C is passed on to it.

    Attributes:
      requested: whether one of them has come.
    """

    def __init__(self) -> None:
        self.requested = False
        self._interrupted = False
        self._previous: dict[signal.Signals, Any] = {}

    def __enter__(self) -> StopSignal:
        handlers: dict[signal.Signals, Any] = {}
        if jax.process_count() == 1:
            handlers[signal.SIGTERM] = self._terminate
        # Shells start what runs in the background with Ctrl-C ignored, and so it stays.
        if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
            handlers[signal.SIGINT] = self._interrupt
        try:
            for number, handler in handlers.items():
                self._previous[number] = signal.signal(number, handler)
        except ValueError:  # not in the main thread, as in some notebooks: nothing to catch
            logger.info("not the main thread: SIGTERM and Ctrl-C will not be caught")
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous.items():
            if handler is not None:  # one that was not set from Python cannot be put back
                signal.signal(number, handler)

    def _terminate(self, *_: object) -> None:
        self.requested = True

    def _interrupt(self, *_: object) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        logger.warning(
            "Ctrl-C: the run stops after this step and saves; once more stops it at once"
        )
        if jax.process_count() == 1:
            self.requested = True
        else:
            os.kill(os.getpid(), signal.SIGTERM)
