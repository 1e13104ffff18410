# SPDX-License-Identifier: Apache-2.0
"""Captures of tiny disks that wait for their commit, and life around them.

    world = World(store)
    first = world.take([1, 2, 3])
    intent = world.upload([1, 2, 4], parent=first)
    second = world.commit(intent)
"""

import dataclasses

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import commit
from ironic_snapshot_core import document
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core import manifest
from ironic_snapshot_core import prune
from ironic_snapshot_core import snapshot_reader
from ironic_snapshot_core.store import base
from tests import handmade
from tests.handmade import C
from tests.handmade import LINEAGE

NOW = 1_800_000_000
HOUR = 3600
KEY = b'k' * 32

#: What the manifest has from the report.
_REPORTED = {field.name for field in dataclasses.fields(
    manifest.CaptureReport)} - {'snapshot', 'checkpoints', 'version'}


def cluster(number):
    """Give a content of its own for each number; zeroes for 0."""
    return (b'%d ' % number * C)[:C] if number else bytes(C)


def disk(numbers):
    return b''.join(map(cluster, numbers))


def segment(store, name):
    info = store.stat(name)
    return base.Segment(name, info.size, info.etag)


class World:
    """A store in which snapshots come and go.

    :param clusters: in a pack.
    """

    def __init__(self, store, mac_key=KEY, clusters=2):
        self.store = store
        self.key = mac_key
        self.now = NOW
        self.history = handmade.History(store, clusters=clusters)
        self.sequence = 0
        #: What the disks of snapshots were, by id.
        self.disks = {}

    def upload(self, numbers, parent=None, lineage=LINEAGE, **facts):
        """Store all that a capture stores; give the intent of its commit."""
        made = self.history.capture(disk(numbers), parent, lineage=lineage)
        self.disks[made.id] = disk(numbers)
        return self.intent_of(made, parent, **facts)

    def intent_of(self, made, parent=None, **facts):
        """Take a snapshot back that was made by hand, before its commit."""
        lineage = made.lineage
        self.store.delete(layout.manifest_name(lineage, made.id))
        self.store.delete(layout.image_name(lineage, made.id))
        self.sequence += 1
        moment = manifest.format_time(self.now + self.sequence)
        intent = commit.Intent(
            lineage, made.id, None,
            facts={
                'sequence': self.sequence, 'name': 'x', 'description': '',
                'project': None, 'consistency': 'clean',
                'node': manifest.NodeRecord(lineage.node, None, None),
                'started_at': moment, 'created_at': moment, **facts},
            parent=parent,
            full_reason=None if parent else 'it was asked for')
        return self.report(intent, manifest.CaptureReport(
            snapshot=made.id,
            **{name: getattr(made, name) for name in _REPORTED}))

    def report(self, intent, report):
        """Let the capture report something, maybe a lie."""
        name = layout.attempt_prefix(
            intent.lineage, intent.snapshot) + layout.REPORT
        return dataclasses.replace(intent, report=handmade.put(
            self.store, name, report.to_bytes()))

    def reported(self, intent):
        return manifest.CaptureReport.from_bytes(self.store.get(
            layout.attempt_prefix(intent.lineage, intent.snapshot)
            + layout.REPORT, document.MAX_SIZE))

    def commit(self, intent, store=None, **options):
        return commit.commit(store or self.store, intent, self.key, **options)

    def take(self, numbers, parent=None, lineage=LINEAGE, **facts):
        return self.commit(self.upload(numbers, parent, lineage, **facts))

    def lease(self, intent, expires_in=HOUR):
        """Say that a capture is under way."""
        lease.put(self.store, intent.lineage, lease.Lease(
            intent.snapshot, intent.parent.id if intent.parent else None,
            self.now + expires_in))

    def delete(self, snapshot):
        return prune.delete(self.store, snapshot.lineage, snapshot.id,
                            self.key, self.now)

    def prune(self, grace_s=0):
        return prune.prune(self.store, self.key, self.now, grace_s)

    # What there is

    def names(self, text=''):
        return {info.name for info in self.store.list('v1/')
                if text in info.name}

    def listed(self):
        """Give all snapshots; a damaged one fails."""
        return [entry.manifest for entry in catalogue.entries(
            self.store, self.key)]

    def assert_whole(self, snapshot):
        """Every object is there, and every byte reads back, both ways."""
        content = self.disks[snapshot.id]
        for name in catalogue.objects(snapshot):
            self.store.stat(name)
        reader = snapshot_reader.SnapshotReader(self.store, snapshot)
        assert content == b''.join(
            reader.read_cluster(number)
            for number in range(len(content) // C))
        assert reader.repaired == []
        data = self.store.get(snapshot.image.name, document.MAX_SIZE)
        assert len(data) == snapshot.image.size

    def assert_all_whole(self):
        for snapshot in self.listed():
            self.assert_whole(snapshot)
