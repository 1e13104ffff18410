# SPDX-License-Identifier: Apache-2.0
"""Read ahead, work in parallel, collect in order, upload in parallel.

::

    source -> workers -> (in order) the caller's loop -> uploaders
    1 thread  N threads              the caller          M threads

The caller writes a plain loop::

    with Executor(workers=2, reads=4, uploads=2, stop=stop) as executor:
        for result in executor.map(source, work):
            ...
            executor.send(job)

Everything is bounded: at most ``reads`` items live between the source and
the end of the loop's turn, and at most ``uploads`` jobs are queued or
running; ``send`` waits for a place. Results come in the order of the source
whatever the number of workers, so what the loop makes of them does not
depend on it.

The first error of any thread, or of the loop, wins: the others are told to
stop and are waited for, and it is raised once, when the ``with`` ends. A
thread in the middle of a request ends it, or its timeout, first.

Everybody waits for one thing and is woken for that alone: waking all threads
at every step costs more than the steps.
"""

import collections
import dataclasses
import logging
import threading
import types
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator
from typing import Any
from typing import TypeVar

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors

LOG = logging.getLogger(__name__)

T = TypeVar('T')
U = TypeVar('U')

# How long it takes at most to notice that the flow is to stop, when nothing
# else happens meanwhile.
_POLL_S = 0.2


class Stop:
    """Tells everybody who shares it to stop."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def set(self) -> None:
        """Ask to stop; asking twice is harmless."""
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def check(self) -> None:
        """Go on, or not.

        :raises Cancelled: when asked to stop.
        """
        if self._event.is_set():
            raise errors.Cancelled()

    def wait(self, timeout_s: float) -> bool:
        """Wait until asked to stop, at most this long."""
        return self._event.wait(timeout_s)


class StoppableClock(clocks.SystemClock):
    """A clock whose sleep ends early when the flow is to stop."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop = stop

    def sleep(self, seconds: float) -> None:
        """Sleep.

        :raises Cancelled: when asked to stop meanwhile.
        """
        if self._stop.wait(seconds):
            raise errors.Cancelled()


class _Halted(Exception):
    """Ends a thread; the error that caused it is kept elsewhere."""


@dataclasses.dataclass(frozen=True, slots=True)
class Waits:
    """What the caller's loop has waited for, in seconds.

    :param results: for the reader and the workers.
    :param places: for the uploads.
    """

    results: float
    places: float


