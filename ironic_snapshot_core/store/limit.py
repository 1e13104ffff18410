# SPDX-License-Identifier: Apache-2.0
"""A limit on the bytes that all threads together move in a second.

A store that sends piece by piece asks the limit before each piece
(``SwiftStore(pace=limit.take)``), so that the wire is used evenly, or after
each that was received (``receive_pace``), which holds back the other end. In
front of any other store, :class:`LimitedStore` waits before each object
instead.
"""

import threading
import typing

from ironic_snapshot_core import buffers
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core.store import base

# What was not used is saved up for so long: it makes up for a sleep that took
# longer than asked for.
_CREDIT_S = 0.25

# Shorter sleeps take longer than that anyway; what is due adds up.
_SHORTEST_SLEEP_S = 0.005


class RateLimit:
    """Bytes per second that any number of threads share.

    In any period of T seconds at most ``rate * (T + 0.255)`` bytes and one
    piece for each thread are let through.

    :param rate: bytes per second, at least 1.
    """

    def __init__(self, rate: int, clock: clocks.Clock | None = None) -> None:
        self._rate = rate
        self._clock = clock or clocks.SystemClock()
        self._lock = threading.Lock()
        # When everything that was let through will have been paid for.
        self._paid = self._clock.monotonic()

    def take(self, size: int) -> None:
        """Wait until so many bytes more may be moved.

        Threads are served in the order in which they come.

        :param size: in bytes.
        """
        with self._lock:
            now = self._clock.monotonic()
            due = max(self._paid, now - _CREDIT_S)
            self._paid = due + size / self._rate
        if due - now >= _SHORTEST_SLEEP_S:
            self._clock.sleep(due - now)


class LimitedStore(base.Store):
    """A store that sends no more than so many bytes per second.

    Evenly only from object to object: each is sent at once, when its time
    has come.

    :param store: does the work.
    :param rate: bytes per second, at least 1.
    """

    def __init__(self, store: base.Store, rate: int,
                 clock: clocks.Clock | None = None) -> None:
        self._store = store
        self._limit = RateLimit(rate, clock)

    def put(self, name: str, data: base.Data) -> base.ObjectInfo:
        self._limit.take(len(data))
        return self._store.put(name, data)

    def get(self, name: str, limit: int) -> bytes:
        return self._store.get(name, limit)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._store.get_range(name, offset, length)

    def iter_bytes(self, name: str, chunk_size: int = base.CHUNK_SIZE
                   ) -> typing.Iterator[bytes]:
        return self._store.iter_bytes(name, chunk_size)

    def stat(self, name: str) -> base.ObjectInfo:
        return self._store.stat(name)

    def list(self, prefix: str) -> typing.Iterator[base.ObjectInfo]:
        return self._store.list(prefix)

    def delete(self, name: str) -> None:
        self._store.delete(name)

    def join(self, name: str, segments: typing.Sequence[base.Segment]
             ) -> base.ObjectInfo:
        return self._store.join(name, segments)

    def new_hash(self) -> buffers.Hash:
        return self._store.new_hash()

    def close(self) -> None:
        self._store.close()
