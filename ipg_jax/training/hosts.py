"""Text that the processes of a run exchange; with one process alone, nothing is sent."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

PATIENCE = 3600
"""Seconds that a process waits for one that reads a large data set or checkpoint."""

_count = itertools.count()


def gather(text: str) -> list[str]:
    """Returns the texts of all processes by their index; every process has to call it."""
    if jax.process_count() == 1:
        return [text]
    # The barrier may wait for long; a collective may not, on some platforms.
    ocp.multihost.sync_global_processes(f"ipg_jax_gather_{next(_count)}", timeout=PATIENCE)
    own = np.frombuffer(text.encode(), np.uint8)
    index_and_size = np.array([jax.process_index(), own.size], np.int32)
    rows = multihost_utils.process_allgather(index_and_size)
    padded = np.zeros(max(1, rows[:, 1].max()), np.uint8)
    padded[: own.size] = own
    texts = multihost_utils.process_allgather(padded)
    by_process = {
        int(process): texts[row, :size].tobytes().decode()
        for row, (process, size) in enumerate(rows)
    }
    return [by_process[process] for process in range(jax.process_count())]


def from_primary(action: Callable[[], str]) -> str:
    """Returns in every process what `action` returned in the primary one, where alone it runs.

    Raises:
      OSError: the action raised it; in the other processes too.
      ValueError: the same.
    """
    if jax.process_count() == 1:
        return action()
    outcome: dict[str, str] = {}
    error: OSError | ValueError | None = None
    if jax.process_index() == 0:
        try:
            outcome["result"] = action()
        except (OSError, ValueError) as raised:
            error, outcome["error"] = raised, str(raised)
    told = json.loads(gather(json.dumps(outcome))[0])
    if error is not None:
        raise error
    if "error" in told:
        raise ValueError(f"process 0 has stopped: {told['error']}")
    return told["result"]
