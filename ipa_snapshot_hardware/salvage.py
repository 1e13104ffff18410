# SPDX-License-Identifier: Apache-2.0
"""Reading on past sectors that cannot be read, with bounded effort.

A single bad sector is found exactly, which takes a dozen failing reads; and
each can take a disk many seconds. So where nothing could be read for a
while, a stretch of the same length is given up unread; that doubles until
something can be read again::

    ......x.......xxxx////x/////////x///////////////////....
          ^       ^   ^             x: failed   /: not tried
          exact   exact, then growing steps

At most about as much is given up as has failed before it. All of it is
recorded as unreadable, and reads as zeroes.
"""

import logging
from collections.abc import Iterable

from ironic_snapshot_core import errors
from ironic_snapshot_core import manifest
from ironic_snapshot_core import units
from ipa_snapshot_hardware.disk import base

LOG = logging.getLogger(__name__)

# So much is tried sector by sector, in bytes.
PATIENCE = 64 * units.KiB
# The longest stretch that is given up at once, in bytes.
LONGEST_STEP = 1 * units.GiB


class Salvage:
    """Reads a disk in its order, and remembers what could not be read.

    :param runs: that could not be read before: (start, end) in bytes.
    """

    def __init__(
        self, disk: base.Disk, runs: Iterable[tuple[int, int]] = ()
    ) -> None:
        self._disk = disk
        #: (start, end) in bytes, in order, none touching another.
        self.runs = list(runs)
        # Bytes since the latest good read.
        self._lost = 0
        # Nothing before this is tried any more, because of a long step.
        self._given_up = 0

    def expect(self, start: int, end: int) -> None:
        """Find out early that a range is part of a failing stretch.

        :raises DiskReadError: it is better read by :meth:`read_into`.
        """
        if self._lost:
            raise self._error(start, end, 'it follows what cannot be read')

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill the buffer; what cannot be read becomes zeroes.

        :raises DiskReadError: when there is too much of that.
        """
        end = offset + len(view)
        position, stop = offset, end
        while position < end:
            if position < self._given_up:
                skipped = min(self._given_up, end)
                self._lose(position, skipped, offset, view)
                position, stop = skipped, end
                continue
            try:
                self._disk.read_into(
                    position, view[position - offset : stop - offset]
                )
            except errors.DiskReadError as error:
                failed = max(error.offset, position)
                if failed > position:
                    # What is before it can be read, then it fails again.
                    stop = min(failed, stop)
                    continue
                failed_end = min(
                    max(error.offset + error.length, failed + 1), end
                )
                LOG.debug('%s', error)
                self._lose(position, failed_end, offset, view)
                position, stop = failed_end, end
                self._given_up = failed_end
                if self._lost >= PATIENCE:
                    self._given_up += min(self._lost, LONGEST_STEP)
            else:
                self._lost = 0
                position, stop = stop, end

    # Private

    def _lose(
        self, start: int, end: int, offset: int, view: memoryview
    ) -> None:
        view[start - offset : end - offset] = bytes(end - start)
        self._lost += end - start
        if self.runs and self.runs[-1][1] == start:
            self.runs[-1] = self.runs[-1][0], end
            return
        if len(self.runs) == manifest.MAX_UNREADABLE:
            raise self._error(
                start,
                end,
                f'more than {manifest.MAX_UNREADABLE} runs of sectors cannot '
                'be read: replace the disk, a snapshot of it is worth nothing',
            )
        self.runs.append((start, end))

    def _error(
        self, start: int, end: int, reason: str
    ) -> errors.DiskReadError:
        return errors.DiskReadError(
            device=self._disk.name,
            serial=self._disk.serial or 'unknown',
            offset=start,
            length=end - start,
            sector_size=self._disk.logical_sector_size,
            reason=reason,
        )
