# SPDX-License-Identifier: Apache-2.0
"""Snapshots that are restored, as the conductor sees it."""
import json
from unittest import mock

from ironic.common import exception
from ironic.common import states
from ironic.drivers.modules import agent_base
from ironic.drivers.modules import fake

from ironic_snapshot import attempt
from ironic_snapshot import record
from ironic_snapshot import restore_record
from ironic_snapshot import service
from ironic_snapshot.targets import swift as swift_target
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import errors
from ironic_snapshot_core import history
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core import prune
from ironic_snapshot_core.clock import SystemClock
from ironic_snapshot_core.units import MiB
from tests.contract import node_disk
from tests.contract import parent_base
from tests.contract import restore_base

KEY = parent_base.KEY
MISSING = parent_base.MISSING
HELD = 'the node is held and not booted'


class ActiveTestCase(restore_base.RestoreTestCase):
    """A node with one snapshot, the disk of which has changed since."""

    def setUp(self):
        super().setUp()
        self.first = self.take(name='first').snapshot
        self.change()
        self.let_restore(self.capture)
        self.agent.restart()
        del self.agent.received[:]
        del self.power[:]

    # What a user and an agent do

    def ask(self, **args):
        """Request the step; the first snapshot by default."""
        self.request({'snapshot': self.first, 'confirm': 'node-0', **args},
                     step='restore')

    def interrupt(self):
        """A restore that leaves the disk inconsistent."""
        self.begin(self.failing('Service step failed: [restore-interrupted] '
                                'Disk /dev/sda: no answer'))
        self.heartbeat()
        self.assert_held('[restore-interrupted]')

    # What must hold

    def restores(self):
        return [each for _, each in history.entries(self.store, KEY)]

    def assert_is(self, snapshot):
        """The disk is what it was when this snapshot was taken."""
        self.assertEqual(self.disks[snapshot].read_bytes(),
                         self.disk.read_bytes())

    def assert_restored(self, snapshot=None):
        """The disk is the snapshot; the tenant has the node."""
        snapshot = snapshot or self.first
        self.assertEqual(states.ACTIVE, self.node.provision_state,
                         self.node.last_error)
        self.assert_runs_own_system()
        self.assertIsNone(self.node.maintenance_reason)
        self.assertEqual(restore_record.RESTORED, self.restoration.status)
        self.assertEqual(snapshot, self.restoration.snapshot)
        self.assertFalse(restore_record.is_inconsistent(self.node))
        self.assertFalse(attempt.is_prepared(self.node))
        self.assertEqual([], self.leases())
        self.assert_is(snapshot)
        self.assert_no_secret()

    def assert_given_back(self, text, status=record.FAILED):
        """Nothing was written; the tenant has the node, and an error."""
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertIn(text, self.node.last_error or '')
        self.assertNotIn('\n', self.node.last_error)
        self.assertNotIn(HELD, self.node.last_error)
        self.assertEqual(status, self.restoration.status)
        self.assertFalse(restore_record.is_inconsistent(self.node))
        self.assertFalse(attempt.is_prepared(self.node))
        self.assert_runs_own_system()
        self.assertEqual([], self.leases())
        self.assertEqual([], self.restores())
        self.assert_no_secret()

    def assert_held(self, text):
        """Not booted, and everybody is told why and what to do."""
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertIn(text, self.node.last_error or '')
        self.assertNotIn('\n', self.node.last_error)
        self.assertTrue(self.restoration.snapshot)
        for place in (self.node.last_error, self.node.maintenance_reason):
            self.assertIn(self.restoration.snapshot, place)
            self.assertIn(HELD, place)
            self.assertIn('Run the service step deploy.restore again', place)
            self.assertIn('undeploy', place)
        self.assertEqual(1, self.node.last_error.count(HELD))
        self.assertNotIn('instance', self.power)
        self.assertTrue(restore_record.is_inconsistent(self.node))
        self.assertFalse(self.restoration.open)
        # Neither Ironic nor a user need undo anything before they go on.
        self.assertFalse(self.node.maintenance)
        self.assertIsNone(self.node.fault)
        self.assertIsNone(self.node.reservation)
        self.assertEqual([], self.leases())
        self.assert_no_secret()

    def assert_can_be_repeated(self):
        """The way out of a hold."""
        self.agent.restart()
        self.begin(self.do_restore)
        self.heartbeat()
        self.assert_restored()


