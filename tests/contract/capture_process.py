# SPDX-License-Identifier: Apache-2.0
"""A capture in a process of its own, to see what it takes.

Captures a file into a store that forgets everything, slowly if told to, and
prints one line of JSON.
"""

import argparse
import json
import threading
import time

from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import capture  # noqa: F401  counts as baseline
from ipa_snapshot_hardware.disk import block
from ironic_snapshot_core import errors
from ironic_snapshot_core import units
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import memory
from tests.contract import capture_requests


class NullStore(memory.MemoryStore):
    """Takes everything, keeps nothing."""

    def __init__(self, delay_s):
        super().__init__()
        self._delay_s = delay_s

    def put(self, name, data):
        time.sleep(self._delay_s)
        return base.ObjectInfo(name, len(data), base.md5(data))

    def stat(self, name):
        raise errors.ObjectMissing('stat', name, 'nothing is kept')


class Heart(threading.Thread):
    """Beats every 50 ms; remembers its latest beat."""

    def __init__(self):
        super().__init__(daemon=True)
        self.worst_s = 0.0
        self._ended = threading.Event()

    def run(self):
        last = time.monotonic()
        while not self._ended.wait(0.05):
            now = time.monotonic()
            self.worst_s = max(self.worst_s, now - last - 0.05)
            last = now

    def stop(self):
        self._ended.set()
        self.join()


def resident():
    """Memory of this process, now and at most, in bytes.

    Not from getrusage: that remembers the parent's size before exec.
    """
    with open('/proc/self/status') as file:
        values = dict(line.split(':', 1) for line in file)
    return tuple(
        int(values[name].split()[0]) * units.KiB for name in ('VmRSS', 'VmHWM')
    )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument('path')
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--memory-limit', type=int, default=0)
    parser.add_argument('--cluster-size', type=int, default=262144)
    parser.add_argument('--pack-size', type=int, default=64 * units.MiB)
    parser.add_argument('--codec', default='zstd')
    parser.add_argument('--delay', type=float, default=0)
    args = parser.parse_args()
    with block.BlockDisk(args.path) as disk:
        asked = capture_requests.wanted(
            cluster_size=args.cluster_size,
            pack_size=args.pack_size,
            codec=args.codec,
            codec_level=None,
        )
        allowed = budget.plan(
            disk_size=disk.size,
            cluster_size=asked.cluster_size,
            pack_size=asked.pack_size,
            codec=asked.codec,
            workers=args.workers,
            memory_limit=args.memory_limit,
        )
        heart = Heart()
        heart.start()
        baseline, _ = resident()
        cpu = time.process_time()
        found = capture_requests.run(
            disk,
            NullStore(args.delay),
            allowed=allowed,
            cluster_size=args.cluster_size,
            pack_size=args.pack_size,
            codec=args.codec,
            codec_level=None,
        )
        cpu = time.process_time() - cpu
        _, most = resident()
        heart.stop()
    print(
        json.dumps(
            {
                'baseline': baseline,
                'peak': most,
                'bound': allowed.memory,
                'workers': allowed.workers,
                'uploads': allowed.uploads,
                'pack_size': allowed.pack_size,
                'late_heartbeat_s': round(heart.worst_s, 3),
                'cpu_s': round(cpu, 2),
                'timings': found.report.timings,
                'virtual_bytes': found.report.totals.virtual_bytes,
                'stored_bytes': found.report.totals.stored_bytes,
            }
        )
    )


if __name__ == '__main__':
    main()
