# SPDX-License-Identifier: Apache-2.0
"""The service step from the request to the end, in one slice."""
import json
from unittest import mock

from ironic.common import exception
from ironic.common import states
from ironic.conductor import utils as manager_utils
from ironic.drivers.modules import agent
from ironic.drivers.modules import agent_base
from ironic.drivers.modules import fake

from ironic_snapshot import attempt
from ironic_snapshot_core import commit
from tests.contract import node_disk
from tests.contract import snapshot_base


class SuccessTest(snapshot_base.SnapshotTestCase):

    def test_snapshot(self):
        before = self.disk.read_bytes()
        self.request({'name': 'golden', 'description': 'as delivered'})
        self.assertEqual(states.SERVICEWAIT, self.node.provision_state)
        self.assertEqual(
            [states.SOFT_POWER_OFF, 'ramdisk', states.POWER_ON], self.power)
        self.heartbeat()   # fetches the steps, starts ours
        self.assertEqual(attempt.RUNNING, self.record.status)
        self.assertEqual(1, len(self.leases()))
        self.heartbeat()   # finds it done
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertIsNone(self.node.last_error)
        self.assert_runs_own_system()
        self.assertEqual(attempt.COMMITTED, self.record.status)
        self.assertEqual([], self.leases())
        manifest, = self.snapshots()
        self.assertEqual('golden', manifest.name)
        self.assertEqual('as delivered', manifest.description)
        self.assertEqual(1, manifest.sequence)
        self.assertEqual('clean', manifest.consistency)
        self.assertEqual(self.record.snapshot, manifest.id)
        self.assertEqual(before, self.disk.read_bytes())
        self.assert_image_is_the_disk(manifest.id)
        self.assert_no_secret()

    def test_second_snapshot_leaves_the_first_alone(self):
        for sequence in (1, 2):
            node_disk.fill(self.disk, seed=sequence)
            self.request({'name': f'day {sequence}'})
            self.heartbeat()
            self.heartbeat()
            self.assertEqual(states.ACTIVE, self.node.provision_state)
            self.assert_image_is_the_disk(self.record.snapshot)
        self.assertEqual([1, 2], sorted(manifest.sequence
                                        for manifest in self.snapshots()))

    def test_step_is_shown_without_the_grant(self):
        self.agent.run = lambda args: None   # still running
        self.request({'name': 'golden'})
        self.heartbeat()
        self.assertEqual({'name': 'golden'}, self.node.service_step['args'])
        self.assert_no_secret()

    def test_hard_shutdown_is_asked_for(self):
        self.request({'shutdown': 'hard'})
        self.assertEqual(states.POWER_OFF, self.power[0])
        self.assertEqual('forced', self.record.shutdown)

    def test_containers_of_two_projects_differ(self):
        self.node.owner = 'a' * 32
        self.node.save()
        self.request({})
        self.heartbeat()
        self.assertEqual(f'{self.container}-{"a" * 32}',
                         self.record.container)

    def test_lineage_ends_with_the_deployment(self):
        self.request({})
        self.heartbeat()
        self.heartbeat()
        first = self.record.generation
        self.end_deployment()
        self.assertNotEqual(first, attempt.lineage(self.node).generation)

    def test_other_steps_are_left_to_ironic(self):
        self.run_other_step()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assert_runs_own_system()


class CustomAgentTest(snapshot_base.SnapshotTestCase):
    """The other deploy interface, on the same mixin."""

    deploy_interface = 'custom-agent-snapshot'
    test_snapshot = SuccessTest.test_snapshot

    def test_agent_that_restarts(self):
        FailureTest.test_agent_that_restarts_goes_on(self)


