# SPDX-License-Identifier: Apache-2.0
"""A line of captures, each upon the one before, and what befalls them."""

from ipa_snapshot_hardware.disk import memory as memory_disk
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import units
from ironic_snapshot_core.store import memory as memory_store
from tests.contract import capture_requests as requests

MiB = units.MiB


class Lineage:
    """Snapshots of one disk, each upon the one before."""

    def __init__(self, **options):
        self.store = memory_store.MemoryStore()
        self.options = {'pack_size': MiB} | options
        self.count = 0
        self.parent = None

    def capture(self, content, **changes):
        self.count += 1
        options = self.options | changes
        captured = requests.run_child(
            memory_disk.MemoryDisk(content),
            self.store,
            options.pop('parent', self.parent),
            self.count,
            **options,
        )
        self.report = captured.report
        self.parent = requests.commit(
            self.store, captured.report, sequence=self.count
        )
        self.manifest = manifests.Manifest.from_bytes(
            self.store.get(
                layout.manifest_name(
                    requests.LINEAGE, self.report.snapshot
                ),
                MiB,
            ),
            b'a key',
        )
        assert requests.read_back(self.store, captured.report) == content
        return captured

    def objects(self):
        return requests.objects(
            self.store, requests.prefix_of(self.report)
        )


def change(content, offset, data):
    return content[:offset] + data + content[offset + len(data) :]


class BusyClock(clocks.ManualClock):
    """Lets a minute pass whenever somebody looks."""

    def monotonic(self):
        self.advance(61)
        return super().monotonic()


class Failing(memory_store.MemoryStore):
    """Fails when told to."""

    fail_at = None

    def put(self, name, data):
        if self.fail_at and name.endswith(self.fail_at):
            raise errors.StoreFull('put', name, 'it was told to')
        return super().put(name, data)


def checkpoints(lineage, number):
    prefix = layout.attempt_prefix(
        requests.LINEAGE, requests.snapshot_id(number)
    )
    return [
        info.name
        for info in lineage.store.list(prefix)
        if 'checkpoint-' in info.name
    ]
