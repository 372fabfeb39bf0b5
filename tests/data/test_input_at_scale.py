"""The input of large runs: many hosts, and far into a large data set."""

import contextlib
import functools
import time
from itertools import islice

import jax
import numpy as np
from memory_source import MemorySource

from ipg_jax.data import train_batches

HOSTS = 64
SETTINGS = {"seed": 3, "image_size": (8, 12), "levels": 2, "pad_multiple": 4}


def first_batches(source, count, process=0, processes=1, **settings):
    """The first `count` batches of one process; the pipeline is stopped."""
    share = settings["batch_size"] // processes
    rows = range(process * share, (process + 1) * share)
    with contextlib.closing(train_batches(source, rows=rows, **SETTINGS, **settings)) as batches:
        return list(islice(batches, count))


def assert_same_bits(a, b):
    jax.tree.map(functools.partial(np.testing.assert_array_equal, strict=True), a, b)


def test_the_slices_of_64_hosts_make_up_the_global_batch():
    """In order and bit for bit: pixels, boxes, mirroring and everything else, in both buckets."""
    source = MemorySource(500)
    settings = {"batch_size": 2 * HOSTS, "start_step": 1000}
    whole = first_batches(source, 4, **settings)
    assert {batch.pyramid[0].shape[1:3] for batch in whole} == {(8, 12), (12, 8)}
    assert all(batch.weight.all() for batch in whole)

    slices = [first_batches(source, 4, host, HOSTS, **settings) for host in range(HOSTS)]
    for expected, *parts in zip(whole, *slices, strict=True):
        assert all(len(part.weight) == 2 for part in parts)
        assert_same_bits(jax.tree.map(lambda *rows: np.concatenate(rows), *parts), expected)

    for host in (0, 17, 63):
        again = first_batches(source, 4, host, HOSTS, **settings)
        assert_same_bits(again, slices[host])


def test_a_run_over_coco_resumes_in_epoch_seven_within_seconds():
    """And with the batches of a run that read everything before, here as one of 512 processes."""
    source = MemorySource(118_287)
    process = {"process": 300, "processes": 512, "batch_size": 2048}
    step = 7 * len(source) // 2048

    begin = time.perf_counter()
    resumed = first_batches(source, 1, **process, start_step=step)
    # Half a second on a busy core, most of which TensorFlow takes to build the pipeline; reading
    # what came before takes minutes in a run of one process.
    assert time.perf_counter() - begin < 5

    uninterrupted = first_batches(source, step + 1, **process)
    assert_same_bits(resumed, uninterrupted[step:])
