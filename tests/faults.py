# SPDX-License-Identifier: Apache-2.0
"""A store in which faults happen as ordered.

    faults = Faults()
    faults.on('put').after(2).raise_(StoreUnavailable).times(3)
    faults.on('get', 'pack-').flip_bit()
    store = FaultyStore(MemoryStore(), faults)
    ...
    faults.assert_all_fired()
"""

import re
import threading
import typing

from ironic_snapshot_core import buffers
from ironic_snapshot_core import errors
from ironic_snapshot_core.store import base

ErrorLike: typing.TypeAlias = (
    BaseException | type[errors.StoreError]
    | typing.Callable[[], BaseException])


class Fault:
    """Something that goes wrong with some calls.

    :param operation: a store's method, or ``*`` for all.
    :param match: regular expression searched in the object's name.
    """

    def __init__(self, operation: str, match: str) -> None:
        self.operation = operation
        self.match = match
        self.fired = 0
        self._skip = 0
        self._times: int | None = 1
        self._error: ErrorLike | None = None
        self._applied = False
        self._change: typing.Callable[[bytes], bytes] | None = None
        self._call: typing.Callable[[], object] | None = None

    def __repr__(self) -> str:
        return f'<fault on {self.operation} {self.match!r}>'

    # How it goes wrong

    def raise_(self, error: ErrorLike) -> 'Fault':
        """Raise instead of doing it: an error, or a class of StoreErrors."""
        self._error = error
        return self

    def when_applied(self) -> 'Fault':
        """Raise only when it was done: the answer is lost."""
        self._applied = True
        return self

    def flip_bit(self, position: int = 0, bit: int = 0) -> 'Fault':
        """Change what is read, or what is written."""
        def change(data: bytes) -> bytes:
            changed = bytearray(data)
            changed[position % len(data)] ^= 1 << bit
            return bytes(changed)
        self._change = change
        return self

    def short_by(self, n: int) -> 'Fault':
        """Leave away the last bytes of what is read or written."""
        self._change = lambda data: data[:-n]
        return self

    def call(self, function: typing.Callable[[], object]) -> 'Fault':
        """Do something else first."""
        self._call = function
        return self

    # When

    def after(self, calls: int) -> 'Fault':
        """Let so many calls pass."""
        self._skip = calls
        return self

    def times(self, n: int | None) -> 'Fault':
        """Happen so many times; None for always."""
        self._times = n
        return self

    # For the store

    def fires(self, operation: str, name: str) -> bool:
        if (self.operation not in ('*', operation)
                or not re.search(self.match, name)):
            return False
        if self._skip:
            self._skip -= 1
            return False
        if self._times is not None and self.fired >= self._times:
            return False
        self.fired += 1
        return True

    def before(self, operation: str, name: str) -> None:
        if self._call is not None:
            self._call()
        if not self._applied:
            self._raise(operation, name)

    def behind(self, operation: str, name: str) -> None:
        if self._applied:
            self._raise(operation, name)

    def change(self, data: bytes) -> bytes:
        return data if self._change is None else self._change(data)

    def _raise(self, operation: str, name: str) -> None:
        if isinstance(self._error, BaseException):
            raise self._error
        if isinstance(self._error, type):
            raise self._error(operation, name, 'injected by a test')
        if self._error is not None:
            raise self._error()


class Faults:
    """All the faults of a test, and a count of calls."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._faults: list[Fault] = []
        #: Each call so far: operation and name.
        self.calls: list[tuple[str, str]] = []

    def on(self, operation: str, match: str = '') -> Fault:
        """Add a fault; without more it does nothing, once."""
        fault = Fault(operation, match)
        with self._lock:
            self._faults.append(fault)
        return fault

    def assert_all_fired(self) -> None:
        """Fail if a fault never happened: the test proved nothing."""
        idle = [fault for fault in self._faults if not fault.fired]
        assert not idle, f'never fired: {idle}'

    def find(self, operation: str, name: str) -> Fault:
        with self._lock:
            self.calls.append((operation, name))
            for fault in self._faults:
                if fault.fires(operation, name):
                    return fault
        return Fault(operation, '')


class FaultyStore(base.Store):
    """A store with faults in front of another."""

    def __init__(self, store: base.Store, faults: Faults) -> None:
        self.store = store
        self.faults = faults

    def put(self, name: str, data: base.Data) -> base.ObjectInfo:
        fault = self.faults.find('put', name)
        fault.before('put', name)
        info = self.store.put(name, fault.change(bytes(data)))
        fault.behind('put', name)
        return info

    def get(self, name: str, limit: int) -> bytes:
        fault = self.faults.find('get', name)
        fault.before('get', name)
        data = self.store.get(name, limit)
        fault.behind('get', name)
        return fault.change(data)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        fault = self.faults.find('get_range', name)
        fault.before('get_range', name)
        data = self.store.get_range(name, offset, length)
        fault.behind('get_range', name)
        return fault.change(data)

    def iter_bytes(self, name: str, chunk_size: int = base.CHUNK_SIZE
                   ) -> typing.Iterator[bytes]:
        fault = self.faults.find('iter_bytes', name)
        fault.before('iter_bytes', name)
        for number, chunk in enumerate(
                self.store.iter_bytes(name, chunk_size)):
            yield chunk if number else fault.change(chunk)
            # Lost on the way, with the first piece delivered.
            fault.behind('iter_bytes', name)

    def stat(self, name: str) -> base.ObjectInfo:
        fault = self.faults.find('stat', name)
        fault.before('stat', name)
        info = self.store.stat(name)
        fault.behind('stat', name)
        return info

    def list(self, prefix: str) -> typing.Iterator[base.ObjectInfo]:
        fault = self.faults.find('list', prefix)
        fault.before('list', prefix)
        yield from self.store.list(prefix)
        fault.behind('list', prefix)

    def delete(self, name: str) -> None:
        fault = self.faults.find('delete', name)
        fault.before('delete', name)
        self.store.delete(name)
        fault.behind('delete', name)

    def join(self, name: str, segments: typing.Sequence[base.Segment]
             ) -> base.ObjectInfo:
        fault = self.faults.find('join', name)
        fault.before('join', name)
        info = self.store.join(name, segments)
        fault.behind('join', name)
        return info

    def new_hash(self) -> buffers.Hash:
        return self.store.new_hash()

    def close(self) -> None:
        self.store.close()
