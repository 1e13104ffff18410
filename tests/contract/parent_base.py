# SPDX-License-Identifier: Apache-2.0
"""A conductor with a node whose snapshots build upon one another."""
import uuid

from ironic.common import states

from ironic_snapshot import attempt
from ironic_snapshot_core.units import KiB, MiB
from tests.contract import conductor_base
from tests.contract import snapshot_base

KEY = conductor_base.MANIFEST_KEY.encode()
#: Id of a snapshot that there never is.
MISSING = '0c8f1a52-6f0e-4c0b-9b52-3a1f52c1d7aa'


class ParentTestCase(snapshot_base.SnapshotTestCase):
    """A node of which there may be snapshots already."""

    def setUp(self):
        super().setUp()
        self.config(cluster_size=64 * KiB, group='snapshot')
        #: id of each snapshot -> the disk as it was then.
        self.disks = {}

    def take(self, **args):
        """A whole snapshot, from the request to the end."""
        self.request(args)
        self.heartbeat()
        self.heartbeat()
        return self.taken()

    def taken(self):
        """The snapshot that must exist now."""
        self.assertEqual(states.ACTIVE, self.node.provision_state,
                         self.node.last_error)
        self.assert_runs_own_system()
        self.assertEqual(attempt.COMMITTED, self.record.status)
        self.assertEqual([], self.leases())
        self.assert_no_secret()
        copy = self.tmp / f'{self.record.snapshot}.raw'
        copy.write_bytes(self.disk.read_bytes())
        self.disks[self.record.snapshot] = copy
        self.assert_image_is_the_disk(self.record.snapshot)
        return self.record

    def other_node(self, **fields):
        """Go on with another node of the same conductor."""
        self.agent.restart()
        self.node = self.create_node(
            name='node-1', uuid=str(uuid.uuid4()), **fields)

    def change(self, offset=7 * MiB):
        """Something is written to the disk."""
        with self.disk.open('r+b') as file:
            file.seek(offset)
            file.write(b'changed since %d ' % len(self.disks) * 100)

    def delete(self, snapshot):
        """Delete a snapshot as nobody should: whatever builds upon it."""
        found, = (each for each in self.store.list('v1/')
                  if each.name.endswith(f'/{snapshot}/manifest'))
        self.store.delete(found.name)

    def assert_incremental(self, record, parent):
        self.assertEqual(parent, record.result['parent'])
        self.assertNotIn('full_reason', record.result)
        manifest = self.manifest(record)
        self.assertEqual(parent, manifest.parent)
        self.assertIsNone(manifest.full_reason)
        self.assertIn(f'incremental to snapshot {parent}', self.caplog.text)

    def assert_full(self, record, reason):
        self.assertEqual(reason, record.result['full_reason'])
        self.assertNotIn('parent', record.result)
        manifest = self.manifest(record)
        self.assertEqual(reason, manifest.full_reason)
        self.assertIsNone(manifest.parent)
        self.assertEqual({manifest.id},
                         {each.id for each in manifest.attempts})
        self.assertIn(f'full ({reason})', self.caplog.text)

    def manifest(self, record):
        return next(each for each in self.snapshots()
                    if each.id == record.snapshot)
