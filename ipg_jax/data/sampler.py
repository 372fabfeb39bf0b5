"""Which images make up batch `k`: a pure function of (seed, k), computed in O(1).

Images are split into aspect-ratio buckets, landscape and portrait, because the batches of one
bucket share one static shape. Each bucket is an endless stream, one permutation of its images after
another; a batch takes the next `B` positions of one stream. The batches of the two buckets
interleave as evenly as their sizes allow, like the pixels of Bresenham's line: with `n0` of `n`
images in bucket 0, batch `k` belongs to it iff `(k n0 + r) mod n` wraps around at the next step, so
that `floor((k n0 + r) / n)` batches of bucket 0 come before batch `k`. Every image comes once in
each epoch of its bucket, so that a batch larger than the bucket has images several times. `repeats`
changes that: an image of 2.3 comes twice in seven tenths of the epochs, and three times in the
others.

Order, flips and shapes come from raw 64 bit draws of a counter-based generator, whose values NumPy
guarantees never to change (NEP 19). The other random changes of an image draw from a `Generator`
(`augmentation_rng`), whose methods may give other values in another version of NumPy.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64, Int64, Integer

_ORDER, _INTERLEAVING, _FLIP, _AUGMENT, _REPEAT, _SHAPE = range(6)
"""What a random number is for; the streams are independent."""


class BatchIndices(NamedTuple):
    """The images of one global batch.

    Attributes:
      bucket: the bucket that all of them belong to.
      indices: positions in the source; -1 for rows that only fill up the last batch.
      epochs: a number of its own for each time that an image comes: how often it came before, if
        every image comes once in an epoch.
    """

    bucket: int
    indices: Int64[np.ndarray, " b"]
    epochs: Int64[np.ndarray, " b"]


class BatchSampler:
    """Endless shuffled batches for training."""

    def __init__(
        self,
        buckets: Integer[np.ndarray, " n"],
        batch_size: int,
        seed: int,
        repeats: Float[np.ndarray, " n"] | None = None,
    ):
        """Prepares the streams.

        Args:
          buckets: the bucket of each image, 0 or 1.
          batch_size: global number of images in a batch.
          seed: another seed gives another order.
          repeats: how often each image comes in an epoch of its bucket, on average; once by
            default. The numbers of a bucket are enlarged, by less than one in all, so that its
            epochs are equally long.

        Raises:
          ValueError: a number of `repeats` is not above 0.
        """
        if repeats is None:
            repeats = np.ones(len(buckets))
        if not (repeats > 0).all():
            raise ValueError(f"repeats are above 0, not {repeats.min()}")
        self._buckets = [_Bucket.make(np.flatnonzero(buckets == b), repeats) for b in (0, 1)]
        self._size = sum(bucket.epoch_length for bucket in self._buckets)
        self._batch_size = batch_size
        self._seed = seed
        self._offset = int(_draws(seed, (_INTERLEAVING,), 1)[0]) % self._size
        self._epoch = functools.lru_cache(maxsize=8)(self._uncached_epoch)

    def batch(self, step: int) -> BatchIndices:
        """The global batch of a step, counted from 0."""
        before = self._first_bucket_batches(step)
        if self._first_bucket_batches(step + 1) > before:
            bucket, number = 0, before
        else:
            bucket, number = 1, step - before
        positions = number * self._batch_size + np.arange(self._batch_size)
        epochs, slots = np.divmod(positions, self._buckets[bucket].epoch_length)
        indices, times = np.empty((2, self._batch_size), np.int64)
        for epoch in range(epochs[0], epochs[-1] + 1):
            rows = epochs == epoch
            indices[rows], times[rows] = self._epoch(bucket, epoch)[:, slots[rows]]
        return BatchIndices(bucket, indices, times)

    def _first_bucket_batches(self, step: int) -> int:
        """How many of the batches before `step` belong to bucket 0, in exact arithmetic."""
        return (step * self._buckets[0].epoch_length + self._offset) // self._size

    def _uncached_epoch(self, bucket: int, epoch: int) -> Int64[np.ndarray, "2 m"]:
        """The images of an epoch in their order, and the number of this time for each."""
        members, repeats, length = self._buckets[bucket]
        order = np.argsort(_draws(self._seed, (_ORDER, bucket, epoch), len(members)), kind="stable")
        if (repeats == 1).all():
            return np.stack([members[order], np.full(length, epoch)])
        # Systematic sampling: marks at u, u + 1, ... on a line of pieces as long as the repeats,
        # so that each piece gets its length in marks, rounded up or down, and the mean is exact.
        start = int(_draws(self._seed, (_REPEAT, bucket, epoch), 1)[0]) / 2**64
        ends = np.minimum(np.cumsum(repeats[order]), length)
        ends[-1] = length
        marks = np.floor(ends + start).astype(np.int64)
        counts = np.diff(marks, prepend=0)
        images = np.repeat(order, counts)
        most = int(repeats.max()) + 2  # more than any of the counts
        times = epoch * most + np.arange(length) - np.repeat(marks - counts, counts)
        order = np.argsort(_draws(self._seed, (_REPEAT, bucket, epoch, 1), length), kind="stable")
        return np.stack([members[images], times])[:, order]


class _Bucket(NamedTuple):
    """The images of a bucket, how often each comes in an epoch, and how many come in all."""

    members: Int64[np.ndarray, " m"]
    repeats: Float64[np.ndarray, " m"]
    epoch_length: int

    @classmethod
    def make(cls, members: Int64[np.ndarray, " m"], repeats: Float[np.ndarray, " n"]) -> _Bucket:
        """Takes the members' repeats and enlarges them, so that they add up to a whole number."""
        wanted = repeats[members].astype(np.float64)
        length = math.ceil(wanted.sum() - 1e-6)
        return cls(members, wanted * (length / max(wanted.sum(), 1e-6)), length)


