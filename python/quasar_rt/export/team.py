"""Runs independent parts of an export at the same time, with the same bits on any number of threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import TypeVar

import torch

__all__ = ["MEMBERS", "Team"]

#: Threads that work at the same time, at most; each holds a part of the calibration images in memory.
MEMBERS = 4

Item = TypeVar("Item")
Result = TypeVar("Result")


class Team:
    """Up to `MEMBERS` threads, as a context manager.

    Where torch's threads share one product, their number decides the order of its sums, and so the last bits. Inside
    the context each operation runs on one thread, and whole operations are shared out instead.
    """

    def __enter__(self) -> Team:
        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        self._pool = ThreadPoolExecutor(min(self._threads, MEMBERS))
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        torch.set_num_threads(self._threads)

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yields the function's result for each item, in the order of the items; few results wait at a time."""
        gradients = torch.is_grad_enabled()

        def part(item: Item) -> Result:
            with torch.set_grad_enabled(gradients):  # a setting of the thread
                return function(item)

        rest = iter(items)
        pending = deque(self._pool.submit(part, item) for item in islice(rest, MEMBERS))
        while pending:
            result = pending.popleft().result()
            pending.extend(self._pool.submit(part, item) for item in islice(rest, 1))
            yield result
