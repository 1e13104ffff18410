# SPDX-License-Identifier: Apache-2.0
"""Nodes that are deployed from a snapshot, as the conductor sees it."""
import concurrent.futures
import copy
from unittest import mock
import uuid

from ironic.common import exception
from ironic.common import states
from ironic.drivers.modules import deploy_utils
from ironic.drivers.modules import fake

from ironic_snapshot import record
from ironic_snapshot import restore_record
from ironic_snapshot.targets import swift as swift_target
from ironic_snapshot_core import errors
from ironic_snapshot_core import history
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core import prune
from ironic_snapshot_core.units import MiB
from tests.contract import node_disk
from tests.contract import parent_base
from tests.contract import restore_base

KEY = parent_base.KEY
MISSING = parent_base.MISSING


class DeployTestCase(restore_base.RestoreTestCase):
    """A node that is available, and a snapshot of another."""

    WAITING = states.DEPLOYWAIT

    def setUp(self):
        super().setUp()
        self.config(automated_clean=False, group='conductor')
        taken = self.take(name='golden')
        self.golden = taken.snapshot
        self.source = layout.Lineage(self.node.uuid, taken.generation)
        self.content = self.disk.read_bytes()
        self.other_node(owner=None, lessee=None)
        self.disk = self.tmp / 'target.raw'
        node_disk.fill(self.disk, seed=2)
        self.machine = states.POWER_OFF
        self.choose(snapshot=self.golden)
        self.node.provision_state = states.AVAILABLE
        self.node.save()
        self.let_restore(lambda args: {})
        self.agent.power_off = self.agent_powers_off
        self.replace(fake.FakePower, 'reboot',
                     lambda interface, task, timeout=None: self.reboot())
        self.replace(fake.FakeManagement, 'set_boot_device',
                     lambda interface, task, *args, **kwargs: None)
        del self.agent.received[:]
        del self.power[:]

    def replace(self, owner, name, new):
        patcher = mock.patch.object(owner, name, new)
        patcher.start()
        self.addCleanup(patcher.stop)

    def reboot(self):
        self.power.append(states.REBOOT)
        self.machine = states.POWER_ON

    # What a user and an agent do

    def choose(self, **fields):
        """Say what to deploy."""
        self.node.instance_info = fields
        self.node.save()

    def ask(self, **kwargs):
        """``baremetal node deploy``."""
        self.call('do_node_deploy', **kwargs)

    def undeploy(self):
        """``baremetal node undeploy``."""
        self.call('do_node_tear_down')

    def agent_powers_off(self, node):
        self.power.append('agent off')
        self.machine = states.POWER_OFF

    # What must hold

    def leases(self):
        return list(lease.entries(self.store))

    def restores(self):
        return history.entries(self.store, KEY)

    def assert_deployed(self):
        """The disk is the snapshot, and the machine boots from it."""
        self.assertEqual(states.ACTIVE, self.node.provision_state,
                         self.node.last_error)
        self.assertIsNone(self.node.last_error)
        self.assert_runs_own_system()
        self.assertEqual(restore_record.RESTORED, self.restoration.status)
        self.assertFalse(restore_record.is_inconsistent(self.node))
        self.assertEqual([], self.leases())
        self.assertEqual(self.content, self.disk.read_bytes())
        self.assert_no_secret()

    def assert_deploy_failed(self, text):
        """Ironic says so, and nothing boots from the disk."""
        self.assertEqual(states.DEPLOYFAIL, self.node.provision_state)
        self.assertIn(text, self.node.last_error or '')
        self.assertNotIn('\n', self.node.last_error)
        self.assertNotIn('instance', self.power)
        self.assertFalse(self.node.maintenance)
        self.assertIsNone(self.node.reservation)
        self.assertEqual([], self.leases())
        self.assertEqual([], self.restores())
        self.assert_no_secret()

    def assert_can_be_repeated(self):
        """The way out of "deploy failed"."""
        self.agent.restart()
        del self.power[:]
        self.begin(self.do_restore)
        self.heartbeat()
        self.assert_deployed()