class SuccessTest(ActiveTestCase):

    def test_rollback(self):
        self.ask()
        self.assert_waits()
        self.assertEqual(
            [states.SOFT_POWER_OFF, 'ramdisk', states.POWER_ON], self.power)
        self.heartbeat()
        self.assertEqual(record.RUNNING, self.restoration.status)
        self.heartbeat()
        self.assert_restored()
        self.assertIsNone(self.node.last_error)
        totals = self.restoration.result['totals']
        self.assertEqual(node_disk.SIZE, totals['virtual_bytes'])
        self.assertEqual(1, totals['differing_clusters'])
        self.assertGreater(totals['written_bytes'], 0)
        self.assertEqual(
            ('rollback', 'keep', 0, False, []), tuple(
                self.restoration.result[name] for name in (
                    'verb', 'identity', 'repaired', 'degraded', 'reset')))
        self.assertLess(
            len(json.dumps(self.node.driver_internal_info['restore'])), 2048)
        # The snapshot is what it was, and so is its record.
        self.assertEqual(attempt.COMMITTED, self.record.status)
        self.assert_image_is_the_disk(self.first)

    def test_what_the_agent_is_told(self):
        self.config(bandwidth_limit=7, slice_interval=20, workers=3,
                    memory_limit=100, group='snapshot')
        self.begin(self.report(False), io_priority='low', identity='reset',
                   bandwidth_limit=5, target_serial='S1')
        self.config(workers=5, group='snapshot')
        self.beat(self.do_restore)
        first, second = (step['args'] for step in self.agent.received)
        for step in self.agent.received:
            self.assertEqual('restore', step['step'])
        grant = first.pop('grant')
        self.assertNotEqual(grant, second.pop('grant'))
        self.assertEqual(first, second)
        size, digest = digests.identify(self.store.get(
            layout.manifest_name(self.lineage, self.first), MiB))
        self.assertEqual({
            'protocol': 1, 'snapshot': self.first,
            'operation': self.restoration.operation,
            'lineage': {'node': self.node.uuid,
                        'generation': self.record.generation},
            'manifest': {'size': size, 'digest': digest},
            'verb': 'rollback', 'identity': 'reset', 'target_serial': 'S1',
            'workers': 3, 'memory_limit': 100 * MiB,
            'bandwidth_limit': 5 * MiB, 'io_priority': 'low',
            'slice_seconds': 20}, first)
        self.assertEqual(
            [('GET', layout.snapshot_prefix(self.lineage, self.first)),
             ('GET', layout.attempt_prefix(self.lineage, self.first))],
            [(each['method'], each['prefix'])
             for each in grant['permissions']])

    def test_the_snapshot_can_be_read_and_nothing_else(self):
        other = self.take(name='other', parent='none').snapshot
        self.agent.restart()
        self.begin(self.report(False))
        grant = self.agent.received[-1]['args']['grant']
        name = layout.manifest_name(self.lineage, self.first)
        self.assertEqual(200, self.status(grant, 'GET', name))
        for method in ('PUT', 'DELETE'):
            self.assertEqual(401, self.status(grant, method, name))
        self.assertEqual(401, self.status(grant, 'GET', layout.manifest_name(
            self.lineage, other)))

    def test_nothing_differs(self):
        self.disk.write_bytes(self.disks[self.first].read_bytes())
        self.begin()
        self.heartbeat()
        self.assert_restored()
        self.assertEqual(
            0, self.restoration.result['totals']['written_bytes'])

    def test_by_name_and_uuid(self):
        self.begin(snapshot='first', confirm=self.node.uuid)
        self.heartbeat()
        self.assert_restored()

    def test_several_slices(self):
        self.begin(self.report(False))
        first = self.restoration
        self.beat(self.report(True, phase='write', percent=60))
        self.assert_waits()
        self.assertFalse(self.restoration.inconsistent)
        self.beat(self.do_restore)
        self.assertTrue(self.restoration.inconsistent)
        self.assertEqual(
            ('write', 60, 2), (self.restoration.progress.phase,
                               self.restoration.progress.percent,
                               self.restoration.progress.slices))
        self.assertEqual(first.operation, self.restoration.operation)
        self.heartbeat()
        self.assert_restored()

    def test_hard_shutdown(self):
        self.ask(shutdown='hard')
        self.assertEqual(states.POWER_OFF, self.power[0])

    def test_it_is_written_down(self):
        self.begin()
        self.heartbeat()
        found, = self.restores()
        self.assertEqual(
            (self.restoration.operation, self.first, self.lineage,
             self.node.uuid, 'rollback', 'keep', None),
            (found.operation, found.snapshot, found.lineage,
             found.node.uuid, found.verb, found.identity, found.before))
        self.assertEqual(self.restoration.result['totals'], found.totals)
        # It stays as long as the lineage does.
        now = SystemClock().time()
        prune.prune(self.store, KEY, now, 0)
        self.assertEqual([found], self.restores())
        prune.delete(self.store, self.lineage, self.first, KEY, now)
        prune.prune(self.store, KEY, now, 0)
        self.assertEqual([], list(self.store.list('v1/')))

    def test_it_cannot_be_written_down(self):
        self.begin()
        with mock.patch.object(history, 'put', side_effect=errors.StoreFull(
                'put', 'x', 'no room', 507)):
            self.heartbeat()
        self.assert_restored()
        self.assertIn('will not be listed', self.caplog.text)

    def test_degraded(self):
        self.begin(lambda args: {**self.do_restore(args), 'degraded': True})
        self.heartbeat()
        self.assert_restored()
        self.assertIs(True, self.restoration.result['degraded'])
        self.assertIn('which is degraded', self.caplog.text)

    def test_what_the_agent_says_is_cut_down(self):
        self.begin(lambda args: {
            **self.do_restore(args), 'identity': ['a\n' * 999] * 999,
            'seconds': 'x', 'repaired': -1,
            'totals': {'written_bytes': 'y', 'other': 1}})
        self.heartbeat()
        self.assert_restored()
        shown = self.node.driver_internal_info['restore']
        self.assertLess(len(json.dumps(shown)), 6000)
        self.assertEqual(0, shown['result']['totals']['written_bytes'])
        self.assertNotIn('other', shown['result']['totals'])

    def test_restore_and_snapshot_in_one_request(self):
        steps = [{'interface': 'deploy', 'step': 'restore',
                  'args': {'snapshot': 'first', 'confirm': 'node-0'}},
                 {'interface': 'deploy', 'step': 'snapshot', 'args': {}}]
        self.call('do_node_service', steps)
        for _heartbeat in range(3):
            self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertEqual(restore_record.RESTORED, self.restoration.status)
        self.assert_incremental(self.record, self.first)
        self.assertEqual(0, self.record.result['new_bytes'])


