"""Several processes on one machine: who provides what, and what is refused."""

import pathlib
import subprocess
import sys
from collections.abc import Sequence

import pytest
from tiny_run import process_environments

SCRIPT = pathlib.Path(__file__).with_name("spread_batch.py")


def spread(devices: Sequence[int], space: int) -> list[tuple[int, str]]:
    """Runs the script in processes with so many devices each; returns exit codes and outputs."""
    processes = [
        subprocess.Popen(
            [sys.executable, SCRIPT, str(space)],
            cwd=SCRIPT.parents[2],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for environment in process_environments(devices)
    ]
    try:
        outputs = [process.communicate(timeout=300)[0] for process in processes]
    finally:  # or one that hangs would be blamed on a later test
        for process in processes:
            process.kill()
    return [(p.returncode, output) for p, output in zip(processes, outputs, strict=True)]


@pytest.mark.parametrize(
    ("space", "first", "second"),
    [
        (2, [0, 1, 2, 3], [4, 5, 6, 7]),
        # One image over the devices of both: each reads all rows and keeps its part of the height.
        (8, [0, 1, 2, 3, 4, 5, 6, 7], [0, 1, 2, 3, 4, 5, 6, 7]),
    ],
)
def test_processes_provide_what_their_devices_hold(space: int, first: list, second: list):
    for (code, output), rows in zip(spread((4, 4), space), (first, second), strict=True):
        assert code == 0, output
        assert f"rows {rows}, sum of ids 28" in output


def test_processes_with_different_numbers_of_devices_are_refused():
    for code, output in spread((4, 2), 1):
        assert code != 0
        assert "ValueError: process 1 has 2 device(s), the others have 4" in output
