# SPDX-License-Identifier: Apache-2.0
"""Counters of a running capture or restore."""

import abc
import dataclasses
import logging
import threading
from typing import Any
from typing import ClassVar

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import units

LOG = logging.getLogger(__name__)

#: What a capture is at, in this order.
SURVEY = 'survey'
CLUSTERS = 'clusters'
SAMPLE = 'sample'
DOCUMENTS = 'documents'
PHASES = (SURVEY, CLUSTERS, SAMPLE, DOCUMENTS)

#: What a stream is at, in this order; what is to be compressed is measured.
MEASURE = 'measure'
READY = 'ready'
SEND = 'send'
STREAM_PHASES = (SURVEY, MEASURE, READY, SEND)

# Those that read the disk; each has its own rate.
_READING = (CLUSTERS, MEASURE, SEND)

#: What a restore is at, in this order.
COMPARE = 'compare'
WRITE = 'write'
VERIFY = 'verify'
FINISH = 'finish'
IDENTITY = 'identity'
RESTORE_PHASES = (COMPARE, WRITE, VERIFY, FINISH, IDENTITY)

# Often enough to see that it moves, seldom enough for a log of hours.
LOG_INTERVAL_S = 60


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """What was done so far; bytes and seconds.

    :param phase: one of :data:`PHASES`, :data:`STREAM_PHASES` or
        :data:`RESTORE_PHASES`.
    :param total: bytes there are to read; 0 until that is known.
    :param read: of them.
    :param seconds: since it began, or went on after an interruption.
    :param percent: read, 0 to 100.
    :param rate: bytes read per second, 0 while that is not known.
    :param eta: seconds until all is read, None while that is not known.
    :param moved: grows whenever anything is read or sent; when it does not,
        nothing is going on.
    :param touched: whether the disk may have been written to.
    """

    phase: str
    total: int
    read: int
    seconds: float
    percent: int
    rate: float
    eta: float | None
    moved: int
    touched: bool

    def to_dict(self) -> dict[str, int | str | None]:
        """Give what goes into the result of a slice."""
        return {
            'phase': self.phase,
            'percent': self.percent,
            'total_bytes': self.total,
            'read_bytes': self.read,
            'rate': int(self.rate),
            'eta': None if self.eta is None else int(self.eta),
            'moved': self.moved,
        }


@dataclasses.dataclass(frozen=True, slots=True)
class CaptureState(State):
    """How far a capture is.

    :param data: of the bytes read, in clusters that are not zero.
    :param stored: of the packs that are stored, or of the image that is
        sent.
    """

    data: int
    stored: int
    packs: int

    def to_dict(self) -> dict[str, int | str | None]:
        return State.to_dict(self) | {
            'data_bytes': self.data,
            'stored_bytes': self.stored,
            'packs': self.packs,
        }

    def __str__(self) -> str:
        return (
            f'{self.percent}%: {self.read // units.MiB} of '
            f'{self.total // units.MiB} MiB read at '
            f'{self.rate / units.MiB:.1f} MiB/s, '
            f'{self.stored // units.MiB} MiB stored in {self.packs} packs'
        )


@dataclasses.dataclass(frozen=True, slots=True)
class RestoreState(State):
    """How far a restore is; what is read or written is that of its phase.

    :param fetched: from the store.
    :param written: to the disk.
    """

    fetched: int
    written: int

    def to_dict(self) -> dict[str, int | str | None]:
        return State.to_dict(self) | {
            'fetched_bytes': self.fetched,
            'written_bytes': self.written,
        }

    def __str__(self) -> str:
        return (
            f'{self.phase}, {self.percent}%: {self.read // units.MiB} of '
            f'{self.total // units.MiB} MiB at '
            f'{self.rate / units.MiB:.1f} MiB/s, '
            f'{self.fetched // units.MiB} MiB fetched and '
            f'{self.written // units.MiB} MiB written'
        )