class RefusedTest(snapshot_base.SnapshotTestCase):
    """What is wrong is said before the node is touched."""

    def assert_refused(self, text):
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertIn(text, self.node.last_error)
        self.assertFalse(self.node.maintenance)
        self.assert_abort_does_not_boot()

    def test_wrong_argument(self):
        self.request({'url': 'http://evil.example.org/'})
        self.assert_refused("unknown argument 'url'")

    def test_wrong_type(self):
        self.request({'cluster_size': 'big'})
        self.assert_refused('"cluster_size"')

    def test_no_manifest_key(self):
        self.config(manifest_key='short', group='snapshot')
        self.request({})
        self.assert_refused('[snapshot]manifest_key')

    def test_plain_http(self):
        self.config(require_https=True, group='snapshot')
        self.request({})
        self.assert_refused('without TLS')

    def test_ramdisk_endpoint_with_another_path(self):
        self.config(ramdisk_endpoint='http://swift.example.org/v1/AUTH_other',
                    group='snapshot')
        self.request({})
        self.assert_refused('[snapshot]ramdisk_endpoint')

    def test_wrong_credentials(self):
        self.config(password='wrong', group='snapshot')
        self.request({})
        self.assert_refused('service')

    def test_swift_is_down(self):
        self.config(auth_url='http://127.0.0.1:9/auth/v1.0',
                    group='snapshot')
        self.request({})
        self.assert_refused('prepare')

    def test_without_a_ramdisk(self):
        self.call('do_node_service',
                  [{'interface': 'deploy', 'step': 'snapshot'}],
                  disable_ramdisk=True)
        self.assert_refused('disable_ramdisk')


class FailureTest(snapshot_base.SnapshotTestCase):
    """Every failure gives the machine back and says why."""

    def test_ramdisk_without_our_hardware_manager(self):
        self.agent.steps = {'Some': [
            {'interface': 'deploy', 'step': 'other', 'priority': 0}]}
        self.request({})
        self.heartbeat()
        self.assert_failed('no hardware manager')

    def test_agent_fails(self):
        def run(args):
            raise RuntimeError('[disk-busy] /dev/sda is mounted')
        self.agent.run = run
        self.request({})
        self.heartbeat()
        self.heartbeat()
        self.assert_failed('[disk-busy] /dev/sda is mounted')

    def test_agent_cannot_be_reached_at_the_start(self):
        def refuse(*args):
            raise exception.AgentConnectionFailed(reason='no route')
        self.agent.execute_service_step = refuse
        self.request({})
        self.heartbeat()
        self.assert_failed('no route')

    def test_agent_answers_with_the_request(self):
        # agent_client quotes the body, grant included, in its exception.
        def quote(step, *args):
            self.agent.receive(step)
            raise exception.IronicException(
                f'Unable to decode: "{json.dumps(step)}"')
        self.agent.execute_service_step = quote
        self.request({})
        self.heartbeat()
        self.assert_failed('Unable to decode')

    def test_agent_that_restarts_goes_on(self):
        self.agent.run = lambda args: None
        self.request({'name': 'golden'})
        self.heartbeat()
        first = self.record.snapshot
        self.agent.restart()
        self.agent.run = self.capture
        self.heartbeat()
        self.assertEqual(states.SERVICEWAIT, self.node.provision_state)
        self.assertEqual(2, self.record.tries)
        self.assertEqual(first, self.record.snapshot)
        self.assertEqual(1, len(self.leases()))
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertEqual(['golden'], [m.name for m in self.snapshots()])

    def test_agent_that_restarts_for_ever_fails(self):
        self.agent.run = lambda args: None
        self.request({})
        self.heartbeat()
        for _try in range(3):
            self.assertEqual(states.SERVICEWAIT, self.node.provision_state)
            self.agent.restart()
            self.heartbeat()
        self.assert_failed('lost the capture 3 times')

    def test_busy_agent_keeps_its_attempt(self):
        self.agent.run = lambda args: None
        self.request({})
        self.heartbeat()
        first = self.record
        self.agent.restart()
        with self.with_busy_agent():
            self.heartbeat()
        self.assertEqual(states.SERVICEWAIT, self.node.provision_state)
        self.assertEqual(first, self.record)

    def test_timeout(self):
        self.agent.run = lambda args: None
        self.request({})
        self.heartbeat()
        self.time_out()
        self.assert_failed('Timeout reached')
        if hasattr(agent.AgentDeploy, 'restore_interface'):
            # Older releases of Ironic do not call it.
            self.assertIsNone(self.node.maintenance_reason)
            self.assertIn('Timeout reached', self.record.reason)

    def test_timeout_before_the_agent_came(self):
        self.request({})
        self.time_out()
        self.assert_failed('Timeout reached')

    def test_abort(self):
        self.agent.run = lambda args: None
        self.request({})
        self.heartbeat()
        self.abort()
        # A release that cannot leave "service failed" so stops half-way, with
        # the node in the ramdisk.
        if self.can_abort_failure():
            self.assertIn('aborted', self.node.last_error)
            self.assertEqual(states.ACTIVE, self.node.provision_state)
            self.assertEqual(attempt.ABORTED, self.record.status)
        else:
            self.look_for_orphans()
            self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
            self.assertEqual(attempt.FAILED, self.record.status)
        self.assert_runs_own_system()
        self.assertEqual([], self.leases())
        self.assertEqual([], self.snapshots())

    def test_after_a_failure_abort_does_not_reboot(self):
        self.test_agent_fails()
        del self.power[:]
        self.assert_abort_does_not_boot()

    def test_after_a_failure_the_next_request_runs(self):
        self.test_agent_fails()
        self.agent.restart()
        self.agent.run = self.capture
        self.request({'name': 'second'})
        self.heartbeat()
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertEqual(['second'], [m.name for m in self.snapshots()])

    def test_stale_step_does_not_skip_the_request(self):
        self.node.service_step = {'interface': 'deploy', 'step': 'snapshot',
                                  'priority': 0}
        self.node.save()
        self.test_after_a_failure_the_next_request_runs()

    def test_result_of_another_attempt(self):
        def run(args):
            return dict(self.capture(args), snapshot=self.node.uuid)
        self.agent.run = run
        self.request({})
        self.heartbeat()
        self.heartbeat()
        self.assert_failed('another snapshot')

    def test_bmc_fails_on_the_way_back(self):
        def run(args):
            raise RuntimeError('boom')
        self.agent.run = run
        self.request({})
        self.heartbeat()
        with self.without_way_back():
            self.heartbeat()
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertIn('boom', self.node.last_error)
        self.assertIn('BMC is gone', self.node.last_error)
        self.look_for_orphans()
        self.assert_failed('boom')


