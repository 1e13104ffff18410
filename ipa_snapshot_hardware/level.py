# SPDX-License-Identifier: Apache-2.0
"""Choosing the level of compression on the way.

When the uploads are what a capture waits for, the processors have time for a
higher level; when it waits for the workers, the level is too high.
"""

from ironic_snapshot_core import clock as clocks
from ipa_snapshot_hardware import executor

LEVELS = range(1, 10)

# Long enough for a few packs on a slow line.
INTERVAL_S = 4.0
# Of the time: waiting that much for uploads is a reason to go up, ...
_MUCH = 0.3
# ... and so little one to go down, if there is waiting for workers.
_LITTLE = 0.05


class Controller:
    """Looks at what the collector waits for, now and then."""

    def __init__(self, clock: clocks.Clock) -> None:
        self._clock = clock
        self._since = clock.monotonic()
        self._before = executor.Waits(0.0, 0.0)
        self.level = LEVELS.start

    def observe(self, waits: executor.Waits) -> int:
        """Give the level to use from now on.

        :param waits: since the beginning, see :class:`executor.Waits`.
        """
        now = self._clock.monotonic()
        passed = now - self._since
        if passed < INTERVAL_S:
            return self.level
        places = (waits.places - self._before.places) / passed
        results = (waits.results - self._before.results) / passed
        if places > _MUCH:
            self.level = min(self.level + 1, LEVELS[-1])
        elif places < _LITTLE and results > _MUCH:
            self.level = max(self.level - 1, LEVELS.start)
        self._since, self._before = now, waits
        return self.level
