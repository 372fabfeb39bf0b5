import dataclasses
import json
import os
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ipg_jax.training.benchmark import Throughput, measure, measure_and_print
from ipg_jax.training.build_runs import build_train_run
from ipg_jax.types import Batch


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
            # Eight shapes, and another one while both are measured together.
            yield blank_batch(12, 8) if number == 250 else blank_batch(8, 12 + number % 8)

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
    assert compiled_after[8] == 252


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


def test_the_tiny_run_is_measured_and_nothing_written(tiny_config, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    measure_and_print(build_train_run(tiny_config, evaluate=False), seconds=0.2)
    *table, line = capsys.readouterr().out.splitlines()
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
