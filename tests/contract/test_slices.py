# SPDX-License-Identifier: Apache-2.0
"""A capture in many slices, as the conductor sees it."""
import dataclasses
import json
import random
from unittest import mock

from ironic.common import exception
from ironic.common import states
from ironic.drivers.modules import agent_base
import requests

from ironic_snapshot import attempt
from ironic_snapshot.targets import swift as swift_target
from ironic_snapshot_core import commit
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core.digest import DEFAULT_DIGEST
from ironic_snapshot_core.manifest import CaptureReport
from ironic_snapshot_core.manifest import Unreadable
from ironic_snapshot_core.store import base
from ironic_snapshot_core.units import MiB
from tests.contract import node_disk
from tests.contract import snapshot_base


class SlicesTestCase(snapshot_base.SnapshotTestCase):
    """A conductor whose time the test holds."""

    def setUp(self):
        super().setUp()
        self.hold_clock()
        self.moved = 0

    def moving(self, args):
        """A slice in which something was done."""
        self.moved += 1000
        return self.slice(args, self.moved, stored_bytes=self.moved)

    def standing(self, args):
        """A slice in which nothing was done."""
        return self.slice(args, self.moved)

    def begin(self, run, args=None):
        self.agent.run = run
        self.request(args or {})
        self.heartbeat()
        self.assert_waits()

    def beat(self, run, seconds=60):
        """A slice ends; the agent does this in the next one."""
        self.agent.run = run
        self.clock.advance(seconds)
        self.heartbeat()

    def assert_waits(self):
        self.assertEqual(states.SERVICEWAIT, self.node.provision_state,
                         self.node.last_error)
        self.assertEqual(attempt.RUNNING, self.record.status)

    def finish(self):
        """The capture comes to its end."""
        if self.agent.commands[-1]['command_status'] == 'RUNNING':
            self.agent.succeed(self.moving(self.agent.received[-1]['args']))
        self.beat(self.capture)
        self.assert_waits()
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state,
                         self.node.last_error)
        self.assertEqual(attempt.COMMITTED, self.record.status)
        manifest, = self.snapshots()
        self.assertEqual(self.record.snapshot, manifest.id)
        self.assert_image_is_the_disk(manifest.id)
        self.assertEqual([], self.leases())
        self.assert_no_secret()
        return manifest

    def asked(self):
        """The arguments that the agent was given with each slice."""
        return [step['args'] for step in self.agent.received]