class ParentAfterwardsTest(ActiveTestCase):
    """The disk is the restored snapshot; so what follows builds upon it."""

    def test_lineage_branches(self):
        second = self.take(name='second').snapshot
        self.agent.restart()
        self.begin()
        self.heartbeat()
        self.assert_restored()
        self.change(3 * MiB)
        self.agent.restart()
        third = self.take(name='third')
        self.assert_incremental(third, self.first)
        self.assertEqual(3, third.sequence)
        # And from there on as ever.
        self.agent.restart()
        self.assert_incremental(self.take(), third.snapshot)
        self.assertNotEqual(second, third.snapshot)

    def test_it_is_gone(self):
        second = self.take(name='second').snapshot
        self.agent.restart()
        self.begin()
        self.heartbeat()
        prune.delete(self.store, self.lineage, self.first, KEY,
                     SystemClock().time())
        self.agent.restart()
        self.assert_incremental(self.take(), second)
        self.assertIn('was restored, but', self.caplog.text)

    def test_another_is_named(self):
        second = self.take(name='second').snapshot
        self.agent.restart()
        self.begin()
        self.heartbeat()
        self.agent.restart()
        self.assert_incremental(self.take(parent=second), second)


class BeforeTest(ActiveTestCase):
    """A snapshot of the disk as it is comes first."""

    def test_taken(self):
        changed = self.disk.read_bytes()
        self.begin(before_restore='just in case')
        self.assertEqual(restore_record.CAPTURING, self.restoration.status)
        self.assertEqual(['snapshot'],
                         [step['step'] for step in self.agent.received])
        self.heartbeat()
        self.assert_waits()
        self.assertEqual(record.RUNNING, self.restoration.status)
        before = self.record
        self.assertEqual('just in case', before.name)
        self.heartbeat()
        self.assert_restored()
        self.assertEqual(before.snapshot, self.restoration.before)
        self.assertEqual([before.snapshot],
                         [each.before for each in self.restores()])
        self.assert_incremental(before, self.first)
        copy = self.tmp / 'changed.raw'
        copy.write_bytes(changed)
        self.assert_image_is_the_disk(before.snapshot, copy)
        # And back again.
        self.agent.restart()
        self.begin(snapshot='just in case')
        self.heartbeat()
        self.assertEqual(changed, self.disk.read_bytes())

    def test_fails(self):
        self.agent.run = self.failing('[disk-read-error] sectors')
        self.begin(before_restore=True)
        self.heartbeat()
        self.assert_given_back('[disk-read-error] sectors')
        self.assertEqual(attempt.FAILED, self.record.status)

    def test_agent_is_lost_meanwhile(self):
        self.agent.run = lambda args: None
        self.begin(before_restore=True)
        self.agent.restart()
        self.let_restore(self.capture)
        for _heartbeat in range(3):
            self.heartbeat()
        self.assert_restored()
        self.assertEqual(2, self.record.tries)

    def test_takes_long(self):
        """The snapshot to restore is held meanwhile."""
        self.agent.run = lambda args: self.slice(args, int(self.clock.time()))
        self.begin(before_restore=True)
        for _slice in range(3):
            self.beat(seconds=3000)
            self.assert_waits()
            for found in lease.entries(self.store):
                self.assertFalse(found[1].expired(self.clock.time() + 3000))
                self.assertEqual(self.first, found[1].parent)
        self.assertEqual(2, len(self.leases()))

    def test_swift_is_down_between_the_two(self):
        self.begin(before_restore=True)
        with self.without_grants():
            for _heartbeat in range(2):
                self.beat()
                self.assert_waits()
        self.assertEqual(restore_record.BEGUN, self.restoration.status)
        self.beat()
        self.assertEqual(record.RUNNING, self.restoration.status)
        self.beat()
        self.assert_restored()
        self.assertEqual(2, len(self.agent.received))

    def test_abort_meanwhile(self):
        self.agent.run = lambda args: self.slice(args, 1)
        self.begin(before_restore=True)
        self.abort()
        self.assert_waits()
        self.heartbeat()
        self.assert_given_back('aborted on request', record.ABORTED)
        self.assertEqual(attempt.ABORTED, self.record.status)

    def test_conductor_dies_before_it_begins(self):
        self.ask(before_restore=True)
        self.die_at(service, 'start')
        self.look_for_orphans()
        for _heartbeat in range(3):
            self.heartbeat()
        self.assert_restored()
        self.assertTrue(self.restoration.before)