class SuccessTest(DeployTestCase):

    def test_deployed(self):
        self.begin()
        self.assert_waits()
        self.assertEqual(record.RUNNING, self.restoration.status)
        self.assertEqual('restore', self.agent.received[-1]['step'])
        self.heartbeat()
        self.assert_deployed()
        self.assertEqual(
            ['ramdisk', states.REBOOT, 'instance', 'agent off',
             states.POWER_ON], self.power)
        self.assertEqual(1, self.agent.bootloaders)
        self.assertEqual(1, len(self.agent.received))
        self.assertEqual(
            ('clone', 'reset'), tuple(self.restoration.result[name]
                                      for name in ('verb', 'identity')))

    def test_what_the_agent_is_told(self):
        self.begin(self.report(False))
        args = self.agent.received[-1]['args']
        self.assertEqual(
            ('clone', 'reset', None, self.source.node), (
                args['verb'], args['identity'], args['target_serial'],
                args['lineage']['node']))
        self.assertEqual(
            {('GET', layout.snapshot_prefix(self.source, self.golden)),
             ('GET', layout.attempt_prefix(self.source, self.golden))},
            {(each['method'], each['prefix'])
             for each in args['grant']['permissions']})

    def test_by_name(self):
        self.choose(snapshot='golden', snapshot_node=self.source.node,
                    snapshot_identity='keep')
        self.begin()
        self.heartbeat()
        self.assert_deployed()
        self.assertEqual('keep', self.restoration.result['identity'])

    def test_slices(self):
        """The node stays in "wait call-back", with fresh temporary URLs."""
        self.begin(self.report(False))
        seen = []

        def run(args):
            seen.append(self.dbapi.get_node_by_id(
                self.node.id).provision_state)
            return self.report(True)(args)
        self.beat(run)
        self.beat(run)
        self.assert_waits()
        self.assertTrue(self.restoration.inconsistent)
        held, = self.leases()
        self.assertEqual(self.golden, held[1].parent)
        self.beat(self.do_restore)
        self.beat()
        self.assert_deployed()
        self.assertEqual([states.DEPLOYWAIT] * 2, seen)
        grants = [step['args']['grant'] for step in self.agent.received]
        self.assertEqual(
            4, len({each['permissions'][0]['secret'] for each in grants}))
        self.assertEqual(1, len({
            step['args']['operation'] for step in self.agent.received}))

    def test_lineage(self):
        """It is the node's own, and shares nothing unless asked for."""
        self.begin()
        self.heartbeat()
        found, = self.restores()
        self.assertEqual(
            (layout.Lineage(self.node.uuid, self.restoration.generation),
             self.golden, self.source, 'clone'),
            (found[0], found[1].snapshot, found[1].lineage, found[1].verb))
        self.agent.run = self.capture
        self.agent.restart()
        first = self.take()
        self.assertEqual(self.restoration.generation, first.generation)
        self.assert_full(first, 'it is the first of its lineage')
        self.agent.restart()
        self.assert_incremental(self.take(parent=self.golden), self.golden)

    def test_config_drive(self):
        self.ask(configdrive='Y29uZmln')
        self.heartbeat()
        self.heartbeat()
        self.assert_waits()
        self.assertEqual(
            {'interface': 'deploy', 'step': 'write_config_drive',
             'args': {'configdrive': 'Y29uZmln'}}, self.agent.received[-1])
        self.assertNotIn('instance', self.power)
        self.heartbeat()
        self.assert_deployed()
        self.assertEqual(2, len(self.agent.received))

    def test_agent_restarts_while_it_writes_the_config_drive(self):
        self.let_restore(lambda args: None)
        self.ask(configdrive='Y29uZmln')
        self.heartbeat()
        self.heartbeat()
        self.agent.restart()
        self.agent.run = lambda args: {}
        self.heartbeat()
        self.assert_waits()
        self.heartbeat()
        self.assert_deployed()
        self.assertEqual(
            ['restore', 'write_config_drive', 'write_config_drive'],
            [step['step'] for step in self.agent.received])

    def test_config_drive_does_not_fit(self):
        self.let_restore(self.failing('no room'))
        self.ask(configdrive='Y29uZmln')
        for _heartbeat in range(3):
            self.heartbeat()
        self.assertEqual(states.DEPLOYFAIL, self.node.provision_state)
        self.assertIn('no room', self.node.last_error)
        self.assertNotIn('instance', self.power)

    def test_image_is_deployed_as_ever(self):
        self.choose(image_source='http://192.0.2.9/image', image_checksum='1',
                    image_url='http://192.0.2.9/image',
                    image_type='whole-disk')
        with mock.patch.object(
                deploy_utils, 'build_instance_info_for_deploy',
                lambda task: task.node.instance_info):
            self.ask(configdrive='Y29uZmln')
            self.heartbeat()
        self.assert_waits()
        sent, = self.agent.received
        self.assertEqual('write_image', sent['step'])
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertEqual(1, len(self.agent.received))
        self.assertIsNone(self.restoration)

    def test_twenty_at_once(self):
        """Clones read one snapshot together, and nothing stands in the way."""
        self.begin(self.report(False))
        asked = self.agent.received[-1]['args']
        paths = [self.tmp / f'clone-{number}.raw' for number in range(20)]

        def clone(path):
            path.write_bytes(bytes(node_disk.SIZE))
            args = {**copy.deepcopy(asked), 'operation': str(uuid.uuid4())}
            return node_disk.restore(path, args)
        with concurrent.futures.ThreadPoolExecutor(len(paths)) as pool:
            results = list(pool.map(clone, paths))
        for path, result in zip(paths, results, strict=True):
            self.assertEqual(self.content, path.read_bytes())
            self.assertFalse(result['more'])
        self.beat(self.do_restore)
        self.beat()
        self.assert_deployed()


