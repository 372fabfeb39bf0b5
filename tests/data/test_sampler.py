import itertools
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ipg_jax.data.sampler import BatchSampler, SequentialSampler, flips

buckets = st.lists(st.integers(0, 1), min_size=1, max_size=40).map(np.array)


@given(buckets, st.integers(1, 12), st.integers(0, 2**32))
def test_every_image_comes_once_in_each_epoch_of_its_bucket(buckets, batch_size, seed):
    sampler = BatchSampler(buckets, batch_size, seed)
    seen = Counter()
    last = {}
    steps = 5 * len(buckets)
    for step in range(steps):
        bucket, indices, epochs = sampler.batch(step)
        assert indices.shape == epochs.shape == (batch_size,)
        assert (buckets[indices] == bucket).all()
        for index, epoch in zip(indices.tolist(), epochs.tolist(), strict=True):
            seen[epoch, index] += 1
            last[bucket] = epoch
    for bucket in set(buckets.tolist()):
        members = np.flatnonzero(buckets == bucket).tolist()
        for epoch in range(last[bucket]):  # the last one may have been cut short
            assert all(seen[epoch, index] == 1 for index in members)
    # Over a multiple of n batches each bucket has exactly its share.
    counts = Counter(sampler.batch(step).bucket for step in range(steps))
    assert counts == {b: 5 * n for b, n in Counter(buckets.tolist()).items()}


@given(buckets, st.integers(0, 10**9))
def test_batches_are_pure_in_seed_and_step(buckets, step):
    used = BatchSampler(buckets, 4, seed=1)
    for other in range(5):
        used.batch(other)
    fresh = BatchSampler(buckets, 4, seed=1)
    for a, b in zip(used.batch(step), fresh.batch(step), strict=True):
        np.testing.assert_array_equal(a, b)


def test_buckets_interleave_evenly():
    sampler = BatchSampler(np.repeat([0, 1], [70, 30]), 4, seed=0)
    chosen = np.array([sampler.batch(step).bucket for step in range(1000)])
    share = np.cumsum(chosen == 0) - 0.7 * np.arange(1, 1001)
    assert np.abs(share).max() < 1


def test_orders_differ_between_epochs_and_seeds():
    def order(seed, epoch):
        return tuple(BatchSampler(np.zeros(50, int), 50, seed).batch(epoch).indices)

    orders = {order(seed, epoch) for seed in range(3) for epoch in range(3)}
    assert len(orders) == 9


def test_order_never_changes():
    """A release that orders the data in another way would break the resuming of runs."""
    sampler = BatchSampler(np.array([0, 1, 0, 0, 1, 0, 0, 0]), 4, seed=0)
    found = [sampler.batch(step).indices.tolist() for step in range(4)]
    assert found == [[2, 6, 3, 7], [1, 4, 4, 1], [5, 0, 6, 7], [2, 0, 3, 5]]
    drawn = [flips(0, 1, index, 0.5) for index in range(8)]
    assert drawn == [True, True, False, True, False, True, False, True]


def test_far_steps_cost_nothing():
    rng = np.random.default_rng(0)
    sampler = BatchSampler((rng.random(118_000) < 0.3).astype(int), 32, seed=0)
    begin = time.perf_counter()
    for step in range(10**7, 10**7 + 50):
        sampler.batch(step)
    # Two permutations are drawn at the most; a replay of ten million batches takes minutes.
    assert time.perf_counter() - begin < 2


@given(buckets, st.integers(1, 12))
def test_sequential_batches_hold_every_image_once(buckets, batch_size):
    sampler = SequentialSampler(buckets, batch_size)
    batches = [sampler.batch(step) for step in range(len(sampler))]
    assert all(batch.indices.shape == (batch_size,) for batch in batches)
    for bucket in (0, 1):
        indices = [i for b in batches if b.bucket == bucket for i in b.indices.tolist()]
        real = [i for i in indices if i >= 0]
        assert real == np.flatnonzero(buckets == bucket).tolist()
        assert len(indices) - len(real) < batch_size
        assert indices == real + [-1] * (len(indices) - len(real))


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_flips_have_their_probability(probability):
    drawn = [flips(0, epoch, index, probability) for epoch in range(5) for index in range(400)]
    # Five standard deviations of a mean of 2000.
    margin = 5 * np.sqrt(probability * (1 - probability) / 2000)
    assert abs(np.mean(drawn) - probability) <= margin
    assert drawn == [flips(0, e, i, probability) for e in range(5) for i in range(400)]