class RefusedTest(ActiveTestCase):
    """What is wrong is said before the node is touched."""

    def assert_refused(self, text, **args):
        with self.refused(text, 'restore'):
            self.ask(**args)

    def test_arguments(self):
        self.assert_refused('"confirm" is not the name', confirm='node-1')
        self.assert_refused('unknown argument \'path\'', path='/dev/sda')
        self.assert_refused('[snapshot-missing]', snapshot=MISSING)
        self.assert_refused('[snapshot-missing]', snapshot='golden')

    def test_not_confirmed(self):
        del self.power[:]
        self.request({'snapshot': self.first}, step='restore')
        self.assertIn('argument \'confirm\' is missing', self.node.last_error)
        self.assertEqual([], self.power)

    def test_ambiguous_name(self):
        second = self.take(name='first').snapshot
        self.assert_refused(self.first, snapshot='first')
        self.assert_refused(second, snapshot='first')
        self.assert_refused('[snapshot-ambiguous]', snapshot='first')

    def test_damaged(self):
        pack, = (each.name for each in self.store.list('v1/')
                 if each.name.endswith('/pack-000001'))
        data = self.store.get(pack, 64 * MiB)
        self.store.delete(pack)
        self.assert_refused('[snapshot-unsuitable]')
        self.store.put(pack, data)
        manifest = layout.manifest_name(self.lineage, self.first)
        data = bytearray(self.store.get(manifest, MiB))
        data[50] ^= 1
        self.store.put(manifest, data)
        self.assert_refused('is damaged')

    def test_condemned(self):
        with self.condemned('/pack-000001'):
            self.assert_refused('about to delete')

    def test_other_project(self):
        container = self.container
        self.node.owner = 'a' * 32
        self.node.save()
        self.assert_refused('[snapshot-missing]')
        with mock.patch.object(
                swift_target, 'for_node',
                lambda node: swift_target.named(container)):
            self.assert_refused('[snapshot-missing]')
            self.assert_refused('[snapshot-missing]', snapshot='first')

    def test_boots_from_a_volume(self):
        with self.booting_from_a_volume():
            self.assert_refused('boots from a volume')

    def test_ramdisk_of_an_earlier_release(self):
        self.agent.steps = {'SnapshotHardwareManager': [
            {'interface': 'deploy', 'step': 'snapshot', 'priority': 0}]}
        self.ask()
        self.heartbeat()
        self.assert_given_back('no hardware manager for deploy.restore')

    def test_without_a_ramdisk(self):
        self.call('do_node_service', [
            {'interface': 'deploy', 'step': 'restore',
             'args': {'snapshot': 'first', 'confirm': 'node-0'}}],
            disable_ramdisk=True)
        self.assertIn('disable_ramdisk', self.node.last_error)
        self.assertEqual([], self.power)


