# SPDX-License-Identifier: Apache-2.0
"""Snapshots that build upon others, as the conductor sees it."""
import json
from unittest import mock
import uuid

from ironic.common import states
import requests

from ironic_snapshot import attempt
from ironic_snapshot import parent as parents
from ironic_snapshot.targets import swift as swift_target
from ironic_snapshot_core import commit
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core import prune
from ironic_snapshot_core.clock import SystemClock
from ironic_snapshot_core.units import KiB, MiB
from tests.contract import parent_base
from tests.contract import snapshot_base

KEY = parent_base.KEY
MISSING = parent_base.MISSING


class IncrementalTest(parent_base.ParentTestCase):

    def test_stores_only_what_changed(self):
        first = self.take(name='first')
        self.assert_full(first, 'it is the first of its lineage')
        self.assertEqual(0, first.result['shared_bytes'])
        self.change()
        second = self.take(name='second')
        self.assert_incremental(second, first.snapshot)
        self.assertLess(second.result['new_bytes'],
                        first.result['new_bytes'] / 2)
        self.assertGreater(second.result['shared_bytes'], 2 * MiB)
        self.assertEqual([1, 2], [m.sequence for m in self.snapshots()])
        # Each is what the disk was, whatever became of the other.
        prune.delete(self.store, self.lineage, first.snapshot, KEY,
                     SystemClock().time())
        self.assert_image_is_the_disk(second.snapshot)
        self.assertLess(
            len(json.dumps(self.node.driver_internal_info['snapshot'])), 2048)

    def test_what_the_agent_is_told(self):
        self.config(redundancy=7, group='snapshot')
        first = self.take()
        self.change()
        second = self.take()
        for step, parent, reason in zip(
                self.agent.received, (None, first.snapshot),
                ('it is the first of its lineage', None), strict=True):
            args = step['args']
            self.assertEqual(parent, args['parent'] and
                             args['parent']['snapshot'])
            self.assertEqual(reason, args['full_reason'])
            self.assertEqual(7, args['redundancy'])
        granted = [(each['method'], each['prefix'])
                   for each in args['grant']['permissions']]
        own = layout.attempt_prefix(self.lineage, second.snapshot)
        self.assertEqual(
            [('PUT', own), ('GET', own),
             ('GET', f'{self.lineage.prefix}snapshots/{first.snapshot}/'),
             ('GET', layout.attempt_prefix(self.lineage, first.snapshot))],
            granted)

    def test_the_parent_can_be_read_and_nothing_else(self):
        first = self.take(name='first')
        other = self.take(name='other', parent='none')
        self.change()
        self.take(parent=first.snapshot)
        grant = self.agent.received[-1]['args']['grant']
        for name in (layout.manifest_name(self.lineage, first.snapshot),
                     layout.attempt_prefix(self.lineage, first.snapshot)
                     + layout.MAP):
            self.assertEqual(200, self.status(grant, 'GET', name))
            self.assertEqual(401, self.status(grant, 'PUT', name))
            self.assertEqual(401, self.status(grant, 'DELETE', name))
        self.assertEqual(401, self.status(grant, 'GET', layout.manifest_name(
            self.lineage, other.snapshot)))
        self.assertEqual(401, self.status(grant, 'GET', layout.attempt_prefix(
            self.lineage, other.snapshot) + layout.MAP))

    def test_none(self):
        first = self.take()
        second = self.take(parent='none')
        self.assert_full(second, 'asked for')
        self.assertEqual(first.result['new_bytes'],
                         second.result['new_bytes'])
        self.assertEqual(0, second.result['shared_bytes'])

    def test_an_older_one(self):
        first = self.take()
        self.change(3 * MiB)
        self.take()
        self.change(7 * MiB)
        self.assert_incremental(
            self.take(parent=first.snapshot), first.snapshot)

    def test_unchanged_again_and_again(self):
        before = self.take()
        for _snapshot in range(2):
            record = self.take()
            self.assert_incremental(record, before.snapshot)
            self.assertLess(record.result['new_bytes'], 64 * KiB)
            before = record

    def test_another_cluster_size(self):
        first = self.take()
        second = self.take(cluster_size=128 * KiB)
        self.assert_full(
            second, f'the latest snapshot {first.snapshot} has clusters of '
            '65536 bytes instead of 131072')
        # And back to the one before.
        self.assert_incremental(self.take(), first.snapshot)

    def test_damaged_manifest(self):
        first = self.take()
        name = layout.manifest_name(self.lineage, first.snapshot)
        data = bytearray(self.store.get(name, MiB))
        data[50] ^= 1
        self.store.put(name, data)
        self.request({})
        self.heartbeat()
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        reason = self.record.result['full_reason']
        self.assertIn(f'the latest snapshot {first.snapshot} is damaged',
                      reason)
        self.assertIn(f'full ({reason})', self.caplog.text)

    def test_the_agent_passes_it_over(self):
        first = self.take()
        self.change()
        name = layout.attempt_prefix(self.lineage, first.snapshot) + 'map'
        size = self.store.stat(name).size
        self.store.put(name, b'x' * size)
        second = self.take()
        self.assertIn(f'begins: incremental to snapshot {first.snapshot}',
                      self.caplog.text)
        self.assert_full(second, second.result['full_reason'])
        self.assertIn('map is damaged', second.result['full_reason'])

    def test_two_in_one_request(self):
        step = {'interface': 'deploy', 'step': 'snapshot', 'args': {}}
        self.call('do_node_service', [step, step])
        for _heartbeat in range(3):
            self.heartbeat()
        second = self.taken()
        self.assert_incremental(second, self.snapshots()[0].id)


