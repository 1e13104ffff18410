# SPDX-License-Identifier: Apache-2.0
"""Many items, a few at a time."""

import collections
import typing
from collections.abc import Callable, Iterable
from concurrent import futures

T = typing.TypeVar('T')


class Stop(typing.Protocol):
    """Tells those who wait to give up: a ``threading.Event``, or the like."""

    def set(self) -> None:
        ...


class Workers:
    """Threads that work on many items, a few at a time.

    :param threads: how many.
    :param stop: set when one of them fails, so that none of the others
        sleeps on until a store can be reached again.
    """

    def __init__(self, threads: int, stop: Stop | None = None) -> None:
        self._threads = threads
        self._stop = stop

    def map(self, work: Callable[[T], None], items: Iterable[T]) -> None:
        """Work on all items; the first error ends it."""
        waiting: collections.deque[futures.Future[None]] = collections.deque()
        with futures.ThreadPoolExecutor(self._threads) as pool:
            try:
                for item in items:
                    waiting.append(pool.submit(work, item))
                    if len(waiting) > 2 * self._threads:
                        waiting.popleft().result()
                while waiting:
                    waiting.popleft().result()
            except BaseException:
                if self._stop is not None:
                    self._stop.set()
                pool.shutdown(cancel_futures=True)
                raise
