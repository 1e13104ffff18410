# SPDX-License-Identifier: Apache-2.0
"""A restore in a process of its own: to be killed, or to be measured.

Restores from a directory to a file or device, and prints one line of JSON.
"""

import argparse
import json
import os
import signal

from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware.disk import target as targets
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import units
from ironic_snapshot_core.store import directory
from tests import restoring
from tests.contract import capture_process


class Killed(targets.BlockTarget):
    """A target that ends the process at one of its operations."""

    #: How many operations are done before.
    left = -1

    def write(self, offset, data):
        self._step()
        super().write(offset, data)

    def flush(self):
        self._step()
        super().flush()

    def _step(self):
        if not self.left:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('folder')
    parser.add_argument('path')
    parser.add_argument('--blank', action='store_true')
    parser.add_argument('--kill-at', type=int, default=-1)
    parser.add_argument('--workers', type=int, default=2)
    args = parser.parse_args()
    store = directory.DirectoryStore(args.folder)
    (name,) = (
        info.name
        for info in store.list('v1/')
        if info.name.endswith(layout.MANIFEST)
    )
    manifest = manifests.Manifest.from_bytes(
        store.get(name, units.MiB), None, verified=True
    )
    baseline, _ = capture_process.resident()
    with Killed(args.path) as target:
        target.left = args.kill_at
        found = restoring.run(
            store,
            manifest,
            target,
            workers=args.workers,
            blank=args.blank,
        )
    _, peak = capture_process.resident()
    print(
        json.dumps(
            {
                'baseline': baseline,
                'peak': peak,
                'bound': budget.plan_restore(
                    manifest, workers=args.workers
                ).memory,
                'operations': args.kill_at - target.left,
                'timings': found.timings,
                'written_bytes': found.totals.written_bytes,
            }
        )
    )


if __name__ == '__main__':
    main()