class CustomAgentTest(DeployTestCase):
    """Deploy interface ``custom-agent-snapshot``."""

    deploy_interface = 'custom-agent-snapshot'

    def test_deployed(self):
        self.begin()
        self.heartbeat()
        self.assert_deployed()
        # It leaves that to whoever chose it.
        self.assertEqual(0, self.agent.bootloaders)

    def test_without_a_snapshot(self):
        self.choose()
        self.ask()
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertEqual([], self.agent.received)


class RefusedTest(DeployTestCase):
    """What is wrong is said at once: the node stays available."""

    def assert_refused(self, text, **fields):
        if fields:
            self.choose(**fields)
        caught = self.assertRaises(
            exception.InstanceDeployFailure, self.ask)
        self.assertIn(text, str(caught))
        self.assertNotIn('\n', str(caught))
        self.node.refresh()
        self.assertEqual(states.AVAILABLE, self.node.provision_state)
        self.assertEqual([], self.power)
        found = self.service.validate_driver_interfaces(
            self.context, self.node.uuid)['deploy']
        self.assertIs(False, found['result'])
        self.assertIn(text, found['reason'])

    def test_fields(self):
        """One of those in tests/unit/conductor/test_clone.py."""
        self.assert_refused(
            "instance_info: unknown field 'snapshot_name'",
            snapshot=self.golden, snapshot_name='x')

    def test_missing(self):
        self.assert_refused('[snapshot-missing]', snapshot=MISSING)
        # A name is the other node's only.
        self.assert_refused('[snapshot-missing]', snapshot='golden',
                            snapshot_node=self.node.uuid)

    def test_other_project(self):
        container = self.container
        self.node.owner = 'a' * 32
        self.assert_refused('[snapshot-missing]', snapshot=self.golden)
        with mock.patch.object(
                swift_target, 'for_node',
                lambda node: swift_target.named(container)):
            self.assert_refused('[snapshot-missing]')

    def test_condemned(self):
        with self.condemned('/pack-000001'):
            self.assert_refused('about to delete')

    def test_swift_is_down(self):
        with mock.patch.object(
                swift_target.SwiftTarget, 'ensure',
                side_effect=errors.StoreUnavailable('list', 'x', 'down')):
            self.assert_refused('[store-unavailable]')

    def test_boots_from_a_volume(self):
        with self.booting_from_a_volume():
            self.assert_refused('boots from a volume')

    def test_good_one(self):
        found = self.service.validate_driver_interfaces(
            self.context, self.node.uuid)['deploy']
        self.assertIs(True, found['result'], found.get('reason'))

    def test_damaged(self):
        """Looking at all its objects may take long: that comes later."""
        pack, = (each.name for each in self.store.list('v1/')
                 if each.name.endswith('/pack-000001'))
        self.store.delete(pack)
        self.ask()
        self.assert_deploy_failed('it is damaged')
        self.assertEqual([], self.power)

    def test_ramdisk_of_an_earlier_release(self):
        self.agent.deploy_steps = {}
        self.ask()
        self.heartbeat()
        self.assert_deploy_failed('no hardware manager for deploy.restore')
        self.assertEqual([], self.agent.received)


