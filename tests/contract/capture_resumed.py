# SPDX-License-Identifier: Apache-2.0
"""A capture in a process of its own, to be killed and to go on.

Captures a file into a directory, slowly, with a checkpoint as often as there
is a new pack; says on stdout when it begins.
"""

import sys
import time

from ipa_snapshot_hardware.disk import block
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import units
from ironic_snapshot_core.store import directory
from tests.contract import capture_requests


class BusyClock(clocks.SystemClock):
    """Lets a minute pass whenever somebody looks."""

    def __init__(self):
        self._looks = 0

    def monotonic(self):
        self._looks += 1
        return super().monotonic() + 61 * self._looks


class SlowStore(directory.DirectoryStore):
    def put(self, name, data):
        time.sleep(0.01)
        return super().put(name, data)


def main():
    source, folder = sys.argv[1:]
    with block.BlockDisk(source) as disk:
        print('begins', flush=True)
        capture_requests.run(
            disk, SlowStore(folder), clock=BusyClock(), pack_size=units.MiB
        )


if __name__ == '__main__':
    main()