class AnotherNodeTest(ActiveTestCase):
    """A snapshot of another node, named by its id."""

    def setUp(self):
        super().setUp()
        self.other_node(owner=None, lessee=None)

    def test_disk_must_be_named(self):
        self.ask(confirm='node-1')
        self.assertIn('name the disk to write with "target_serial"',
                      self.node.last_error)
        self.assertEqual([], self.power)

    def test_not_by_name(self):
        self.ask(confirm='node-1', snapshot='first', target_serial='S1')
        self.assertIn('[snapshot-missing]', self.node.last_error)

    def test_clone(self):
        def run(args):
            # Nothing is there to reset.
            return self.do_restore({**args, 'identity': 'keep'})
        self.begin(run, confirm='node-1', target_serial='S1')
        told = self.agent.received[-1]['args']
        self.assertEqual(('clone', 'reset', 'S1'), (
            told['verb'], told['identity'], told['target_serial']))
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assert_is(self.first)
        found, = self.restores()
        self.assertNotEqual(self.node.uuid, found.lineage.node)
        # The next snapshot shares nothing unless that is asked for.
        self.agent.restart()
        self.assert_full(self.take(), 'it is the first of its lineage')


class UntouchedTest(ActiveTestCase):
    """Failures before the first write: the machine is given back."""

    def test_agent_refuses(self):
        self.begin(self.failing('Service step failed: [target-mismatch] Disk '
                                '/dev/sda: another serial'))
        self.heartbeat()
        self.assert_given_back('[target-mismatch]')

    def test_agent_refuses_after_slices(self):
        self.begin(self.report(False))
        self.beat(self.failing('[disk-busy] Disk /dev/sda: mounted'))
        self.beat()
        self.assert_given_back('[disk-busy]')

    def test_snapshot_is_deleted_before_the_start(self):
        self.ask()
        self.delete(self.first)
        self.heartbeat()
        self.assert_given_back('[snapshot-missing]')
        self.assertEqual([], self.agent.received)

    def test_swift_is_down_at_the_start(self):
        self.ask()
        with self.without_grants():
            self.heartbeat()
        self.assert_given_back('[store-unavailable]')

    def test_agent_never_comes(self):
        self.ask()
        self.time_out()
        self.assert_given_back('Timeout reached')

    def test_abort_before_the_agent_came(self):
        self.ask()
        self.abort()
        if self.can_abort_failure():
            self.assertEqual(states.ACTIVE, self.node.provision_state)
            self.assertEqual(record.ABORTED, self.restoration.status)
        else:
            self.look_for_orphans()
        self.assert_runs_own_system()

    def test_after_it_the_next_request_runs(self):
        self.test_agent_refuses()
        del self.power[:]
        self.assert_can_be_repeated()

    def test_after_it_abort_does_not_reboot(self):
        self.test_agent_refuses()
        del self.power[:]
        self.assert_abort_does_not_boot()

    def test_conductor_dies_before_it_began(self):
        self.ask()
        self.find_orphan(states.SERVICING)
        self.assert_given_back('conductor stopped')

    def test_conductor_dies_before_the_agent_could_hear_of_it(self):
        self.ask()
        self.die_at(swift_target.SwiftTarget, 'grant')
        self.assertEqual(restore_record.BEGUN, self.restoration.status)
        # Ironic fails such a node when the conductor comes back.
        self.find_orphan(states.SERVICEFAIL, 'The conductor was restarted')
        self.assert_given_back('The conductor was restarted')


