"""What the comparisons with torch share: its side's own process, and the clock.

Torch runs in a process of its own, in an environment that may lack JAX.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
from collections.abc import Callable
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


def run_only_torch(script: str, torch_python: str) -> Any:
    """Returns the JSON that `script --only-torch`, with this command's flags, prints.

    Args:
      script: path of the benchmark.
      torch_python: interpreter to use if this one has no torch.
    """
    python = sys.executable if importlib.util.find_spec("torch") else torch_python
    if not python:
        raise SystemExit("torch is not installed here: name an interpreter with --torch-python")
    command = [python, script, *sys.argv[1:], "--only-torch"]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout)
