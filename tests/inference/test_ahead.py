"""Work in threads: its order, its errors and its end."""

import threading

import pytest

from ipg_jax.inference.ahead import map_ahead


def until_error(values):
    """What comes before the error, and this."""
    came = []
    with pytest.raises(RuntimeError) as error:
        came.extend(values)  # keeps what came before
    return came, str(error.value)


def test_values_come_in_the_order_of_the_items():
    assert list(map_ahead(lambda x: x * x, range(7), 3)) == [0, 1, 4, 9, 16, 25, 36]
    assert list(map_ahead(lambda x: x, [], 3)) == []


def test_so_many_items_are_taken_ahead():
    taken = []
    values = map_ahead(lambda x: x, (taken.append(x) or x for x in range(9)), 2)
    assert next(values) == 0
    assert taken == [0, 1, 2]
    values.close()


@pytest.mark.parametrize("ahead", [1, 4])
def test_an_error_of_the_function_comes_behind_the_values_before_it(ahead):
    def function(x):
        if x == 2:
            raise RuntimeError("two")
        return x

    assert until_error(map_ahead(function, range(9), ahead)) == ([0, 1], "two")


@pytest.mark.parametrize("ahead", [1, 4])
def test_an_error_of_the_items_comes_behind_the_values_before_it(ahead):
    def items():
        yield from range(2)
        raise RuntimeError("no more")

    assert until_error(map_ahead(lambda x: x, items(), ahead)) == ([0, 1], "no more")


def test_closing_begins_nothing_more():
    release, begun = threading.Event(), []

    def wait(x):
        begun.append(x)
        if x:
            release.wait()

    values = map_ahead(wait, range(1000), 900)
    next(values)
    threading.Timer(0.1, release.set).start()
    values.close()
    assert len(begun) < 900
