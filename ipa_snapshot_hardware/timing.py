# SPDX-License-Identifier: Apache-2.0
"""How long the phases of a capture or a restore take."""

from ironic_snapshot_core import clock as clocks


class Times:
    """Seconds, by phase."""

    def __init__(self, clock: clocks.Clock) -> None:
        self._clock = clock
        self._started = self._last = clock.monotonic()
        self._phases: dict[str, float] = {}

    def end(self, phase: str) -> None:
        """Say that a phase ends, and the next begins."""
        now = self._clock.monotonic()
        self._phases[phase] = round(now - self._last, 3)
        self._last = now

    def finish(self, phase: str) -> dict[str, float]:
        """End the last phase; give all, and the ``total``."""
        self.end(phase)
        return self._phases | {'total': round(self._last - self._started, 3)}
