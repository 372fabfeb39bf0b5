"""Batches that are on the devices before they are asked for."""

from __future__ import annotations

import collections
import contextlib
from collections.abc import Callable, Generator
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def prefetch_to_device(
    batches: Generator[T, None, None], place: Callable[[T], U], size: int = 2
) -> Generator[U, None, None]:
    """Places batches ahead of their use, so that transfers overlap with computation.

    `place` only starts a transfer, as `shard_batch` does: asking for batch `k` starts that of
    `k + size - 1` while the devices still compute. Nothing is read before the first batch is asked
    for. Order and values are those of `batches`.

    Args:
      batches: what to place; closed when this generator ends or is closed.
      place: puts one batch on the devices.
      size: how many batches are placed at most, counting the one that was handed out last but none
        before it, which may still be in use; 1 places each batch when it is asked for.

    Yields:
      The placed batches.
    """
    placed: collections.deque[U] = collections.deque()
    with contextlib.closing(batches):
        for batch in batches:
            placed.append(place(batch))
            if len(placed) >= size:
                yield placed.popleft()
        while placed:
            yield placed.popleft()
