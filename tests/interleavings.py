# SPDX-License-Identifier: Apache-2.0
"""Every order in which several actors can use one store.

Actors are functions that take a store. What they do follows from what the
store gives them, and so one can be brought back to any point without a thread
that waits there: it is run again from its beginning, and is given once more
what it was given before. Where two orders have led to the same objects, and
have shown the same to each actor, what follows is the same: it is tried once.

Nothing may run beside an actor: see :class:`OneByOne`.
"""

import collections
import dataclasses
import typing
from concurrent import futures

from ironic_snapshot_core import buffers
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import directory
from ironic_snapshot_core.store import memory


class OneByOne(futures.Executor):
    """Instead of ThreadPoolExecutor: does everything at once, here."""

    def __init__(self, workers: int) -> None:
        pass

    def submit(self, function, /, *args, **kwargs):
        future: futures.Future[object] = futures.Future()
        try:
            future.set_result(function(*args, **kwargs))
        except Exception as e:
            future.set_exception(e)
        return future


class CopyableStore(memory.MemoryStore):
    """A store in memory that can be had twice, with a directory's etags."""

    #: Etags of what was once stored.
    _etags: typing.ClassVar[dict[bytes, str]] = {}

    def copy(self) -> 'CopyableStore':
        other = CopyableStore()
        other._objects.update(self._objects)
        return other

    @property
    def contents(self) -> frozenset[object]:
        return frozenset(self._objects.items())

    @property
    def names(self) -> typing.AbstractSet[str]:
        return self._objects.keys()

    def put(self, name, data):
        super().put(name, data)
        return self.stat(name)

    def new_hash(self):
        return directory.DirectoryStore('/').new_hash()

    def _stat(self, operation, name):
        data = self._objects.get(name)
        if not isinstance(data, bytes):
            return super()._stat(operation, name)
        if data not in self._etags:
            self._etags[data] = buffers.hexdigest(self.new_hash(), data)
        return base.ObjectInfo(name, len(data), self._etags[data])


class _Stopped(BaseException):
    """It is the turn of others."""


class _Turn(base.Store):
    """The store of an actor until it is the turn of others."""

    def __init__(self, store, matters, results, first):
        self._store = store
        self._matters = matters
        self._left = collections.deque(results)
        self._first = first
        self._stopped = False
        self._counts = collections.Counter()
        self.results = list(results)
        self.next = None

    def put(self, name, data):
        return self._call('put', name, data)

    def get(self, name, limit):
        return self._call('get', name, limit)

    def get_range(self, name, offset, length):
        return self._call('get_range', name, offset, length)

    def iter_bytes(self, name, chunk_size=base.CHUNK_SIZE):
        yield from self._call('iter_bytes', name, chunk_size)

    def stat(self, name):
        return self._call('stat', name)

    def list(self, prefix):
        yield from self._call('list', prefix)

    def delete(self, name):
        return self._call('delete', name)

    def join(self, name, segments):
        return self._call('join', name, segments)

    def new_hash(self):
        return self._store.new_hash()

    def _call(self, operation, name, *args):
        count = self._counts[operation, name]
        self._counts[operation, name] += 1
        if self._left:
            result = self._left.popleft()
        else:
            self._stop_before(operation, name, count)
            try:
                result = getattr(self._store, operation)(name, *args)
                if operation in ('list', 'iter_bytes'):
                    result = tuple(result)
            except Exception as e:
                result = e
            self.results.append(result)
        if isinstance(result, Exception):
            raise result
        return result

    def _stop_before(self, operation, name, count):
        if self._stopped:
            raise _Stopped
        if self._matters(operation, name, count):
            if not self._first:
                self._stopped = True
                self.next = f'{operation} {name}'
                raise _Stopped
            self._first = False


@dataclasses.dataclass(frozen=True)
class Actor:
    """Somebody, at some point.

    :param function: takes a store; what it returns or raises is the outcome.
    :param matters: tells whether another actor could notice a call, or its
        order: of operation, name, and how often there was such a call.
    :param results: of all its calls so far.
    :param next: call that matters; None if it has not begun, or has ended.
    """

    function: typing.Callable[[base.Store], object]
    matters: typing.Callable[[str, str, int], bool]
    results: tuple[object, ...] = ()
    next: str | None = None
    ended: bool = False
    outcome: object = None

    def go_on(self, store: base.Store) -> 'Actor':
        """Do the next call, and all that do not matter after it."""
        turn = _Turn(store, self.matters, self.results, self.next is not None)
        outcome, ended = None, True
        try:
            outcome = self.function(turn)
        except _Stopped:
            ended = False
        except Exception as e:
            outcome = e
        return dataclasses.replace(
            self, results=tuple(turn.results), next=turn.next, ended=ended,
            outcome=outcome)

    @property
    def seen(self) -> object:
        """What decides how it goes on."""
        if self.ended:
            return repr(self.outcome)
        return tuple(
            (type(each), each.args) if isinstance(each, Exception) else each
            for each in self.results)


@dataclasses.dataclass(frozen=True)
class End:
    """One that was come to.

    :param order: of the turns, as ordinals of the actors.
    :param outcomes: of the actors.
    """

    store: CopyableStore
    order: tuple[int, ...]
    outcomes: tuple[object, ...]


def explore(store: CopyableStore, actors: typing.Sequence[Actor],
            inspect: typing.Callable[[CopyableStore], object],
            enabled: typing.Callable[
                [typing.Sequence[Actor], int], bool] = lambda *_: True,
            ) -> typing.Iterator[End]:
    """Run the actors in every order; give every end, each once.

    :param inspect: called after each turn; raises if the store is not as it
        must be.
    :param enabled: tells whether an actor may go on now.
    """
    seen = set()
    todo = [(store, tuple(each.go_on(store) for each in actors), ())]
    while todo:
        store, actors, order = todo.pop()
        for number, actor in enumerate(actors):
            if actor.ended or not enabled(actors, number):
                continue
            after = store.copy()
            moved = (*actors[:number], actor.go_on(after),
                     *actors[number + 1:])
            try:
                inspect(after)
            except AssertionError as e:
                raise AssertionError(
                    f'{e}; the order was {(*order, number)}') from e
            key = hash((after.contents, *(each.seen for each in moved)))
            if key not in seen:
                seen.add(key)
                todo.append((after, moved, (*order, number)))
        if all(actor.ended for actor in actors):
            yield End(store, order, tuple(each.outcome for each in actors))


def follow(store: base.Store, actors: typing.Iterable[Actor],
           order: typing.Iterable[int]) -> tuple[object, ...]:
    """Run the actors in one order; give the outcomes."""
    found = [each.go_on(store) for each in actors]
    for number in order:
        found[number] = found[number].go_on(store)
    assert all(each.ended for each in found)
    return tuple(each.outcome for each in found)
