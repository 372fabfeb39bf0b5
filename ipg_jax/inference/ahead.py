"""Work in threads ahead of its use."""

from __future__ import annotations

import collections
import concurrent.futures
import itertools
import os
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R | Exception]:
    """Yields the function's values, computed in threads for some items in advance.

    Args:
      function: of an item; an exception that it raises is yielded in the place of its value.
      items: taken one by one in the caller's thread.
      ahead: how many items, 1 at least.
    """
    items = iter(items)
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        running = collections.deque(
            pool.submit(function, item) for item in itertools.islice(items, ahead)
        )
        while running:
            future = running.popleft()
            running.extend(pool.submit(function, item) for item in itertools.islice(items, 1))
            error = future.exception()
            if error is not None and not isinstance(error, Exception):
                raise error
            yield future.result() if error is None else error
