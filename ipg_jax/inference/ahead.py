"""Work in threads ahead of its use."""

from __future__ import annotations

import collections
import concurrent.futures
import os
from collections.abc import Callable, Generator, Iterable
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def map_ahead(
    function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Generator[R, None, None]:
    """Yields the function's values, computed in threads for some items in advance.

    An exception of the function or of the items is raised once the values before it were yielded.
    At the end, be it an exception or that the generator is closed, only what threads are at work on
    is waited for, and the rest is not begun.

    Args:
      function: of an item.
      items: taken one by one in the caller's thread.
      ahead: how many items, 1 at least.
    """
    items = iter(items)
    running: collections.deque[concurrent.futures.Future[R]] = collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())

    def begin_next() -> None:
        try:
            running.append(pool.submit(function, next(items)))
        except StopIteration:
            pass
        except Exception as error:
            failed: concurrent.futures.Future[R] = concurrent.futures.Future()
            failed.set_exception(error)
            running.append(failed)

    try:
        for _ in range(ahead):
            begin_next()
        while running:
            future = running.popleft()
            begin_next()
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