def test_flips_differ_between_epochs_and_seeds():
    def pattern(seed, epoch):
        return tuple(flips(seed, epoch, index, 0.5) for index in range(64))

    assert len({pattern(seed, epoch) for seed in range(3) for epoch in range(3)}) == 9


@given(
    st.lists(st.tuples(st.integers(0, 1), st.floats(0.3, 6.0)), min_size=1, max_size=30),
    st.integers(1, 12),
    st.integers(0, 2**32),
)
def test_repeats_are_kept_in_every_epoch(images, batch_size, seed):
    of_bucket, repeats = map(np.array, zip(*images, strict=True))
    sampler = BatchSampler(of_bucket, batch_size, seed, repeats)
    for bucket in set(of_bucket.tolist()):
        members = np.flatnonzero(of_bucket == bucket)
        length = int(np.ceil(repeats[members].sum() - 1e-6))
        wanted = repeats[members] * (length / repeats[members].sum())
        seen = []
        steps = (sampler.batch(step) for step in itertools.count())
        stream = (pair for b in steps if b.bucket == bucket for pair in pairs_of(b))
        for _ in range(3):
            epoch = list(itertools.islice(stream, length))
            counts = np.array([sum(i == m for i, _ in epoch) for m in members])
            # So often, rounded up or down.
            assert (np.abs(counts - wanted) < 1 + 1e-9).all()
            seen += epoch
        # No two times that an image comes have one number: their random changes would be the same.
        assert len(set(seen)) == len(seen)


def pairs_of(batch):
    return zip(batch.indices.tolist(), batch.epochs.tolist(), strict=True)


def test_the_mean_of_repeats_is_exact():
    """2.3 + 1 + 1.5 + 0.2 = 5 images an epoch; counts are rounded up or down by a fair draw."""
    repeats = np.array([2.3, 1.0, 1.5, 0.2])
    sampler = BatchSampler(np.zeros(4, int), 5, 0, repeats)
    counts = [np.bincount(sampler.batch(k).indices, minlength=4) for k in range(2000)]
    assert np.max(counts, axis=0).tolist() == [3, 1, 2, 1]
    assert np.min(counts, axis=0).tolist() == [2, 1, 1, 0]
    # Four standard deviations of a mean of 2000 draws of 0 or 1.
    np.testing.assert_allclose(np.mean(counts, axis=0), repeats, atol=4 * 0.5 / 2000**0.5)


def test_repeats_are_pure_in_seed_and_step_and_shares_of_buckets_follow_them():
    repeats = np.array([1.0, 3.0, 1.0, 1.0])
    used = BatchSampler(np.array([0, 0, 1, 1]), 2, seed=1, repeats=repeats)
    chosen = [used.batch(step).bucket for step in range(600)]
    assert chosen.count(0) == 400  # 4 of 6 images an epoch
    fresh = BatchSampler(np.array([0, 0, 1, 1]), 2, seed=1, repeats=repeats)
    for a, b in zip(used.batch(345), fresh.batch(345), strict=True):
        np.testing.assert_array_equal(a, b)


def test_repeats_of_nothing_are_refused():
    with pytest.raises(ValueError, match="above 0, not 0"):
        BatchSampler(np.zeros(2, int), 2, 0, np.array([1.0, 0.0]))


def test_far_steps_cost_nothing_with_repeats():
    rng = np.random.default_rng(0)
    sampler = BatchSampler(np.zeros(118_000, int), 32, 0, 1 + rng.exponential(1.0, 118_000))
    begin = time.perf_counter()
    for step in range(10**7, 10**7 + 50):
        sampler.batch(step)
    assert time.perf_counter() - begin < 2
