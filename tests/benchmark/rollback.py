# SPDX-License-Identifier: Apache-2.0
"""A restore onto a disk that writes only so fast, as disks do.

Run as a program, it restores a snapshot of a directory onto an image file,
whose writes are paced, with the engine of the command, and prints a line of
JSON. What is there already is compared; a file that is missing is made, and
known to be zero.

:func:`change` makes the disk of which a part has changed.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import uuid

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core.store import limit
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import restore
from ipa_snapshot_hardware import restore_request
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.disk import target as targets
from ironic_snapshot_cli import repository
from ironic_snapshot_cli import selection

#: What the disk writes, in bytes per second; a title for it.
RATE = 100_000_000
RATE_TITLE = '100 MB/s'

#: Of a disk, how much has changed before it is rolled back, at most.
CHANGED = 0.03
CHANGED_TITLE = '3 %'


class PacedTarget(targets.BlockTarget):
    """A file that is written no faster than :data:`RATE`."""

    def __init__(self, path: str) -> None:
        self._limit = limit.RateLimit(RATE)
        super().__init__(path)

    def write(self, offset: int, data: base.Buffer | bytes) -> None:
        self._limit.take(memoryview(data).nbytes)
        super().write(offset, data)


def run(folder: str, snapshot: str, path: str) -> dict[str, float]:
    """Restore a snapshot of a repository.

    :returns: the totals of the restore, and the seconds it took.
    """
    clock = clocks.SystemClock()
    started = clock.monotonic()
    store = repository.open_to_read(folder, clock, budget.MOST_FETCHES)
    manifest = selection.find(store, snapshot)
    blank = not os.path.exists(path)
    if blank:
        targets.BlockTarget.create(path, manifest.disk.size).close()
    with PacedTarget(path) as target:
        found = restore.restore(
            store, manifest, target,
            restore_request.RestoreRequest(
                snapshot=manifest.id, lineage=manifest.lineage, size=0,
                digest='', operation=str(uuid.uuid4()),
                verb=restore_request.CLONE, identity=restore_request.KEEP,
                blank=blank),
            allowed=budget.plan_restore(manifest), clock=clock,
            stop=executor.Stop())
    return {**dataclasses.asdict(found.totals),
            'seconds': clock.monotonic() - started}


def change(image: pathlib.Path, later: pathlib.Path,
           cluster_size: int) -> None:
    """Make an image in part what another is.

    Of the clusters that are different, every so many-th is taken, so that
    those of each part of the disk are among them, until as much has changed
    as :data:`CHANGED` says.

    :raises ValueError: there is not as much that is different.
    """
    with open(image, 'r+b') as old, open(later, 'rb') as new:
        size = os.fstat(old.fileno()).st_size
        wanted = int(size * CHANGED) // cluster_size
        different = [
            offset for offset in range(0, size, cluster_size)
            if os.pread(old.fileno(), cluster_size, offset)
            != os.pread(new.fileno(), cluster_size, offset)]
        if len(different) < wanted:
            raise ValueError(
                f'{len(different)} clusters are different, not {wanted}')
        for number in range(wanted):
            offset = different[number * len(different) // wanted]
            os.pwrite(old.fileno(), os.pread(
                new.fileno(), cluster_size, offset), offset)


def main() -> None:
    """Do it once."""
    parser = argparse.ArgumentParser()
    for name in ('folder', 'snapshot', 'path'):
        parser.add_argument(name)
    args = parser.parse_args()
    print(json.dumps(run(args.folder, args.snapshot, args.path)))


if __name__ == '__main__':
    main()