class LineageTest(parent_base.ParentTestCase):
    """A new deployment begins anew, but may name what was before."""

    def setUp(self):
        super().setUp()
        # Nova is told of nodes that have an instance.
        self.config(send_power_notifications=False, group='nova')

    def assert_begins_anew(self, first):
        second = self.take(name='anew')
        self.assertNotEqual(first.generation, second.generation)
        self.assertEqual(1, second.sequence)
        self.assert_full(second, 'it is the first of its lineage')

    def test_rebuild(self):
        first = self.take()
        self.prepare_deployment()
        self.node.provision_state = states.ACTIVE
        self.node.save()
        self.assert_begins_anew(first)

    def test_undeployed(self):
        first = self.take()
        self.end_deployment()
        self.assert_begins_anew(first)

    def test_new_instance(self):
        first = self.take()
        self.node.instance_uuid = str(uuid.uuid4())
        self.node.save()
        self.assert_begins_anew(first)

    def test_earlier_deployment_is_named(self):
        first = self.take()
        self.node.instance_uuid = str(uuid.uuid4())
        self.node.save()
        self.change()
        second = self.take(parent=first.snapshot)
        self.assertNotEqual(first.generation, second.generation)
        self.assert_incremental(second, first.snapshot)
        self.assertGreater(second.result['shared_bytes'], 2 * MiB)

    def test_another_node_is_named(self):
        first = self.take()
        self.other_node(owner=None, lessee=None)
        # Otherwise, nothing comes of it.
        self.assert_full(self.take(), 'it is the first of its lineage')
        self.change()
        second = self.take(parent=first.snapshot)
        self.assert_incremental(second, first.snapshot)
        self.assertGreater(second.result['shared_bytes'], 2 * MiB)
        prefixes = [each['prefix'] for each in self.agent.received[-1][
            'args']['grant']['permissions']]
        self.assertEqual(2, len([each for each in prefixes
                                 if self.node.uuid not in each]))