class Progress(abc.ABC):
    """Counts what is done; any thread may count or look."""

    #: What the log calls it.
    _WHAT: ClassVar[str]

    def __init__(self, clock: clocks.Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._phase = ''
        self._total = 0
        self._read = 0
        self._moved = 0
        self._touched = False
        # Read before: says nothing about the rate now.
        self._read_before = 0
        self._started = self._logged = clock.monotonic()
        self._reading_since = self._started
        self._reading_s: float | None = None

    @abc.abstractmethod
    def begin(self, phase: str) -> None:
        """Say that a phase begins."""

    @abc.abstractmethod
    def state(self) -> State:
        """Tell what was done so far."""

    def expect(self, total: int) -> None:
        """Say how many bytes there are to read."""
        with self._lock:
            self._total = total

    def add_moved(self, size: int) -> None:
        """Count bytes of something that is not done yet."""
        with self._lock:
            self._moved += size

    def log_sometimes(self) -> None:
        """Write a line to the log, once a minute at most."""
        now = self._clock.monotonic()
        with self._lock:
            if now - self._logged < LOG_INTERVAL_S:
                return
            self._logged = now
        LOG.info('%s at %s', self._WHAT, self.state())

    # Private

    def _figures(self, known: bool) -> dict[str, Any]:
        """Give what is in every state; with the lock held.

        :param known: whether there is to be read what was said to be.
        """
        now = self._clock.monotonic()
        seconds = (
            now - self._reading_since
            if self._reading_s is None
            else self._reading_s
        )
        read = self._read - self._read_before
        rate = read / seconds if seconds > 0 else 0.0
        left = self._total - self._read
        return {
            'phase': self._phase,
            'total': self._total,
            'read': self._read,
            'seconds': now - self._started,
            'percent': (
                100 * self._read // self._total
                if self._total
                else 100 * known
            ),
            'rate': rate,
            'eta': (
                0.0
                if known and not left
                else left / rate
                if rate and known
                else None
            ),
            'moved': self._moved,
            'touched': self._touched,
        }


class CaptureProgress(Progress):
    """Counts what a capture does."""

    _WHAT = 'Capture'

    def __init__(self, clock: clocks.Clock) -> None:
        super().__init__(clock)
        self._phase = SURVEY
        self._data = 0
        self._stored = 0
        self._packs = 0

    def begin(self, phase: str) -> None:
        now = self._clock.monotonic()
        with self._lock:
            if phase in _READING:
                self._reading_since = now
                self._reading_s = None
                self._read_before = self._read
            elif self._phase in _READING:
                self._reading_s = now - self._reading_since
            self._phase = phase
            self._moved += 1

    def resume(self, read: int, data: int, stored: int, packs: int) -> None:
        """Count what was done before an interruption."""
        with self._lock:
            self._read = self._read_before = read
            self._data = data
            self._stored = stored
            self._packs = packs

    def add_read(self, size: int, data_size: int) -> None:
        """Count bytes of the disk that are done with.

        :param size: all of them.
        :param data_size: those in clusters that are not zero.
        """
        with self._lock:
            self._read += size
            self._data += data_size
            self._moved += size

    def add_sent(self, size: int) -> None:
        """Count bytes that are sent, and in no pack."""
        with self._lock:
            self._stored += size
            self._moved += size

    def add_pack(self, size: int) -> None:
        """Count a pack that is stored."""
        with self._lock:
            self._stored += size
            self._packs += 1
            self._moved += size

    def state(self) -> CaptureState:
        with self._lock:
            return CaptureState(
                **self._figures(known=self._phase != SURVEY),
                data=self._data,
                stored=self._stored,
                packs=self._packs,
            )


class RestoreProgress(Progress):
    """Counts what a restore does.

    Each phase counts from zero what it reads of the disk, or writes to it.
    """

    _WHAT = 'Restore'

    def __init__(self, clock: clocks.Clock) -> None:
        super().__init__(clock)
        self._phase = COMPARE
        self._fetched = 0
        self._written = 0

    def begin(self, phase: str) -> None:
        now = self._clock.monotonic()
        with self._lock:
            self._reading_since = now
            self._total = self._read = 0
            self._phase = phase
            self._moved += 1

    def touch(self) -> None:
        """Say that the disk is written to from now on."""
        with self._lock:
            self._touched = True

    def add_done(self, size: int) -> None:
        """Count bytes of the disk that the phase is done with."""
        with self._lock:
            self._read += size
            self._moved += size

    def add_fetched(self, size: int) -> None:
        """Count bytes that came from the store."""
        with self._lock:
            self._fetched += size
            self._moved += size

    def add_written(self, size: int) -> None:
        """Count bytes written to the disk."""
        with self._lock:
            self._written += size
            self._moved += size

    def state(self) -> RestoreState:
        with self._lock:
            return RestoreState(
                **self._figures(
                    known=self._total > 0 or self._phase != COMPARE
                ),
                fetched=self._fetched,
                written=self._written,
            )