class FailureTest(DeployTestCase):

    def test_before_the_first_write(self):
        self.begin(self.failing('[target-mismatch] Disk /dev/sda: too small'))
        self.heartbeat()
        self.assert_deploy_failed('[target-mismatch]')
        self.assertNotIn('not bootable', self.node.last_error)
        self.assertFalse(restore_record.is_inconsistent(self.node))
        self.assertEqual(states.POWER_OFF, self.machine)
        self.assert_can_be_repeated()

    def test_after_the_first_write(self):
        self.begin(self.report(True))
        self.beat(self.failing(
            '[restore-interrupted] Disk /dev/sda: no answer'))
        self.beat()
        self.assert_deploy_failed('[restore-interrupted]')
        self.assertIn('The disk is not bootable; deploy the node again',
                      self.node.last_error)
        self.assertEqual(states.POWER_OFF, self.machine)
        self.assert_can_be_repeated()

    def test_only_what_still_differs_is_written(self):
        self.disk.write_bytes(
            self.content[:7 * MiB] + b'x' * MiB + self.content[8 * MiB:])
        self.begin()
        self.heartbeat()
        self.assert_deployed()
        totals = self.restoration.result['totals']
        self.assertEqual(MiB, totals['differing_bytes'])

    def test_nothing_moves(self):
        self.begin(self.report(True, moved=7))
        for _slice in range(16):
            self.beat()
        self.assert_deploy_failed('[stalled]')

    def test_malformed_result(self):
        self.begin(lambda args: {**self.report(False)(args), 'touched': 1})
        self.beat()
        self.assert_deploy_failed('the result of the agent')

    def test_agent_restarts(self):
        self.begin(lambda args: None)
        operation = self.restoration.operation
        self.agent.restart()
        self.beat(self.do_restore)
        self.assert_waits()
        self.assertEqual((operation, 2), (
            self.restoration.operation, self.restoration.tries))
        self.beat()
        self.assert_deployed()

    def test_agent_restarts_too_often(self):
        self.begin(lambda args: None)
        for _agent in range(3):
            self.agent.restart()
            self.beat()
        self.assert_deploy_failed('has lost the restore 3 times')

    def test_agent_is_busy_at_first(self):
        self.ask()
        with self.with_busy_agent('deploy'):
            self.heartbeat()
        self.assert_waits()
        self.heartbeat()
        self.heartbeat()
        self.assert_deployed()

    def test_agent_is_silent(self):
        self.begin(lambda args: None)
        self.time_out()
        self.assert_deploy_failed('Timeout reached')
        self.assertEqual(record.FAILED, self.restoration.status)
        self.assert_can_be_repeated()

    def test_swift_is_down_meanwhile(self):
        self.begin(self.report(False))
        with self.without_grants():
            self.beat()
        self.assert_waits()
        self.beat(self.do_restore)
        self.beat()
        self.assert_deployed()

    def test_snapshot_is_deleted_before_the_start(self):
        self.ask()
        self.delete(self.golden)
        self.heartbeat()
        self.assert_deploy_failed('[snapshot-missing]')
        self.assertEqual([], self.agent.received)

    def test_snapshot_cannot_be_deleted_meanwhile(self):
        self.begin(self.report(False))
        self.assertRaises(
            errors.SnapshotInUse, prune.delete, self.store, self.source,
            self.golden, KEY, self.clock.time())

    def test_conductor_restarts(self):
        self.begin(self.report(True))
        self.restart_conductor()
        self.beat(self.do_restore)
        self.assert_waits()
        self.beat()
        self.assert_deployed()

    def test_conductor_dies_while_it_begins(self):
        self.ask()
        self.die_at(swift_target.SwiftTarget, 'grant')
        # As Ironic does when the conductor comes back.
        self.service._fail_transient_state(states.DEPLOYING, 'interrupted')
        self.node.refresh()
        self.assertEqual(states.DEPLOYFAIL, self.node.provision_state)
        self.assert_can_be_repeated()

    def test_undeployed_meanwhile(self):
        self.begin(self.report(True))
        self.assertEqual(1, len(self.leases()))
        self.undeploy()
        self.assertEqual(states.AVAILABLE, self.node.provision_state)
        self.assertEqual([], self.leases())
        self.assertIsNone(self.restoration)
        self.assertNotIn('instance', self.power)
