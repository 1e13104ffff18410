# SPDX-License-Identifier: Apache-2.0
"""A store in memory: for tests, and for trying things out."""

import threading
import typing

from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core.store import base


class MemoryStore(base.Store):
    """Objects in a dict."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._objects: dict[str, bytes | tuple[base.Segment, ...]] = {}

    def put(self, name: str, data: base.Data) -> base.ObjectInfo:
        layout.validate_name(name)
        copy = bytes(data)
        with self._lock:
            self._objects[name] = copy
        return base.ObjectInfo(name, len(copy), base.md5(copy))

    def get(self, name: str, limit: int) -> bytes:
        with self._lock:
            base.refuse_large(name, self._stat('get', name).size, limit)
            return b''.join(self._parts('get', name))

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        base.validate_range(offset, length)
        with self._lock:
            size = self._stat('get_range', name).size
            base.refuse_outside(name, size, offset, length)
            found = []
            for part in self._parts('get_range', name):
                piece = part[offset:offset + length]
                found.append(piece)
                length -= len(piece)
                offset = max(0, offset - len(part))
            return b''.join(found)

    def iter_bytes(self, name: str, chunk_size: int = base.CHUNK_SIZE
                   ) -> typing.Iterator[bytes]:
        with self._lock:
            self._stat('iter_bytes', name)
            parts = self._parts('iter_bytes', name)
        for part in parts:
            for start in range(0, len(part), chunk_size):
                yield part[start:start + chunk_size]

    def stat(self, name: str) -> base.ObjectInfo:
        with self._lock:
            return self._stat('stat', name)

    def list(self, prefix: str) -> typing.Iterator[base.ObjectInfo]:
        base.validate_beginning(prefix)
        with self._lock:
            found = [self._stat('list', name)
                     for name in sorted(self._objects)
                     if name.startswith(prefix)]
        yield from found

    def delete(self, name: str) -> None:
        layout.validate_name(name)
        with self._lock:
            self._objects.pop(name, None)

    def join(self, name: str, segments: typing.Sequence[base.Segment]
             ) -> base.ObjectInfo:
        info = base.image_info(name, segments)
        with self._lock:
            for segment in segments:
                base.check_segment(segment, self._stat('join', segment.name))
            self._objects[name] = tuple(segments)
        return info

    # Private

    def _stat(self, operation: str, name: str) -> base.ObjectInfo:
        layout.validate_name(name)
        value = self._objects.get(name)
        if value is None:
            raise errors.ObjectMissing(operation, name, 'it does not exist')
        if isinstance(value, tuple):
            return base.image_info(name, value)
        return base.ObjectInfo(name, len(value), base.md5(value))

    def _parts(self, operation: str, name: str
               ) -> typing.Sequence[bytes]:
        value = self._objects[name]
        if isinstance(value, bytes):
            return [value]
        found = []
        for segment in value:
            base.check_segment(segment, self._stat(operation, segment.name))
            data = typing.cast(bytes, self._objects[segment.name])
            found.append(data[segment.start:segment.start + segment.used])
        return found