class RefusedTest(parent_base.ParentTestCase):
    """A parent that is named and does not do: the node is not touched."""

    def assert_refused(self, text, **args):
        with self.refused(text, 'snapshot'):
            self.request(args)

    def test_missing(self):
        self.assert_refused(
            f'[parent-unsuitable] Snapshot {MISSING} cannot be the parent: '
            'there is no such snapshot.', parent=MISSING)

    def test_no_id(self):
        self.assert_refused('argument "parent" is \'latest\'',
                            parent='latest')

    def test_other_project(self):
        """It looks as if it were not there, even in the same container."""
        first = self.take()
        self.node.owner = 'a' * 32
        self.node.save()
        with mock.patch.object(
                swift_target, 'for_node', lambda node: swift_target.named(
                    first.container)):
            self.assert_refused(
                f'Snapshot {first.snapshot} cannot be the parent: there is '
                'no such snapshot.', parent=first.snapshot)
        self.assert_refused('there is no such snapshot.',
                            parent=first.snapshot)

    def test_other_cluster_size_and_compression(self):
        first = self.take()
        self.assert_refused('65536 bytes instead of 131072',
                            parent=first.snapshot, cluster_size=128 * KiB)
        self.assert_refused('zstd, not zlib', parent=first.snapshot,
                            compression='zlib')

    def test_degraded(self):
        first = self.take()
        with mock.patch('ironic_snapshot_core.manifest.Manifest.degraded',
                        True):
            self.assert_refused('is degraded', parent=first.snapshot)
            self.change()
            second = self.take(parent=first.snapshot, allow_bad_sectors=True)
        self.assert_incremental(second, first.snapshot)


class DeletedTest(parent_base.ParentTestCase):
    """The parent goes away, at each point of the way."""

    def setUp(self):
        super().setUp()
        self.hold_clock()

    def test_before_the_start_when_named(self):
        first = self.take()
        second = self.take()
        self.request({'parent': first.snapshot})
        self.delete(first.snapshot)
        self.heartbeat()
        self.assert_failed(
            f'[parent-unsuitable] Snapshot {first.snapshot}',
            before=[second.snapshot])

    def test_before_the_start(self):
        first = self.take()
        second = self.take()
        self.request({})
        self.delete(second.snapshot)
        self.heartbeat()
        self.heartbeat()
        self.assert_incremental(self.taken(), first.snapshot)

    def test_the_last_one_before_the_start(self):
        first = self.take()
        self.request({})
        self.delete(first.snapshot)
        self.heartbeat()
        self.heartbeat()
        self.assert_full(self.taken(), 'it is the first of its lineage')

    def test_after_the_choice(self):
        """Before anybody could see the lease."""
        first = self.take()
        second = self.take()
        leases = []

        def put(store, lineage, this):
            if not leases:
                self.delete(second.snapshot)
            leases.append(this)
            return write(store, lineage, this)
        write = lease.put
        with mock.patch.object(lease, 'put', put):
            third = self.take()
        self.assertEqual([second.snapshot, first.snapshot],
                         [each.parent for each in leases])
        self.assert_incremental(third, first.snapshot)

    def test_after_each_choice(self):
        first = self.take()
        gone = errors.ParentGone('x', first.snapshot, 'is gone again')
        with mock.patch.object(parents.Parent, 'read', side_effect=gone):
            self.request({})
            self.heartbeat()
        self.assert_failed('[parent-gone]', before=[first.snapshot])

    def test_not_while_the_lease_lasts(self):
        first = self.take()
        self.change()
        self.agent.run = lambda args: self.slice(args, 1)
        self.request({})
        self.heartbeat()
        found = lease.get(self.store, self.lineage, self.record.snapshot)
        self.assertEqual(first.snapshot, found.parent)
        with self.assertRaises(errors.SnapshotInUse):
            prune.delete(self.store, self.lineage, first.snapshot, KEY,
                         self.clock.time())
        # Written anew, it still names the parent.
        self.clock.advance(3000)
        self.heartbeat()
        again = lease.get(self.store, self.lineage, self.record.snapshot)
        self.assertGreater(again.expires, found.expires)
        self.assertEqual(first.snapshot, again.parent)
        self.agent.run = self.capture
        self.heartbeat()
        self.heartbeat()
        second = self.taken()
        self.assert_incremental(second, first.snapshot)
        prune.delete(self.store, self.lineage, first.snapshot, KEY,
                     self.clock.time())
        self.assert_image_is_the_disk(second.snapshot)

    def test_during_the_capture(self):
        first = self.take()
        self.agent.run = lambda args: self.slice(args, 1)
        self.request({})
        self.heartbeat()
        self.delete(first.snapshot)
        sent = len(self.agent.received)
        self.heartbeat()
        self.assert_failed(f'its parent {first.snapshot} is not there any '
                           'more')
        self.assertIn('[parent-gone]', self.node.last_error)
        # The agent has not got another slice.
        self.assertEqual(sent, len(self.agent.received))

    def test_before_the_commit(self):
        first = self.take()
        self.change()
        self.request({})
        self.heartbeat()
        self.delete(first.snapshot)
        self.heartbeat()
        self.assert_failed('[parent-gone]')

    def test_at_the_end_of_the_commit(self):
        first = self.take()
        self.change()
        self.request({})
        self.heartbeat()

        def dying(store, *args):
            with mock.patch.object(type(store), 'join', join):
                return work(store, *args)

        def join(store, *args):
            joined(store, *args)
            self.delete(first.snapshot)
        work, joined = commit.commit, type(self.store).join
        with mock.patch.object(commit, 'commit', dying):
            self.heartbeat()
        self.assert_failed('[parent-gone]')

    def test_after_the_commit(self):
        """A conductor that repeats its commit does not miss it."""
        first = self.take()
        self.change()
        self.request({})
        self.heartbeat()
        note = attempt.Attempt.note

        def die(this, node):
            if this.status == attempt.COMMITTED:
                raise snapshot_base.Died
            note(this, node)
        with mock.patch.object(attempt.Attempt, 'note', die):
            self.assertRaises(snapshot_base.Died, self.heartbeat)
        self.restart_conductor()
        self.assertEqual(attempt.RUNNING, self.record.status)
        self.delete(first.snapshot)
        self.heartbeat()
        self.assert_incremental(self.taken(), first.snapshot)

    def test_restored_meanwhile_as_another(self):
        first = self.take()
        self.agent.run = lambda args: self.slice(args, 1)
        self.request({})
        self.heartbeat()
        name = layout.manifest_name(self.lineage, first.snapshot)
        self.store.put(name, self.store.get(name, MiB).replace(
            b'"sequence":1', b'"sequence":9'))
        self.heartbeat()
        self.assertIn('is not what it was', self.node.last_error)
        self.assert_runs_own_system()


