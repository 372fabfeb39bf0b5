"""How fast a run's input and its training step are, alone and together: which one to work on."""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import os
import textwrap
import time
from collections.abc import Callable, Generator, Iterator
from typing import Literal, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from ipg_jax.training.prefetch import prefetch_to_device
from ipg_jax.training.runs import TrainRun
from ipg_jax.training.sharding import shard_batch
from ipg_jax.types import Batch

logger = logging.getLogger(__name__)

MARGIN = 0.1
"""Rates that differ by less than this fraction count as equal."""


class Throughput(NamedTuple):
    """Images per second over all processes.

    Attributes:
      input: of the input pipeline alone, up to batches in the hosts' memory.
      step: of the training step alone, with its batch on the devices.
      together: of both as in training.
    """

    input: float
    step: float
    together: float

    @property
    def bottleneck(self) -> Literal["input", "step", "neither"]:
        """Which of the two holds a run back."""
        slower, faster = sorted((self.input, self.step))
        if faster < (1 + MARGIN) * slower:
            return "neither"
        return "input" if slower == self.input else "step"

    def report(self, cpus: int) -> str:
        """Returns a table, and in words what limits the run and what would help.

        Args:
          cpus: cores of a host, for the estimate of how many the input needs.
        """
        slower, faster = sorted((self.input, self.step))
        ratio = f"{faster / slower:.2f} x as fast"
        cores = round(cpus * faster / slower)
        verdict = {
            "input": (
                f"The input pipeline is the bottleneck: the training step alone is {ratio}. It "
                f"reads, decodes and resizes on the host. What helps: more cores (this host has "
                f"{cpus}; at the same rate per core about {cores} would do) or more hosts for the "
                "same devices; files that are stored nearer, or no larger than config.image_size "
                "asks for; a smaller config.image_size."
            ),
            "step": (
                f"The training step is the bottleneck: the input pipeline alone is {ratio}. What "
                "helps: more or faster devices, config.model.dtype=bfloat16 on accelerators, a "
                "smaller model or config.image_size. More cores for the input do not."
            ),
            "neither": (
                f"Neither is the bottleneck: the faster one is {ratio}. Only what speeds up both "
                "speeds up the run."
            ),
        }[self.bottleneck]
        if self.together < (1 - MARGIN) * slower:
            verdict += (
                f" Together they reach {self.together / slower:.0%} of the slower one: they "
                "compete, for cores where the devices are CPUs, else for the host's memory and the "
                "way to the devices."
            )
        return "\n".join(
            [
                f"{'':24}{'images/s':>10}",
                f"{'input pipeline alone':24}{self.input:10.1f}",
                f"{'training step alone':24}{self.step:10.1f}",
                f"{'both, as in training':24}{self.together:10.1f}",
                textwrap.fill(verdict, 88),
            ]
        )


def measure_and_print(run: TrainRun, seconds: float = 10.0) -> Throughput:
    """Measures (see `measure`) and prints a table for people and one JSON line for programs."""
    found = measure(run, seconds)
    cpus = os.cpu_count() or 1
    if jax.process_index() == 0:
        print(found.report(cpus))
        figures = {
            "images_per_second": found._asdict(),
            "bottleneck": found.bottleneck,
            "batch_size": run.batch_size,
            "image_size": run.image_size,
            "platform": jax.devices()[0].platform,
            "devices": jax.device_count(),
            "processes": jax.process_count(),
            "cpus": cpus,
        }
        print(json.dumps(figures), flush=True)
    return found


def measure(run: TrainRun, seconds: float = 10.0) -> Throughput:
    """Measures the input and the training step of a run.

    On the run's own data, mesh and batches, with parameters from scratch. Compilation and warm-up
    are left out. Nothing is written.

    Args:
      run: what to train, on what and how (`build_runs.build_train_run`).
      seconds: how long to measure each of the three rates, about.
    """
    key = jax.random.key(run.seed)
    placement = jax.tree.map(lambda x: x.sharding, run.template)
    state = jax.jit(run.init_state, out_shardings=placement)(key)
    place = functools.partial(shard_batch, run.mesh)

    # One batch of each shape that was read, hence of each program that is or will be compiled.
    examples: dict[tuple[int, ...], Batch] = {}

    def read() -> Generator[Batch, None, None]:
        with contextlib.closing(run.batches(0)) as batches:
            for batch in batches:
                examples.setdefault(batch.pyramid[0].shape, batch)
                yield batch

    def train(batches: Iterator[Batch], count: int) -> None:
        """One step is in flight while its predecessor is waited for, as in `train.train`."""
        nonlocal state
        previous = None
        for batch in itertools.islice(batches, count):
            state, metrics = run.train_step(state, batch, key)
            jax.block_until_ready(previous)
            previous = metrics
        jax.block_until_ready(previous)

    def rate(work: Callable[[int], None]) -> float:
        return run.batch_size * _runs_per_second(work, seconds, warm_up=max(2, len(examples)))

    # One pipeline for all: while the step is measured alone, its buffers are full and it rests.
    batches = read()
    ahead = prefetch_to_device(batches, place)
    with contextlib.closing(batches), contextlib.closing(ahead):
        logger.info("%s: measuring the input pipeline", run.source.name)
        input_rate = rate(lambda count: _exhaust(itertools.islice(batches, count)))
        logger.info("compiling and measuring the training step")
        placed = [place(batch) for batch in examples.values()]
        step_rate = rate(functools.partial(train, itertools.cycle(placed)))
        logger.info("measuring both together")
        known = 0
        while known < len(examples):  # a rare shape has compiled its program meanwhile: once more
            known = len(examples)
            together = rate(functools.partial(train, ahead))
    return Throughput(input_rate, step_rate, together)


def _exhaust(items: Iterator[Batch]) -> None:
    """Reads and forgets."""
    for _ in items:
        pass


def _runs_per_second(work: Callable[[int], None], seconds: float, *, warm_up: int) -> float:
    """Returns how often per second `work` is done in the slowest process.

    Every process does the same number of times, since steps on several hosts wait for each other.

    Args:
      work: does it as often as it is told to.
      seconds: how long to measure, about.
      warm_up: so many times are not looked at, of which each shape compiles its program once.
    """

    def elapsed(count: int) -> float:
        begin = time.perf_counter()
        work(count)
        here = np.float32(time.perf_counter() - begin)
        return float(np.max(multihost_utils.process_allgather(here)))

    work(warm_up)
    count = 1
    # Also uses up what was prepared in advance, which would be counted as work done.
    while (taken := elapsed(count)) < seconds / 4:
        count *= 2
    count = max(4, round(count * seconds / taken))
    return count / elapsed(count)