class ProgressTest(SlicesTestCase):

    def test_progress_is_shown(self):
        self.begin(self.moving)
        first = self.record
        self.beat(lambda args: self.slice(
            args, 7000, percent=70, read_bytes=7000, eta=None,
            phase='sample', colour='red'))
        self.assert_waits()
        shown = self.node.driver_internal_info['snapshot']
        self.assertEqual(10, shown['progress']['percent'])
        self.assertEqual('clusters', shown['progress']['phase'])
        self.assertEqual(180, shown['progress']['eta'])
        self.assertEqual(1, shown['progress']['slices'])
        self.beat(self.moving)
        shown = self.node.driver_internal_info['snapshot']['progress']
        self.assertEqual(
            {'phase': 'sample', 'percent': 70, 'total_bytes': 10000,
             'read_bytes': 7000, 'data_bytes': 800, 'stored_bytes': 300,
             'packs': 1, 'rate': 50, 'slices': 2, 'moved': 7000},
            {key: value for key, value in shown.items()
             if not key.endswith('_at')})
        self.assertLess(
            len(json.dumps(self.node.driver_internal_info['snapshot'])), 2048)
        self.assertEqual(
            (first.snapshot, first.started_at, first.sequence, 1),
            (self.record.snapshot, self.record.started_at,
             self.record.sequence, self.record.tries))
        self.finish()
        self.assertNotIn('progress',
                         self.node.driver_internal_info['snapshot'])

    def test_result(self):
        self.begin(self.moving)
        manifest = self.finish()
        self.assertEqual(
            {'full_reason': 'it is the first of its lineage',
             'image': manifest.image.name,
             'image_bytes': manifest.image.size,
             'virtual_bytes': manifest.totals.virtual_bytes,
             'used_bytes': manifest.totals.used_bytes,
             'data_bytes': manifest.totals.data_bytes,
             'new_bytes': manifest.totals.stored_bytes,
             'shared_bytes': 0,
             'degraded': False, 'unreadable_bytes': 0},
            {key: value for key, value in self.record.result.items()
             if key != 'seconds'})
        self.assertGreater(self.record.result['seconds'], 0)

    def test_node_never_leaves_service_wait(self):
        seen = []

        def run(args):
            seen.append(self.dbapi.get_node_by_id(self.node.id)
                        .provision_state)
            return self.moving(args)
        self.begin(run)
        for _slice in range(3):
            self.beat(run)
            self.assert_waits()
        # The first slice is Ironic's own way into the step.
        self.assertEqual([states.SERVICING] + 3 * [states.SERVICEWAIT], seen)
        self.assertEqual(
            [states.SOFT_POWER_OFF, 'ramdisk', states.POWER_ON], self.power)

    def test_malformed_results(self):
        for changes in ({'progress': None}, {'more': 'yes'},
                        {'progress': {'moved': -1}}, {'protocol': 'x' * 9999},
                        {'snapshot': self.node.uuid}):
            self.agent.restart()
            self.begin(lambda args, changes=changes:
                       {**self.moving(args), **changes})
            self.beat(self.moving)
            self.assert_failed('the result of the agent')
            self.assertLess(len(self.node.last_error), 300)
            self.assertEqual(1, len(self.asked()))
            del self.agent.received[:]

    def test_configuration_changes_on_the_way(self):
        self.begin(self.moving, {'compression_level': 3,
                                 'bandwidth_limit': 500})
        self.config(cluster_size=65536, compression='zlib', pack_size=1,
                    slice_interval=300, bandwidth_limit=100,
                    group='snapshot')
        self.beat(self.moving)
        first, second = self.asked()
        for args in (first, second):
            del args['grant']
        self.assertEqual(first, second)
        self.assertEqual((262144, 'zstd', 3), (
            second['cluster_size'], second['codec'], second['codec_level']))
        self.finish()

    def test_two_snapshots_in_one_request(self):
        self.agent.run = self.moving
        step = {'interface': 'deploy', 'step': 'snapshot', 'args': {}}
        self.call('do_node_service', [step, step])
        self.heartbeat()
        self.beat(self.capture)
        self.assert_waits()
        first = self.record.snapshot
        # The agent is still busy with something when the second begins.
        with self.with_busy_agent():
            self.heartbeat()
        self.assert_waits()
        self.assertNotEqual(first, self.record.snapshot)
        self.beat(self.capture)
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertEqual([1, 2], [m.sequence for m in self.snapshots()])

    def test_degraded(self):
        def run(args):
            prefix = layout.attempt_prefix(
                layout.Lineage(**args['lineage']), args['snapshot'])
            result = self.capture(args)
            report = CaptureReport.from_bytes(
                self.store.get(prefix + layout.REPORT, MiB))
            data = dataclasses.replace(report, unreadable=(
                Unreadable(0, 512), Unreadable(4096, 1024))).to_bytes()
            self.store.put(prefix + layout.REPORT, data)
            result['report'] = {
                'size': len(data), 'etag': base.md5(data),
                'digest': DEFAULT_DIGEST.digest(data).hex()}
            return result
        self.begin(run, {'allow_bad_sectors': True})
        self.assertTrue(self.asked()[0]['allow_bad_sectors'])
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertTrue(self.record.result['degraded'])
        self.assertEqual(1536, self.record.result['unreadable_bytes'])
        self.assertIn('is degraded', self.caplog.text)


