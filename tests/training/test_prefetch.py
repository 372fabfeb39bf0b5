import contextlib
from itertools import islice

import pytest

from ipg_jax.training.prefetch import prefetch_to_device


class Log:
    """A source of ten numbers; notes what is read and placed, and that it was closed."""

    def __init__(self):
        self.read = []
        self.placed = []
        self.closed = False

    def batches(self):
        try:
            for number in range(10):
                self.read.append(number)
                yield number
        finally:
            self.closed = True

    def place(self, number):
        self.placed.append(number)
        return f"placed {number}"


@pytest.fixture
def log():
    return Log()


@pytest.mark.parametrize("size", [1, 2, 3, 20])
def test_order_and_values_are_those_of_the_source(log, size):
    found = list(prefetch_to_device(log.batches(), log.place, size))
    assert found == [f"placed {number}" for number in range(10)]
    assert log.closed


@pytest.mark.parametrize("size", [1, 2, 3])
def test_size_batches_are_placed_and_no_more(log, size):
    ahead = prefetch_to_device(log.batches(), log.place, size)
    assert log.read == []
    for number in range(10):
        assert next(ahead) == f"placed {number}"
        assert log.read == log.placed == list(range(min(number + size, 10)))


def test_closing_closes_the_source(log):
    with contextlib.closing(prefetch_to_device(log.batches(), log.place)) as ahead:
        assert len(list(islice(ahead, 3))) == 3
        assert not log.closed
    assert log.closed
    assert log.read == [0, 1, 2, 3]


def test_a_batch_that_cannot_be_placed_closes_the_source(log):
    def place(number):
        raise ValueError("does not divide")

    with pytest.raises(ValueError, match="does not divide"):
        next(prefetch_to_device(log.batches(), place))
    assert log.closed
