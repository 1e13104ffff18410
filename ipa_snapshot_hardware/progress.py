# SPDX-License-Identifier: Apache-2.0
"""Counters of a running capture."""

import dataclasses
import logging
import threading

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import units

LOG = logging.getLogger(__name__)

# Often enough to see that it moves, seldom enough for a log of hours.
LOG_INTERVAL_S = 60


@dataclasses.dataclass(frozen=True, slots=True)
class State:
    """What was done so far; bytes and seconds."""

    total: int
    read: int
    data: int
    stored: int
    packs: int
    seconds: float

    @property
    def rate(self) -> float:
        """Bytes read per second, over the whole time."""
        return self.read / self.seconds if self.seconds > 0 else 0.0

    def __str__(self) -> str:
        percent = 100 * self.read // self.total if self.total else 100
        return (
            f'{percent}%: {self.read // units.MiB} of '
            f'{self.total // units.MiB} MiB read at '
            f'{self.rate / units.MiB:.1f} MiB/s, '
            f'{self.stored // units.MiB} MiB stored in {self.packs} packs'
        )


class Progress:
    """Counts what is done; any thread may count.

    :param total: bytes there are to read.
    """

    def __init__(self, total: int, clock: clocks.Clock) -> None:
        self._total = total
        self._clock = clock
        self._lock = threading.Lock()
        self._read = 0
        self._data = 0
        self._stored = 0
        self._packs = 0
        self._started = clock.monotonic()
        self._logged = self._started

    def add_read(self, size: int, data_size: int) -> None:
        """Count bytes of the disk that are done with.

        :param size: all of them.
        :param data_size: those in clusters that are not zero.
        """
        with self._lock:
            self._read += size
            self._data += data_size

    def add_pack(self, size: int) -> None:
        """Count a pack that is stored."""
        with self._lock:
            self._stored += size
            self._packs += 1

    def state(self) -> State:
        """Tell what was done so far."""
        with self._lock:
            return State(
                total=self._total,
                read=self._read,
                data=self._data,
                stored=self._stored,
                packs=self._packs,
                seconds=self._clock.monotonic() - self._started,
            )

    def log_sometimes(self) -> None:
        """Write a line to the log, once a minute at most."""
        now = self._clock.monotonic()
        with self._lock:
            if now - self._logged < LOG_INTERVAL_S:
                return
            self._logged = now
        LOG.info('Capture at %s', self.state())