class TakeoverTest(parent_base.ParentTestCase):

    def test_another_conductor_goes_on_with_the_same_parent(self):
        first = self.take()
        self.change()
        self.agent.run = lambda args: self.slice(args, 1)
        self.request({})
        self.heartbeat()
        self.replace_conductor()
        self.config(redundancy=3, cluster_size=MiB, group='snapshot')
        self.heartbeat()
        self.agent.run = self.capture
        self.heartbeat()
        self.heartbeat()
        second = self.taken()
        self.assert_incremental(second, first.snapshot)
        asked = [step['args'] for step in self.agent.received[1:]]
        self.assertEqual(3, len(asked))
        for args in asked:
            self.assertEqual(asked[0]['parent'], args['parent'])
            self.assertEqual(0, args['redundancy'])
            self.assertEqual(
                [each['prefix'] for each in asked[0]['grant']['permissions']],
                [each['prefix'] for each in args['grant']['permissions']])

    def test_conductor_dies_when_it_has_chosen(self):
        first = self.take()
        write = lease.put

        def die(*args):
            write(*args)
            raise snapshot_base.Died
        self.request({})
        with mock.patch.object(lease, 'put', die):
            self.assertRaises(snapshot_base.Died, self.heartbeat)
        self.restart_conductor()
        self.look_for_orphans()
        # The lease must not hold the parent for nothing.
        self.assert_failed('the conductor stopped', before=[first.snapshot])

    def test_agent_restarts(self):
        first = self.take()
        self.change()
        self.agent.run = lambda args: self.slice(args, 1)
        self.request({})
        self.heartbeat()
        self.agent.restart()
        self.agent.run = self.capture
        self.heartbeat()
        self.heartbeat()
        second = self.taken()
        self.assertEqual(2, second.tries)
        self.assert_incremental(second, first.snapshot)

    def test_cost_of_a_slice(self):
        """What a slice asks of Swift: the container, and the parent."""
        self.take()
        self.agent.run = lambda args: self.slice(args, 1)
        self.request({})
        self.heartbeat()
        self.agent.run = lambda args: self.slice(args, 2)
        with mock.patch.object(requests.Session, 'send', autospec=True,
                               side_effect=requests.Session.send) as send:
            self.heartbeat()
        self.assertEqual(
            ['GET', 'HEAD'],
            sorted(call.args[1].method for call in send.call_args_list))
