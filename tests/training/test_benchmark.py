import dataclasses
import json
import os
import pathlib
import re
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_run import as_flags, make_tiny_config, process_environments

from ipg_jax.training.benchmark import Throughput, measure
from ipg_jax.training.build_runs import build_train_run
from ipg_jax.types import Batch

ROOT = pathlib.Path(__file__).parents[2]


def blank_batch(height, width):
    return Batch(
        pyramid=(np.zeros((8, height, width, 3), np.uint8),),
        boxes=np.zeros((8, 1, 4), np.float32),
        labels=np.zeros((8, 1), np.int32),
        valid=np.zeros((8, 1), bool),
        ignore=np.zeros((8, 1), bool),
        image_size=np.ones((8, 2), np.int32),
        scale=np.ones((8, 2), np.float32),
        image_id=np.zeros(8, np.int32),
        weight=np.ones(8, np.float32),
    )


def test_rates_leave_compilation_out(tiny_config, monkeypatch):
    """By a clock that stands still, but for 0.1 s a batch, 0.05 s a step, 60 s a program."""
    now = [0.0]
    read = []

    def batches(start_step):
        for number in range(10**6):
            now[0] += 0.1
            read.append(number)
            # One batch is portrait, while both are measured together.
            yield blank_batch(12, 8) if number == 250 else blank_batch(8, 12)

    def train_step(state, batch, key):
        now[0] += 0.05
        shape = batch.pyramid[0].shape
        if shape not in programs:
            now[0] += 60
            programs.append(shape)
            compiled_after.append(len(read))
        return state, {"loss": jnp.zeros(())}

    programs, compiled_after = [], []
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    run = dataclasses.replace(
        build_train_run(tiny_config, evaluate=False),
        batches=batches,
        init_state=lambda key: jnp.zeros(()),
        template=jax.eval_shape(jnp.zeros, ()),
        train_step=train_step,
    )
    found = measure(run, seconds=10.0)
    # Eight images in 0.1 s, 0.05 s, and 0.15 s.
    np.testing.assert_allclose(found, (80, 160, 8 / 0.15), rtol=1e-4)
    assert found.bottleneck == "input"
    assert compiled_after[1] == 252


@pytest.mark.parametrize(
    ("input_rate", "step_rate", "bottleneck", "words"),
    [
        (50.0, 200.0, "input", r"step alone is 4\.00 x as fast.*has 8; .*about 32 would do"),
        (300.0, 100.0, "step", r"input pipeline alone is 3\.00 x as fast.*devices"),
        (100.0, 109.0, "neither", r"1\.09 x as fast"),
        (109.0, 100.0, "neither", r"1\.09 x as fast"),
    ],
)
def test_the_report_names_the_bottleneck(input_rate, step_rate, bottleneck, words):
    found = Throughput(input_rate, step_rate, together=min(input_rate, step_rate))
    assert found.bottleneck == bottleneck
    *table, text = found.report(cpus=8).split("\n", 4)
    assert [float(line.split()[-1]) for line in table[1:]] == list(found)
    text = text.replace("\n", " ")
    assert re.search(words, text)
    assert "compete" not in text


def test_the_report_says_when_the_two_compete():
    assert "they compete" in Throughput(300.0, 100.0, 85.0).report(8).replace("\n", " ")
    assert "reach 85% of the slower" in Throughput(100.0, 300.0, 85.0).report(8).replace("\n", " ")


def test_the_command_line_measures_the_tiny_run(tmp_path):
    process = subprocess.run(
        [
            sys.executable,
            ROOT / "train.py",
            "--benchmark_input",
            "--benchmark_seconds=0.2",
            f"--config={ROOT / 'configs' / 'digits_ipg.py'}",
            *as_flags(make_tiny_config()),
        ],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    *table, line = process.stdout.splitlines()
    figures = json.loads(line)
    rates = Throughput(**figures.pop("images_per_second"))
    assert min(rates) > 0
    assert [float(row.split()[-1]) for row in table[1:4]] == [round(rate, 1) for rate in rates]
    assert figures == {
        "bottleneck": rates.bottleneck,
        "batch_size": 8,
        "image_size": [64, 64],
        "platform": "cpu",
        "devices": 8,
        "processes": 1,
        "cpus": os.cpu_count(),
    }
    assert list(tmp_path.iterdir()) == []


def test_two_processes_find_the_same_rates():
    """Those of both together; processes that ran different numbers of steps would hang."""
    processes = [
        subprocess.Popen(
            [sys.executable, ROOT / "tests" / "training" / "measure_as_one_process.py"],
            env=environment | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for environment in process_environments((1, 1))
    ]
    try:
        (primary, errors), (other, _) = [process.communicate(timeout=300) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], errors
    assert primary.splitlines()[-1] == other.splitlines()[-1]
    rates = Throughput(*map(float, primary.split("\n")[-2].split()))
    # Eight images at most each tenth of a second, however fast process 0 reads.
    assert 0 < rates.input < 80
    assert 0 < rates.together < 80
    assert "bottleneck" in primary
    assert "bottleneck" not in other
