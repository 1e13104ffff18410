# SPDX-License-Identifier: Apache-2.0
"""Counting bytes, for a progress bar."""

import threading

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_cli import terminal as terminals


class Counter:
    """Counts bytes; any thread may count or look.

    :param label: what is being done.
    """

    def __init__(self, label: str, clock: clocks.Clock) -> None:
        self._label = label
        self._clock = clock
        self._lock = threading.Lock()
        self._began = clock.monotonic()
        self._done = self._total = 0

    @property
    def done(self) -> int:
        """Bytes so far."""
        with self._lock:
            return self._done

    def expect(self, total: int) -> None:
        """Tell how many there will be."""
        with self._lock:
            self._total = total

    def add(self, size: int) -> None:
        """Count some."""
        with self._lock:
            self._done += size

    def step(self) -> terminals.Step:
        """Tell how far it is."""
        seconds = self._clock.monotonic() - self._began
        with self._lock:
            rate = self._done / seconds if seconds > 0 else 0.0
            left = self._total - self._done
            return terminals.Step(
                label=self._label,
                done=self._done,
                total=self._total,
                rate=rate,
                eta=left / rate if rate else None,
            )
