# SPDX-License-Identifier: Apache-2.0
"""Reading from a store: counted, and as fast as is allowed."""

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from ironic_snapshot_core import errors
from ironic_snapshot_core.store import base


class ReadStore(base.Store):
    """A store that is only read.

    :param store: does the work.
    :param pace: waits until so many bytes may be asked for.
    :param count: is told how many bytes came.
    """

    def __init__(
        self,
        store: base.Store,
        pace: Callable[[int], None],
        count: Callable[[int], None],
    ) -> None:
        self._store = store
        self._pace = pace
        self._count = count

    def get(self, name: str, limit: int) -> bytes:
        self._pace(limit)
        data = self._store.get(name, limit)
        self._count(len(data))
        return data

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        self._pace(length)
        data = self._store.get_range(name, offset, length)
        self._count(len(data))
        return data

    def iter_bytes(
        self, name: str, chunk_size: int = base.CHUNK_SIZE
    ) -> Iterator[bytes]:
        for chunk in self._store.iter_bytes(name, chunk_size):
            self._pace(len(chunk))
            self._count(len(chunk))
            yield chunk

    def stat(self, name: str) -> base.ObjectInfo:
        return self._store.stat(name)

    def list(self, prefix: str) -> Iterator[base.ObjectInfo]:
        return self._store.list(prefix)

    def put(self, name: str, data: base.Data) -> base.ObjectInfo:
        raise _only_read('put', name)

    def delete(self, name: str) -> None:
        raise _only_read('delete', name)

    def join(
        self, name: str, segments: Sequence[base.Segment]
    ) -> base.ObjectInfo:
        raise _only_read('join', name)


def _only_read(operation: str, name: str) -> errors.NotSupported:
    return errors.NotSupported(operation, name, 'the store is only read here')
