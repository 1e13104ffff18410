# SPDX-License-Identifier: Apache-2.0
"""A store that forgets everything at once: for measuring."""

import typing

from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core.store import base

# Hashing for nobody would be measured as well.
_ETAG = '0' * 32


class NullStore(base.Store):
    """Takes any object, and has none."""

    def put(self, name: str, data: base.Data) -> base.ObjectInfo:
        return base.ObjectInfo(layout.validate_name(name), len(data), _ETAG)

    def get(self, name: str, limit: int) -> bytes:
        raise _missing('get', name)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        raise _missing('get_range', name)

    def iter_bytes(
        self, name: str, chunk_size: int = base.CHUNK_SIZE
    ) -> typing.Iterator[bytes]:
        raise _missing('iter_bytes', name)

    def stat(self, name: str) -> base.ObjectInfo:
        raise _missing('stat', name)

    def list(self, prefix: str) -> typing.Iterator[base.ObjectInfo]:
        return iter(())

    def delete(self, name: str) -> None:
        layout.validate_name(name)

    def join(
        self, name: str, segments: typing.Sequence[base.Segment]
    ) -> base.ObjectInfo:
        raise _missing('join', name)


def _missing(operation: str, name: str) -> errors.ObjectMissing:
    layout.validate_name(name)
    return errors.ObjectMissing(operation, name, 'nothing is kept here')