class ConductorDiesTest(snapshot_base.SnapshotTestCase):
    """Killed at any point, then started again."""

    def test_at_every_store_call_of_the_commit(self):
        self.request({'name': 'first'})
        self.heartbeat()
        self.heartbeat()
        first = self.record.snapshot
        deaths = 0
        while True:
            self.agent.restart()
            self.agent.run = self.capture
            self.request({'name': f'death {deaths}'})
            self.heartbeat()
            dying = Death(after=deaths)
            with mock.patch.object(commit, 'commit',
                                   dying.wrap(commit.commit)):
                try:
                    self.heartbeat()
                except snapshot_base.Died:
                    pass
            self.restart_conductor()
            self.assertEqual(states.SERVICEWAIT if dying.dead else
                             states.ACTIVE, self.node.provision_state)
            if dying.dead:
                # Nothing of it is listed, or all of it is, and reads.
                for manifest in self.snapshots()[deaths + 1:]:
                    self.assert_image_is_the_disk(manifest.id)
                self.heartbeat()
            self.assertEqual(states.ACTIVE, self.node.provision_state)
            self.assertEqual(attempt.COMMITTED, self.record.status)
            self.assert_image_is_the_disk(self.record.snapshot)
            if not dying.dead:
                break
            deaths += 1
        self.assertGreater(deaths, 8)
        sequences = [m.sequence for m in self.snapshots()]
        self.assertEqual(list(range(1, deaths + 3)), sequences)
        self.assert_image_is_the_disk(first)

    def test_while_servicing(self):
        self.agent.run = lambda args: None
        self.request({})
        self.heartbeat()
        first = self.record
        self.find_orphan(states.SERVICING)
        self.assertEqual(states.SERVICEWAIT, self.node.provision_state)
        self.assertEqual(first, self.record)
        self.agent.succeed(self.capture(self.agent.received[-1]['args']))
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertEqual([first.snapshot], [m.id for m in self.snapshots()])

    def test_while_servicing_before_it_began(self):
        self.request({})
        self.find_orphan(states.SERVICING)
        self.assert_failed('conductor stopped')

    def test_before_the_agent_heard_of_it(self):
        self.request({})
        self.die_at(agent_base, 'execute_step')
        self.assertEqual(states.SERVICING, self.node.provision_state)
        self.look_for_orphans()
        self.heartbeat()
        self.assertEqual(1, self.record.tries)
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertEqual(1, len(self.snapshots()))

    def test_after_the_commit(self):
        self.request({})
        self.heartbeat()
        self.die_at(agent_base, '_continue_steps')
        self.assertEqual(states.SERVICEWAIT, self.node.provision_state)
        self.assertEqual(attempt.COMMITTED, self.record.status)
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertEqual(attempt.COMMITTED, self.record.status)
        self.assertEqual(1, len(self.snapshots()))

    def test_on_the_way_back_after_the_commit(self):
        self.request({})
        self.heartbeat()
        self.die_at(fake.FakeBoot, 'clean_up_ramdisk')
        self.assertEqual(states.SERVICING, self.node.provision_state)
        self.look_for_orphans()
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertIn('was committed', self.node.last_error)
        self.assertEqual(attempt.COMMITTED, self.record.status)
        self.assertEqual(1, len(self.snapshots()))
        self.assert_runs_own_system()

    def test_while_servicing_and_ironic_failed_the_node(self):
        self.agent.run = lambda args: None
        self.request({})
        self.heartbeat()
        self.find_orphan(states.SERVICEFAIL, 'The conductor was restarted')
        self.assert_failed('The conductor was restarted')

    def test_orphan_check_leaves_others_alone(self):
        self.request({})
        booted = list(self.power)
        self.look_for_orphans()
        self.assertEqual(states.SERVICEWAIT, self.node.provision_state)
        self.assertEqual(booted, self.power)


