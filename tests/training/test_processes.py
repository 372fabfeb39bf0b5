"""Several processes on one machine: who provides what, and what is refused."""

import pathlib
import re
import socket
import subprocess
import sys
from collections.abc import Sequence

import pytest
from tiny_run import process_environments

from ipg_jax.training.benchmark import Throughput

SCRIPT = pathlib.Path(__file__).with_name("spread_batch.py")


def spread(devices: Sequence[int], space: int) -> list[tuple[int, str]]:
    """Runs the script in processes with so many devices each; returns exit codes and outputs."""
    return run(SCRIPT, devices, str(space))


def run(script: pathlib.Path, devices: Sequence[int], argument: str) -> list[tuple[int, str]]:
    """Runs a script in processes with so many devices each; returns exit codes and outputs."""
    processes = [
        subprocess.Popen(
            [sys.executable, script, argument],
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


def test_processes_know_what_the_others_do(tmp_path):
    """What differs is refused; what is measured is the rate of both."""
    workdir = tmp_path / "run"
    told = []
    for code, output in run(SCRIPT.with_name("compare_runs.py"), (1, 1), str(workdir)):
        assert code == 0, output
        sections = (part.partition("\n") for part in output.split("--- ")[1:])
        told.append({name: text for name, _, text in sections})
    first, second = told
    host = rf"process 1 \({re.escape(socket.gethostname())}\) has"
    for texts in told:  # both know, whichever log is read
        assert "no error" in texts["same"]
        assert re.search(
            rf"{host} config.optimizer.learning_rate=0.2, process 0 has 0.1", texts["rate"]
        )
        assert "no error" in texts["place"]
        assert re.search(
            rf"{host} length=4 in the evaluation data, process 0 has 9", texts["fewer"]
        )
        assert "as image 4 none, and process 0 train scene 4" in texts["fewer"]
        assert re.search(rf"{host} other images .* other boxes .* of train scene 4", texts["box"])
        assert re.search(rf"{host} classes=\['b', 'a'\] in the training data", texts["names"])
        assert "no error" in texts["report"]
        assert re.search(r"process 1 .* data: 1 x image missing .*lost\.jpg", texts["report"])
        assert "by process 0" in texts["told"]
        assert "no such workdir" in texts["error"]
        for field, values in {"num_steps": (6, 5), "batch_size": (16, 8)}.items():
            line = f"{host} config.{field}={values[0]}, process 0 has {values[1]}"
            assert re.search(line, texts["train"])
        # Images that one process alone cannot read stop both after the same step.
        assert "step 4: 16 of the last 32 images" in texts["unreadable"]
        assert "config.data.max_unreadable=0.3" in texts["unreadable"]
    # Processes that ran different numbers of steps would hang.
    rates = [texts["rates"].splitlines()[-2] for texts in told]
    assert rates[0] == rates[1]
    found = Throughput(*map(float, rates[0].split()))
    # Eight images at most each tenth of a second, however fast process 0 reads.
    assert 0 < found.input < 80
    assert 0 < found.together < 80
    assert "bottleneck" in first["rates"]
    assert "bottleneck" not in second["rates"]
    assert "This process had none of them" in first["unreadable"]
    assert re.search(r"train scene \d+: the disk is gone", second["unreadable"])
    assert "process 0 has stopped" in second["error"]
    assert "process 0 has stopped" not in first["error"]
    assert not workdir.exists()