class SequentialSampler:
    """Every image once, bucket after bucket, for evaluation."""

    def __init__(self, buckets: Integer[np.ndarray, " n"], batch_size: int):
        """Lists the batches.

        Args:
          buckets: the bucket of each image, 0 or 1.
          batch_size: global number of images in a batch; the last batch of each bucket is filled up
            with -1.
        """
        self._batches = []
        for bucket in (0, 1):
            members = np.flatnonzero(buckets == bucket)
            padded = np.pad(members, (0, -len(members) % batch_size), constant_values=-1)
            for indices in padded.reshape(-1, batch_size):
                self._batches.append(BatchIndices(bucket, indices, np.zeros_like(indices)))

    def __len__(self) -> int:
        return len(self._batches)

    def batch(self, step: int) -> BatchIndices:
        """The global batch of a step, counted from 0."""
        return self._batches[step]


def flips(seed: int, epoch: int, index: int, probability: float) -> bool:
    """Whether image `index` is mirrored in an epoch."""
    return int(_draws(seed, (_FLIP, epoch, index), 1)[0]) < probability * 2**64


def augmentation_rng(seed: int, epoch: int, index: int) -> np.random.Generator:
    """The generator for further random changes of image `index` in an epoch.

    What its methods draw is NumPy's choice and may differ between versions (NEP 19).
    """
    sequence = np.random.SeedSequence(seed, spawn_key=(_AUGMENT, epoch, index))
    return np.random.Generator(np.random.Philox(sequence))


def drawn_shape(seed: int, step: int, count: int) -> int:
    """Which of `count` shapes the batch of a step has, each as often."""
    return int(_draws(seed, (_SHAPE, step), 1)[0]) % count


def _draws(seed: int, stream: tuple[int, ...], count: int) -> np.ndarray:
    """Uniform 64 bit integers of one of the independent streams of a seed."""
    sequence = np.random.SeedSequence(seed, spawn_key=stream)
    return np.random.Philox(sequence).random_raw(count)