class HeldTest(ActiveTestCase):
    """Failures when something was written, or may have been."""

    def test_agent_is_interrupted(self):
        self.interrupt()
        self.assert_can_be_repeated()

    def test_agent_does_not_say(self):
        for text in ('boom', '[internal-error] KeyError: 7',
                     '[identity-not-reset] Disk /dev/sda: no root'):
            self.agent.restart()
            self.begin(self.failing(text))
            self.heartbeat()
            self.assert_held(text)
        self.assert_can_be_repeated()

    def test_agent_refuses_after_it_has_written(self):
        self.begin(self.report(True))
        self.beat(self.failing('[disk-busy] Disk /dev/sda: mounted'))
        self.beat()
        self.assert_held('[disk-busy]')

    def test_agent_is_silent(self):
        self.begin(lambda args: None)
        self.time_out()
        self.assert_held('Timeout reached')
        self.assert_can_be_repeated()

    def test_nothing_moves(self):
        self.begin(self.report(True, moved=7))
        for _slice in range(14):
            self.beat()
            self.assert_waits()
        for _slice in range(2):
            self.beat()
        self.assert_held('[stalled]')
        self.assertIn('nothing was read, fetched or written',
                      self.node.last_error)

    def test_agent_does_not_end_its_slice(self):
        self.begin(lambda args: None)
        self.beat(seconds=959)
        self.assert_waits()
        self.beat(seconds=1)
        self.assert_held('[stalled]')

    def test_malformed_results(self):
        for changes in ({'progress': None}, {'more': 'yes'}, {'touched': 1},
                        {'operation': self.node.uuid}, {'protocol': 2},
                        {'snapshot': self.node.uuid}):
            self.agent.restart()
            del self.agent.received[:]
            self.begin(lambda args, changes=changes: {
                **self.report(False)(args), **changes})
            self.beat()
            self.assert_held('the result of the agent')
            self.assertEqual(1, len(self.agent.received))

    def test_snapshot_is_deleted_meanwhile(self):
        self.begin(self.report(True))
        self.delete(self.first)
        self.beat()
        self.assert_held('it is not there any more')
        self.assertIn('[snapshot-unsuitable]', self.node.last_error)

    def test_agent_that_restarts_goes_on(self):
        self.begin(self.report(False))
        first = self.restoration
        self.agent.restart()
        self.beat(self.report(False))
        self.assert_waits()
        # The one before may have written since it was last heard of.
        self.assertTrue(self.restoration.inconsistent)
        self.assertEqual((first.operation, 2), (
            self.restoration.operation, self.restoration.tries))
        self.beat(self.do_restore)
        self.heartbeat()
        self.assert_restored()

    def test_agent_that_restarts_for_ever(self):
        self.begin(self.report(False))
        for _try in range(2):
            self.agent.restart()
            self.beat()
            self.assert_waits()
            self.beat()
        self.agent.restart()
        self.beat()
        self.assert_held('lost the restore 3 times')

    def test_agent_that_gets_on_may_restart_often(self):
        self.begin(self.report(True))
        for _try in range(5):
            self.beat(self.report(True, written_bytes=2 * MiB))
            self.beat()
            self.agent.restart()
            self.beat()
            self.assert_waits()
            self.assertEqual(2, self.restoration.tries)
        self.beat(self.do_restore)
        self.beat()
        self.assert_restored()

    def test_answer_to_the_first_slice_is_lost(self):
        with self.with_lost_answers():
            self.begin()
        self.assert_waits()
        self.heartbeat()
        self.assert_restored()

    def test_agent_is_never_reached(self):
        def refuse(*args):
            raise exception.AgentConnectionFailed(reason='no route')
        self.agent.execute_service_step = refuse
        self.begin()
        self.beat(seconds=100)
        self.assert_waits()
        self.beat(seconds=860)
        self.assert_held('no route')

    def test_swift_is_down_for_a_while(self):
        self.begin(self.report(True))
        with self.without_grants():
            for _heartbeat in range(3):
                self.beat()
                self.assert_waits()
        self.beat(self.do_restore)
        self.beat()
        self.assert_restored()

    def test_bmc_fails_on_the_way_back(self):
        # It is done; so this is no reason to hold it.
        self.begin()
        with self.without_way_back():
            self.heartbeat()
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertFalse(restore_record.is_inconsistent(self.node))
        self.look_for_orphans()
        self.assert_runs_own_system()
        self.assert_is(self.first)


