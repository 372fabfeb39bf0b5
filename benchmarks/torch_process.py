"""What the comparisons with torch share: its side's own process, and the clock.

Torch runs in a process of its own, in an environment that may lack JAX.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

Timings = dict[str, list[float]]


def time_calls(calls: dict[str, Callable[[], Any]], repeats: int) -> Timings:
    """Returns the seconds of `repeats` runs of each call, after one to warm up."""
    timings: Timings = {}
    for name, call in calls.items():
        call()
        timings[name] = []
        for _ in range(repeats):
            begin = time.perf_counter()
            call()
            timings[name].append(time.perf_counter() - begin)
    return timings


CHAINED = 3
"""Calls of `in_turns` between two looks at the clock; each goes on while the next is dispatched."""


def in_turns(
    calls: Mapping[str, Callable[[], Any]],
    wait: Callable[[Any], Any],
    *,
    seconds: float = 3.0,
    least: int = 2,
    most: int = 30,
) -> Timings:
    """Returns the seconds of one call, several times for each, on a device that computes ahead.

    The calls take turns, so that a clock that moves moves all alike. Two calls of each warm up.

    Args:
      calls: by name.
      wait: waits for a list of results of calls.
      seconds: how long to go on, for each call.
      least: samples of each, however long it takes.
      most: samples of each.
    """
    timings: Timings = {name: [] for name in calls}
    for call in calls.values():
        wait([call(), call()])
    end = time.perf_counter() + seconds * len(calls)
    for turn in range(most):
        if turn >= least and time.perf_counter() > end:
            break
        for name, call in calls.items():
            begin = time.perf_counter()
            wait([call() for _ in range(CHAINED)])
            timings[name].append((time.perf_counter() - begin) / CHAINED)
    return timings


def torch_interpreter(torch_python: str) -> str:
    """Returns this interpreter if it has torch, else the given one, which may be empty."""
    return sys.executable if importlib.util.find_spec("torch") else torch_python


def run_only_torch(script: str, torch_python: str) -> Any:
    """Returns the JSON that `script --only-torch`, with this command's flags, prints.

    Args:
      script: path of the benchmark.
      torch_python: interpreter to use if this one has no torch.
    """
    python = torch_interpreter(torch_python)
    if not python:
        raise SystemExit("torch is not installed here: name an interpreter with --torch-python")
    command = [python, script, *sys.argv[1:], "--only-torch"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout)