class Death:
    """Kills the conductor at the n-th store call of the commit.

    Half of the calls that change something are seen to work first.
    """

    OPERATIONS = ('get', 'get_range', 'stat', 'join', 'put')
    CHANGING = ('join', 'put')

    def __init__(self, after):
        self.left = after
        self.dead = False

    def wrap(self, function):
        """The function with a store that this death lies in wait in."""
        def wrapped(store, *args):
            return function(Dying(store, self), *args)
        return wrapped


class Dying:
    """The store of a conductor that will die."""

    def __init__(self, store, death):
        self._store, self._death = store, death

    def __getattr__(self, name):
        method = getattr(self._store, name)
        if name not in Death.OPERATIONS:
            return method

        def call(*args, **kwargs):
            # Changing calls count twice: death before them and after them.
            for moment in ('before', 'after')[:1 + (name in Death.CHANGING)]:
                self._death.left -= 1
                if self._death.left == -1:
                    if moment == 'after':
                        method(*args, **kwargs)
                    self._death.dead = True
                    raise snapshot_base.Died
            return method(*args, **kwargs)
        return call


class ShutdownTest(snapshot_base.SnapshotTestCase):
    """How the operating system goes down before the ramdisk."""

    def soft_power_off(self, results):
        """The BMC takes the request, and the machine goes off or does not."""
        results = iter(results)

        def action(task, state, timeout=None):
            self.power.append(state)
            if state != states.SOFT_POWER_OFF:
                return self.node_power_action(task, state, timeout)
            result = next(results)
            if isinstance(result, Exception):
                raise result
            self.machine = states.POWER_OFF
        self.node_power_action = manager_utils.node_power_action
        patcher = mock.patch.object(manager_utils, 'node_power_action',
                                    action)
        patcher.start()
        self.addCleanup(patcher.stop)
        self.request({})
        return self.record.shutdown

    def test_asked_again(self):
        late = exception.PowerStateFailure(pstate='power off')
        self.assertEqual('clean', self.soft_power_off([late, late, None]))

    def test_forced_in_the_end(self):
        late = exception.PowerStateFailure(pstate='power off')
        self.assertEqual('forced', self.soft_power_off([late] * 3))

    def test_bmc_breaks(self):
        self.assertEqual('forced', self.soft_power_off([OSError('gone')]))

    def test_off_already(self):
        self.machine = states.POWER_OFF
        self.assertEqual('off', self.soft_power_off([]))