class GrantTest(SlicesTestCase):

    def test_each_slice_has_fresh_urls(self):
        self.begin(self.moving)
        for _slice in range(3):
            self.beat(self.moving)
        asked = self.asked()
        self.assertEqual(1, len({args['snapshot'] for args in asked}))
        secrets = []
        for count, args in enumerate(asked):
            grant = args['grant']
            self.assertEqual(
                int(self.clock.time() - 60 * (3 - count)) + 3600,
                grant['expires'])
            prefix = layout.attempt_prefix(self.lineage, args['snapshot'])
            self.assertEqual(
                [('PUT', prefix), ('GET', prefix)],
                [(permission['method'], permission['prefix'])
                 for permission in grant['permissions']])
            secrets += [permission['secret']
                        for permission in grant['permissions']]
        self.assertEqual(8, len(set(secrets)))
        self.assertEqual(set(secrets), self.agent.secrets)
        self.finish()

    def test_grant_opens_the_attempt_and_nothing_else(self):
        self.begin(self.capture)
        grant = self.asked()[0]['grant']
        prefix = layout.attempt_prefix(self.lineage, self.record.snapshot)
        secrets = {permission['method']: permission['secret']
                   for permission in grant['permissions']}

        def status(name, method='GET', **options):
            return requests.request(
                method, f'{grant["container_url"]}/{name}', timeout=10,
                params={'temp_url_sig': secrets[method],
                        'temp_url_expires': grant['expires'],
                        'temp_url_prefix': prefix}, **options).status_code
        self.assertEqual(200, status(prefix + layout.REPORT))
        self.assertEqual(201, status(prefix + 'checkpoint-000001', 'PUT',
                                     data=b'x'))
        lease = layout.lease_name(self.lineage, self.record.snapshot)
        for name in (lease, prefix + '../' + lease, prefix.rstrip('/')):
            self.assertEqual(401, status(name), name)

    def test_eight_hours_with_urls_of_one_hour(self):
        hours = 8
        self.config(slice_interval=300, group='snapshot')
        expiries, leases = [], []

        def run(args):
            now = self.clock.time()
            lease = json.loads(self.store.get(layout.lease_name(
                layout.Lineage(**args['lineage']), args['snapshot']), MiB))
            # Good for this slice and for the one after it.
            self.assertGreater(args['grant']['expires'], now + 2 * 300)
            self.assertGreaterEqual(lease['expires'],
                                    args['grant']['expires'])
            expiries.append(args['grant']['expires'])
            leases.append(lease['expires'])
            return self.moving(args)
        self.begin(run)
        started = self.clock.time()
        while self.clock.time() - started < hours * 3600:
            # The heartbeat is forced when a slice ends, and may be late.
            self.beat(run, seconds=300 + len(expiries) % 60)
            self.assert_waits()
        self.assertGreater(len(expiries), 80)
        self.assertEqual(sorted(set(expiries)), expiries)
        # The lease is not written each time.
        self.assertLess(len(set(leases)), len(leases) * 2 // 3)
        self.assertEqual(len(expiries) - 1, self.record.progress.slices)
        self.finish()

    def test_cost_of_a_slice(self):
        """What a slice asks of Swift: one HEAD of the container."""
        self.begin(self.moving)
        with mock.patch.object(requests.Session, 'send', autospec=True,
                               side_effect=requests.Session.send) as send:
            self.beat(self.moving)
        self.assertEqual(
            ['HEAD'], [call.args[1].method for call in send.call_args_list])

    def test_swift_does_not_answer_for_a_while(self):
        self.begin(self.moving)
        with self.without_grants():
            for _heartbeat in range(3):
                self.beat(self.moving)
                self.assert_waits()
        self.assertEqual(1, len(self.asked()))
        # The slice that had ended before is counted once.
        self.assertEqual(1, self.record.progress.slices)
        self.finish()

    def test_swift_does_not_answer_at_the_commit(self):
        self.begin(self.moving)
        self.beat(self.capture)
        down = errors.StoreUnavailable('stat', 'pack-000001', 'no answer')
        with mock.patch.object(commit, 'commit', side_effect=down):
            for _heartbeat in range(3):
                self.beat(None)
                self.assert_waits()
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertEqual(1, len(self.snapshots()))
        self.assertEqual(2, len(self.asked()))

    def test_swift_never_answers_at_the_commit(self):
        self.begin(self.capture)
        down = errors.StoreUnavailable('stat', 'pack-000001', 'no answer')
        with mock.patch.object(commit, 'commit', side_effect=down):
            self.beat(None, seconds=959)
            self.assert_waits()
            self.beat(None, seconds=1)
        self.assert_failed('[store-unavailable]')
        self.assertIn('no answer for 960 s; look', self.node.last_error)

    def test_agent_answers_with_the_request(self):
        # agent_client quotes the body, grant included, in its exception.
        self.begin(self.moving)

        def quote(step, *args):
            self.agent.receive(step)
            raise exception.IronicException(
                f'Unable to decode: "{json.dumps(step)}"')
        self.agent.execute_service_step = quote
        self.beat(None)
        self.assert_failed('Unable to decode')

    def test_swift_refuses(self):
        self.begin(self.moving)
        denied = errors.AccessDenied('prepare', 'the container', 'no')
        with mock.patch.object(swift_target.SwiftTarget, 'grant',
                               side_effect=denied):
            self.beat(self.moving)
        self.assert_failed('[access-denied]')


class StallTest(SlicesTestCase):

    def test_nothing_moves(self):
        self.begin(self.moving)
        for _slice in range(15):
            self.beat(self.standing)
            self.assert_waits()
        self.beat(self.standing)
        self.assert_failed('[stalled]')
        self.assertIn('nothing was read or stored in the phase "clusters" '
                      'for 900 s', self.node.last_error)
        self.assertEqual(attempt.FAILED, self.record.status)
        self.assertEqual(16, self.record.progress.slices)

    def test_slow_is_not_stalled(self):
        self.begin(self.moving)
        for number in range(60):
            self.beat(self.standing if number % 14 else self.moving)
        self.finish()

    def test_never(self):
        self.config(stall_timeout=0, group='snapshot')
        self.begin(self.moving)
        for _slice in range(10):
            self.beat(self.standing, seconds=3600)
            self.assert_waits()
        self.beat(lambda args: None)
        self.beat(None, seconds=10 ** 6)
        self.finish()

    def test_agent_does_not_end_its_slice(self):
        self.begin(self.moving)
        self.beat(lambda args: None)
        self.beat(None, seconds=959)
        self.assert_waits()
        self.beat(None, seconds=1)
        self.assert_failed('[stalled]')
        self.assertIn('has not ended its slice for 960 s',
                      self.node.last_error)

    def test_agent_cannot_be_reached_for_a_while(self):
        self.begin(self.moving)
        with mock.patch.object(
                self.agent, 'get_commands_status',
                side_effect=exception.AgentConnectionFailed(reason='gone')):
            self.beat(None)
            self.assert_waits()
        self.finish()

    def test_agent_cannot_be_reached_any_more(self):
        self.begin(self.moving)
        with mock.patch.object(
                self.agent, 'get_commands_status',
                side_effect=exception.AgentConnectionFailed(reason='gone')):
            for _heartbeat in range(15):
                self.beat(None)
                self.assert_waits()
            self.beat(None)
        self.assert_failed('gone')
        self.assertIn('[stalled]', self.node.last_error)

    def test_conductor_is_away_for_hours(self):
        self.begin(self.moving)
        self.beat(self.moving, seconds=2 * 3600)
        self.assert_waits()
        self.beat(self.moving, seconds=2 * 3600)
        self.finish()


class AgentRestartsTest(SlicesTestCase):

    def restart(self, run):
        """A new agent process, and its first heartbeat."""
        self.agent.restart()
        self.moved = 0
        self.beat(run)

    def test_same_attempt_goes_on(self):
        self.begin(self.moving, {'name': 'golden'})
        self.beat(self.moving)
        before = self.record
        self.restart(self.moving)
        self.assert_waits()
        after = self.record
        self.assertEqual(2, after.tries)
        for field in ('snapshot', 'name', 'generation', 'sequence',
                      'started_at', 'options', 'lease_expires'):
            self.assertEqual(getattr(before, field), getattr(after, field))
        self.assertEqual(before.progress.percent, after.progress.percent)
        self.assertEqual(1, len({args['snapshot'] for args in self.asked()}))
        self.assertEqual(1, len(self.leases()))
        # It counts from zero again, and that is no standstill.
        self.beat(self.moving, seconds=600)
        self.beat(self.moving, seconds=600)
        self.assertEqual('golden', self.finish().name)

    def test_for_ever(self):
        self.begin(self.moving)
        self.beat(lambda args: None)
        for _try in range(2):
            self.restart(lambda args: None)
            self.assert_waits()
        # The first loss came after something was stored.
        self.restart(lambda args: None)
        self.assert_failed('lost the capture 3 times')

    def test_often_but_storing_more_each_time(self):
        stored = 0

        def run(args):
            nonlocal stored
            stored += 5
            return self.slice(args, 1, stored_bytes=stored)
        self.begin(run)
        for _try in range(10):
            self.beat(run)
            self.restart(run)
            self.assert_waits()
            self.assertEqual(2, self.record.tries)
        self.finish()

    def test_agent_is_busy(self):
        self.begin(self.moving)
        with self.with_busy_agent():
            for _heartbeat in range(5):
                self.beat(None)
                self.assert_waits()
        self.assertEqual(1, self.record.tries)
        self.assertEqual(1, self.record.progress.slices)
        self.finish()

    def test_agent_is_busy_with_something_else_at_the_start(self):
        other = {'id': 'x', 'command_name': 'get_something',
                 'command_status': 'RUNNING'}
        fetch = self.agent.get_service_steps

        def busy(*args):
            try:
                return fetch(*args)
            finally:
                self.agent.commands.append(other)
        self.agent.get_service_steps = busy
        self.agent.run = self.moving
        self.request({})
        for _heartbeat in range(3):
            self.beat(self.moving)
            self.assert_waits()
        self.assertEqual([], self.asked())
        first = self.record.snapshot
        other['command_status'] = 'SUCCEEDED'
        self.beat(self.moving)
        self.assertEqual(1, len(self.asked()))
        self.assertEqual((first, 1), (self.record.snapshot,
                                      self.record.tries))
        self.finish()

    def test_agent_is_busy_with_something_else_for_ever(self):
        self.agent.run = self.moving
        self.request({})
        with self.with_busy_agent():
            self.heartbeat()
        self.agent.commands.append({'command_name': 'get_something',
                                    'command_status': 'RUNNING'})
        self.beat(None, seconds=959)
        self.assert_waits()
        self.beat(None, seconds=1)
        self.assert_failed('[stalled]')

    def test_answer_to_the_slice_is_lost(self):
        self.begin(self.moving)
        with self.with_lost_answers():
            self.beat(self.moving)
        self.assert_waits()
        self.beat(self.moving)
        self.assertEqual(2, self.record.progress.slices)
        self.assertEqual(3, len(self.asked()))
        self.finish()

    def test_ironic_executes_the_step_again(self):
        self.begin(self.moving)
        before = self.record
        self.call('continue_node_service')
        self.assert_waits()
        self.assertEqual(before.snapshot, self.record.snapshot)
        self.assertEqual(1, self.record.tries)
        self.finish()


class ConductorDiesTest(SlicesTestCase):

    def test_before_and_after_each_step_of_a_slice(self):
        self.begin(self.moving)
        first = self.record.snapshot
        slices = self.record.progress.slices
        for _death in self.die_around(
                (swift_target.SwiftTarget, 'grant'),
                (agent_base, 'execute_step'),
                (attempt.Attempt, 'note')):
            self.assert_waits()
            self.beat(self.moving)
            self.assert_waits()
            self.assertEqual((first, 1), (self.record.snapshot,
                                          self.record.tries))
            self.assertGreater(self.record.progress.slices, slices)
            slices = self.record.progress.slices
        self.assertEqual({first}, {args['snapshot'] for args in self.asked()})
        self.finish()

    def test_between_slices(self):
        self.begin(self.moving)
        self.beat(self.moving)
        self.replace_conductor()
        self.beat(self.moving)
        self.finish()


class RealSlicesTest(snapshot_base.SnapshotTestCase):
    """The ramdisk's own sessions, and a capture that takes a few slices."""

    def setUp(self):
        super().setUp()
        self.config(pack_size=1, cluster_size=65536, bandwidth_limit=2,
                    group='snapshot')
        self.disk.write_bytes(random.Random(7).randbytes(9 * MiB))
        self.ramdisk = self.boot()

    def boot(self):
        ramdisk = node_disk.Ramdisk(self.disk)
        self.addCleanup(ramdisk.stop)
        self.agent.run = lambda args: ramdisk.step({**args,
                                                    'slice_seconds': 1})
        return ramdisk

    def run_to_the_end(self, most=30):
        seen = []
        while self.node.provision_state == states.SERVICEWAIT and most:
            most -= 1
            self.heartbeat()
            seen.append(self.record.progress)
        self.assertEqual(states.ACTIVE, self.node.provision_state,
                         self.node.last_error)
        self.assertEqual([self.record.snapshot],
                         [manifest.id for manifest in self.snapshots()])
        self.assert_image_is_the_disk(self.record.snapshot)
        self.assertEqual(
            1, len({step['args']['snapshot'] for step in self.agent.received}))
        self.assert_no_secret()
        return seen[:-1]

    def test_several_slices(self):
        self.request({})
        self.heartbeat()
        seen = self.run_to_the_end()
        self.assertGreaterEqual(len(seen), 3)
        for name in ('percent', 'read_bytes', 'stored_bytes', 'moved',
                     'slices'):
            values = [getattr(progress, name) for progress in seen]
            self.assertEqual(sorted(values), values, name)
        self.assertGreater(seen[-1].stored_bytes, 0)
        self.assertEqual(len(self.agent.received), len(self.agent.secrets) / 2)

    def test_agent_restarts_on_the_way(self):
        self.request({})
        self.heartbeat()
        self.heartbeat()
        self.assertEqual(states.SERVICEWAIT, self.node.provision_state)
        self.ramdisk.stop()
        self.agent.restart()
        self.boot()
        self.run_to_the_end()
        self.assertEqual(2, self.record.tries)


class AbortTest(SlicesTestCase):

    def assert_aborted(self):
        if not self.can_abort_failure():
            # This release stops half-way.
            self.look_for_orphans()
        else:
            self.assertEqual(states.ACTIVE, self.node.provision_state)
            self.assertEqual(attempt.ABORTED, self.record.status)
        self.assert_runs_own_system()
        self.assertEqual([], self.leases())
        self.assertEqual([], self.snapshots())
        self.assert_no_secret()

    def test_between_slices(self):
        self.begin(self.moving)
        self.beat(self.moving)
        self.abort()
        self.assert_aborted()
        # How far it had got is still there to read.
        self.assertEqual(1, self.record.progress.slices)

    def test_while_a_slice_runs(self):
        self.begin(self.moving)
        self.beat(lambda args: None)
        self.abort()
        self.assert_aborted()
        self.agent.restart()
        self.begin(self.moving)
        self.finish()
