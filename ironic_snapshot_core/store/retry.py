# SPDX-License-Identifier: Apache-2.0
"""A store that tries again: the only place where anything is retried."""

import dataclasses
import logging
import random as randoms
import typing

from ironic_snapshot_core import buffers
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import renewal as renewals

LOG = logging.getLogger(__name__)

T = typing.TypeVar('T')

#: Bytes that do not match are sent or fetched once more. A second time, it
#: is no accident: data changed in memory, in transit, or in the store.
MISMATCH_TRIES = 2


@dataclasses.dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often, and how long apart.

    :param tries: of one operation, the first included.
    :param base_s: seconds before the second try; doubled for each further.
    :param cap_s: seconds between two tries at most, unless the store asks
        for more.
    :param total_s: seconds after which no further try is started.
    """

    tries: int = 6
    base_s: float = 0.5
    cap_s: float = 30.0
    total_s: float = 300.0

    def delay(self, failures: int, random: float) -> float:
        """Give the seconds to wait.

        :param failures: so far, at least 1.
        :param random: 0 to 1; shortens it by up to a half, so that many
            clients do not all come back at the same moment.
        """
        delay = min(self.cap_s, self.base_s * 2.0 ** (failures - 1))
        return delay * (1 - random / 2)


class RetryingStore(base.Store):
    """Repeats what failed with an error that says this may help.

    All operations can be repeated: they are idempotent.

    :param store: does the work.
    :param random: gives numbers from 0 to 1.
    :param renewal: of the store's grant, if it may expire on the way. The
        time it takes to get a fresh one does not count for the policy.
    """

    def __init__(self, store: base.Store,
                 policy: RetryPolicy = RetryPolicy(),
                 clock: clocks.Clock | None = None,
                 random: typing.Callable[[], float] = randoms.random,
                 renewal: renewals.Renewal | None = None) -> None:
        self._store = store
        self._policy = policy
        self._clock = clock or clocks.SystemClock()
        self._random = random
        self._renewal = renewal

    def put(self, name: str, data: base.Data) -> base.ObjectInfo:
        return self._retry(lambda: self._store.put(name, data))

    def get(self, name: str, limit: int) -> bytes:
        return self._retry(lambda: self._store.get(name, limit))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        return self._retry(
            lambda: self._store.get_range(name, offset, length))

    def iter_bytes(self, name: str, chunk_size: int = base.CHUNK_SIZE
                   ) -> typing.Iterator[bytes]:
        info = self.stat(name)
        hash = self.new_hash()
        done = 0
        try:
            for chunk in self._store.iter_bytes(name, chunk_size):
                done += len(chunk)
                hash.update(chunk)
                yield chunk
            return
        except errors.StoreError as e:
            expired = isinstance(e, renewals.EXPIRED)
            if not (e.retryable or (expired and self._renewal)):
                raise
            LOG.warning('%s Going on at byte %s.', e, done)
        # The rest in ranges, of the same object.
        if self.stat(name) != info:
            raise errors.ObjectMismatch(
                'iter_bytes', name, 'it was replaced while it was read')
        while done < info.size:
            chunk = self.get_range(
                name, done, min(chunk_size, info.size - done))
            done += len(chunk)
            hash.update(chunk)
            if (done == info.size and info.kind == base.PLAIN
                    and hash.hexdigest() != info.etag):
                raise errors.ObjectMismatch(
                    'iter_bytes', name,
                    'the bytes that arrived are not those that were stored')
            yield chunk

    def stat(self, name: str) -> base.ObjectInfo:
        return self._retry(lambda: self._store.stat(name))

    def list(self, prefix: str) -> typing.Iterator[base.ObjectInfo]:
        # Whole, as a second try must not give the first names again.
        yield from self._retry(lambda: list(self._store.list(prefix)))

    def delete(self, name: str) -> None:
        return self._retry(lambda: self._store.delete(name))

    def join(self, name: str, segments: typing.Sequence[base.Segment]
             ) -> base.ObjectInfo:
        return self._retry(lambda: self._store.join(name, segments))

    def new_hash(self) -> buffers.Hash:
        return self._store.new_hash()

    def close(self) -> None:
        self._store.close()

    # Private

    def _retry(self, call: typing.Callable[[], T]) -> T:
        if self._renewal is None:
            return retry(call, self._policy, self._clock, self._random)
        return self._renewal.run(
            lambda: retry(call, self._policy, self._clock, self._random))


def retry(call: typing.Callable[[], T], policy: RetryPolicy = RetryPolicy(),
          clock: clocks.Clock | None = None,
          random: typing.Callable[[], float] = randoms.random) -> T:
    """Do something again while it fails in a way that may pass.

    :param call: idempotent; asks a store, or another service.
    :raises ServiceError: the last error.
    """
    clock = clock or clocks.SystemClock()
    deadline = clock.monotonic() + policy.total_s
    failures = mismatches = 0
    while True:
        try:
            return call()
        except errors.ServiceError as e:
            failures += 1
            mismatches += isinstance(e, errors.ObjectMismatch)
            delay = max(policy.delay(failures, random()),
                        e.retry_after or 0.0)
            if (not e.retryable or failures >= policy.tries
                    or mismatches >= MISMATCH_TRIES
                    or clock.monotonic() + delay > deadline):
                raise
            LOG.warning('%s Trying again in %.1f s (try %s of %s).',
                        e, delay, failures + 1, policy.tries)
        clock.sleep(delay)