class Executor:
    """The threads of one flow; a context manager, used once.

    :param workers: threads that work, at least 1.
    :param reads: items alive at a time, more than ``workers`` so that the
        source can be read ahead.
    :param uploads: threads that send, at least 1.
    :param stop: set from outside to cancel; set from here on an error, so
        that nobody sleeps through it.
    :param clock: tells how long the loop waits.
    """

    def __init__(
        self,
        *,
        workers: int,
        reads: int,
        uploads: int,
        stop: Stop,
        clock: clocks.Clock | None = None,
    ) -> None:
        self._workers = workers
        self._uploads = uploads
        self._stop = stop
        self._clock = clock or clocks.SystemClock()
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._read_is_free = threading.Condition(self._lock)
        self._work_is_there = threading.Condition(self._lock)
        self._result_is_there = threading.Condition(self._lock)
        self._job_is_there = threading.Condition(self._lock)
        self._place_is_free = threading.Condition(self._lock)
        self._threads: list[threading.Thread] = []
        # Guarded by _lock, all of it.
        self._free_reads = reads
        self._todo: collections.deque[tuple[int, Any]] = collections.deque()
        self._results: dict[int, Any] = {}
        self._next_result = 0
        self._source_length: int | None = None
        self._jobs: collections.deque[Callable[[], None]] = (
            collections.deque()
        )
        self._jobs_open = 0
        self._closing = False
        self._waited_results = 0.0
        self._waited_places = 0.0

    @property
    def waits(self) -> Waits:
        """What the loop has waited for so far."""
        return Waits(self._waited_results, self._waited_places)

    def map(
        self, source: Iterable[T], work: Callable[[T], U]
    ) -> Iterator[U]:
        """Work on every item of the source; give the results in order.

        To be called once.

        :param source: read by one thread, ahead of the work.
        :param work: called by several threads at a time.
        """
        self._start('reader', self._read, iter(source))
        for number in range(self._workers):
            self._start(f'worker-{number}', self._work, work)
        return self._collect()

    def send(self, job: Callable[[], None]) -> None:
        """Have a job done by an uploader; wait until there is a place.

        A job is forgotten when it is done, with all it holds.
        """
        started = self._clock.monotonic()
        with self._lock:
            self._wait(
                self._place_is_free, lambda: self._jobs_open < self._uploads
            )
            self._waited_places += self._clock.monotonic() - started
            self._jobs_open += 1
            self._jobs.append(job)
            self._job_is_there.notify()

    def __enter__(self) -> 'Executor':
        for number in range(self._uploads):
            self._start(f'upload-{number}', self._upload)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        if error is None:
            try:
                with self._lock:
                    self._wait(
                        self._place_is_free, lambda: not self._jobs_open
                    )
            except _Halted:
                pass
        elif not isinstance(error, _Halted):
            self._fail(error)
        with self._lock:
            self._closing = True
            self._wake_all()
        for thread in self._threads:
            thread.join()
        if self._error is not None and self._error is not error:
            raise self._error from None

    # Private

    def _start(
        self, name: str, target: Callable[..., None], *args: Any
    ) -> None:
        thread = threading.Thread(
            target=self._guard,
            args=(target, *args),
            name=f'snapshot-{name}',
            daemon=True,
        )
        self._threads.append(thread)
        thread.start()

    def _guard(self, target: Callable[..., None], *args: Any) -> None:
        try:
            target(*args)
        except _Halted:
            pass
        except BaseException as error:
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            if self._error is None:
                self._error = error
            elif error is not self._error:
                LOG.debug('After the first error: %s', error)
            self._todo.clear()
            self._jobs.clear()
            self._results.clear()
            self._wake_all()
        self._stop.set()

    def _wake_all(self) -> None:
        for condition in (
            self._read_is_free,
            self._work_is_there,
            self._result_is_there,
            self._job_is_there,
            self._place_is_free,
        ):
            condition.notify_all()

    def _wait(
        self, condition: threading.Condition, ready: Callable[[], bool]
    ) -> None:
        """Wait, holding the lock, until ready or until all is over."""
        while True:
            if self._error is None and self._stop.is_set():
                self._error = errors.Cancelled()
                self._wake_all()
            if self._error is not None:
                raise _Halted()
            if ready():
                return
            condition.wait(_POLL_S)

    def _read(self, source: Iterator[Any]) -> None:
        number = 0
        while True:
            with self._lock:
                self._wait(
                    self._read_is_free,
                    lambda: self._free_reads > 0 or self._closing,
                )
                if self._closing:
                    return
                self._free_reads -= 1
            try:
                item = next(source)
            except StopIteration:
                break
            with self._lock:
                self._todo.append((number, item))
                self._work_is_there.notify()
            del item
            number += 1
        with self._lock:
            self._source_length = number
            self._work_is_there.notify_all()
            self._result_is_there.notify()

    def _work(self, work: Callable[[Any], Any]) -> None:
        while True:
            with self._lock:
                self._wait(
                    self._work_is_there,
                    lambda: bool(self._todo)
                    or self._source_length is not None
                    or self._closing,
                )
                if not self._todo:
                    return
                number, item = self._todo.popleft()
            result = work(item)
            del item
            with self._lock:
                self._results[number] = result
                if number == self._next_result:
                    self._result_is_there.notify()
            del result

    def _collect(self) -> Iterator[Any]:
        while found := self._take_result():
            # Not kept here while the caller works on it.
            yield found.pop()
            with self._lock:
                self._next_result += 1
                self._free_reads += 1
                self._read_is_free.notify()

    def _take_result(self) -> list[Any]:
        """Wait for a result; give a list of it, or of nothing at the end."""
        started = self._clock.monotonic()
        with self._lock:
            self._wait(
                self._result_is_there,
                lambda: self._next_result in self._results
                or self._next_result == self._source_length,
            )
            self._waited_results += self._clock.monotonic() - started
            if self._next_result == self._source_length:
                return []
            return [self._results.pop(self._next_result)]

    def _upload(self) -> None:
        while True:
            with self._lock:
                self._wait(
                    self._job_is_there,
                    lambda: bool(self._jobs) or self._closing,
                )
                if not self._jobs:
                    return
                job = self._jobs.popleft()
            job()
            del job
            with self._lock:
                self._jobs_open -= 1
                self._place_is_free.notify()