class WhileHeldTest(ActiveTestCase):
    """What a user may try with a node that is held."""

    def setUp(self):
        super().setUp()
        self.interrupt()
        self.agent.restart()
        del self.power[:]

    def test_abort(self):
        if not self.can_abort_failure():
            self.skipTest('this release of Ironic cannot abort from "service '
                          'failed"')
        for _time in range(2):
            self.abort()
            self.assert_held(HELD)
        self.assert_can_be_repeated()

    def test_abort_before_the_agent_came_again(self):
        self.ask()
        self.abort()
        if self.can_abort_failure():
            self.assert_held(HELD)
        self.assert_can_be_repeated()

    def test_nobody_boots_it(self):
        for _time in range(2):
            self.look_for_orphans()
            self.assert_held(HELD)
        self.assertEqual([], self.power)

    def test_snapshot_is_refused(self):
        self.request({})
        self.assert_held('Service step deploy.snapshot: A restore of')
        self.assertEqual([], self.power)

    def test_snapshot_first_is_refused(self):
        self.ask(before_restore=True)
        self.assert_held('there is nothing to take a snapshot of')
        self.assertEqual([], self.power)

    def test_wrong_request(self):
        self.ask(snapshot='golden')
        self.assert_held('[snapshot-missing]')
        self.assertEqual([], self.power)
        self.assert_can_be_repeated()

    def test_its_system_is_not_asked_to_shut_down(self):
        self.ask()
        self.assertNotIn(states.SOFT_POWER_OFF, self.power)

    def test_fails_again(self):
        self.begin(self.failing('[target-mismatch] Disk /dev/sda: another'))
        self.heartbeat()
        self.assert_held('[target-mismatch]')
        self.ask()
        self.time_out()
        self.assert_held('Timeout reached')
        self.assert_can_be_repeated()

    def test_another_snapshot(self):
        self.disks['other'] = self.disks[self.first]
        self.begin(self.do_restore, snapshot='first')
        self.heartbeat()
        self.assert_restored()

    def test_other_steps(self):
        self.run_other_step()
        self.assert_held(HELD)

    def test_other_steps_without_a_ramdisk(self):
        self.call('do_node_service', [
            {'interface': 'power', 'step': 'other'}], disable_ramdisk=True)
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertTrue(restore_record.is_inconsistent(self.node))
        self.assertNotIn('instance', self.power)

    def test_undeployed(self):
        self.config(send_power_notifications=False, group='nova')
        self.end_deployment()
        self.assertFalse(restore_record.is_inconsistent(self.node))
        self.assertFalse(attempt.is_prepared(self.node))

    def test_deployed_anew(self):
        self.config(send_power_notifications=False, group='nova')
        self.prepare_deployment()
        self.assertFalse(restore_record.is_inconsistent(self.node))


class AbortTest(ActiveTestCase):

    def test_waits_for_the_end(self):
        self.begin(self.report(True))
        self.abort()
        self.assert_waits()
        self.beat(self.do_restore)
        self.assert_waits()
        self.heartbeat()
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertEqual(restore_record.RESTORED, self.restoration.status)
        self.assertFalse(restore_record.is_inconsistent(self.node))
        self.assert_runs_own_system()
        self.assert_is(self.first)

    def test_waits_for_a_failure(self):
        self.begin(self.report(True))
        self.abort()
        self.beat(self.failing('[restore-interrupted] gone'))
        self.beat()
        self.assert_held('[restore-interrupted] gone')


class LeaseTest(ActiveTestCase):

    def test_the_snapshot_is_not_deleted_meanwhile(self):
        garbage = prune.rehearse(self.store, KEY, self.clock.time(), 0)
        self.begin(self.report(False))
        with self.assertRaises(errors.SnapshotInUse) as caught:
            prune.delete(self.store, self.lineage, self.first, KEY,
                         self.clock.time())
        self.assertIn(self.restoration.operation, str(caught.exception))
        found, = self.leases()
        before = self.restoration.lease_expires
        self.beat(seconds=3000)
        self.assertEqual([found.name], [each.name for each in self.leases()])
        self.assertGreater(self.restoration.lease_expires, before)
        # Nor is anything more of it garbage.
        self.assertEqual(garbage, prune.rehearse(
            self.store, KEY, self.clock.time(), 0))
        self.beat(self.do_restore)
        self.beat()
        self.assert_restored()
        prune.delete(self.store, self.lineage, self.first, KEY,
                     self.clock.time())

    def test_it_is_deleted_right_when_the_lease_is_written(self):
        write = layout.lease_name
        done = []

        def name(*args):
            if not done:
                done.append(self.delete(self.first))
            return write(*args)
        self.ask()
        with mock.patch.object(layout, 'lease_name', name):
            self.heartbeat()
        self.assert_given_back('it is not there any more')


class ConductorDiesTest(ActiveTestCase):

    def test_before_and_after_each_step_of_a_slice(self):
        self.begin(self.report(False))
        first = self.restoration.operation
        slices = self.restoration.progress.slices
        for _death in self.die_around(
                (swift_target.SwiftTarget, 'grant'),
                (agent_base, 'execute_step'),
                (restore_record.Restoration, 'note')):
            self.assert_waits()
            self.beat()
            self.assert_waits()
            self.assertEqual((first, 1), (self.restoration.operation,
                                          self.restoration.tries))
            self.assertGreater(self.restoration.progress.slices, slices)
            slices = self.restoration.progress.slices
        self.beat(self.do_restore)
        self.beat()
        self.assert_restored()

    def test_when_it_is_done(self):
        self.begin()
        for target, name in ((history, 'put'),
                             (attempt, 'set_restored'),
                             (agent_base, '_continue_steps')):
            self.die_at(target, name)
            self.assert_waits()
        self.heartbeat()
        self.assert_restored()
        self.assertEqual(1, len(self.restores()))

    def test_on_the_way_back(self):
        self.begin()
        self.die_at(fake.FakeBoot, 'clean_up_ramdisk')
        self.assertEqual(states.SERVICING, self.node.provision_state)
        self.look_for_orphans()
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertIn('was restored', self.node.last_error)
        self.assert_runs_own_system()
        self.assert_is(self.first)

    def test_when_the_agent_has_heard_of_it(self):
        self.ask()
        self.die_at(agent_base, 'execute_step')
        self.assertEqual(states.SERVICING, self.node.provision_state)
        self.look_for_orphans()
        self.assert_waits()
        self.heartbeat()
        self.heartbeat()
        self.assert_restored()

    def test_when_the_agent_has_heard_of_it_and_ironic_failed_the_node(self):
        self.begin(self.report(False))
        self.find_orphan(states.SERVICEFAIL, 'The conductor was restarted')
        self.assert_held('The conductor was restarted')
        self.assert_can_be_repeated()

    def test_another_conductor_goes_on(self):
        self.begin(self.report(True))
        self.beat()
        self.replace_conductor()
        self.beat(self.do_restore)
        self.beat()
        self.assert_restored()

    def test_ironic_executes_the_step_again(self):
        self.begin(self.report(True))
        first = self.restoration
        self.call('continue_node_service')
        self.assert_waits()
        self.assertEqual((first.operation, 1), (self.restoration.operation,
                                                self.restoration.tries))


class CustomAgentTest(ActiveTestCase):
    """The other deploy interface, on the same mixin."""

    deploy_interface = 'custom-agent-snapshot'
    test_rollback = SuccessTest.test_rollback
    test_agent_is_interrupted = HeldTest.test_agent_is_interrupted
