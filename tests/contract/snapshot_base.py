# SPDX-License-Identifier: Apache-2.0
"""A real conductor that snapshots a node into a real Swift.

The agent is scripted at its HTTP edge, but what it runs is the real capture
of the ramdisk side with the real grant.
"""
import contextlib
import json
import logging
import subprocess
from unittest import mock

from ironic.common import driver_factory
from ironic.common import exception
from ironic.common import states
from ironic.conductor import task_manager
from ironic.drivers.modules import agent
from ironic.drivers.modules import fake
from ironic.drivers.modules.storage import noop
from keystoneauth1 import loading
import pytest
import requests

from ironic_snapshot import attempt
from ironic_snapshot import exchange
from ironic_snapshot import service
from ironic_snapshot.targets import swift as swift_target
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import prune
from ironic_snapshot_core.clock import ManualClock
from ironic_snapshot_core.clock import SystemClock
from tests.contract import conductor_base
from tests.contract import node_disk


class Died(BaseException):
    """The conductor process is gone; nothing may catch it."""


class SnapshotTestCase(conductor_base.ConductorTestCase):
    """A conductor whose agent captures a small disk."""

    @pytest.fixture(autouse=True)
    def _parts(self, swift, tmp_path, caplog):
        self.swift = swift
        self.tmp = tmp_path
        self.caplog = caplog

    def setUp(self):
        super().setUp()
        self.caplog.set_level(logging.DEBUG)
        # No other test, also of another class, sees what is in it.
        self.container = '-'.join(self.id().rsplit('.', 3)[1:])[:120]
        self.config(container=self.container, require_https=False,
                    group='snapshot')
        swift_target._session.cache_clear()
        self.addCleanup(swift_target._session.cache_clear)
        self.set_credentials()
        self.disk = self.tmp / 'disk.raw'
        node_disk.fill(self.disk, seed=1)
        self.agent.run = self.capture

    def hold_clock(self):
        """From now on the test says what time it is for the conductor."""
        self.clock = ManualClock(SystemClock().time())
        patcher = mock.patch.object(exchange, 'CLOCK', self.clock)
        patcher.start()
        self.addCleanup(patcher.stop)

    def set_credentials(self):
        """What ironic.conf would have under [snapshot]."""
        self.set_plugin('snapshot', 'v1password')
        self.config(auth_url=self.swift.auth_url, username=self.swift.user,
                    password=self.swift.key, group='snapshot')

    def set_plugin(self, group, name):
        """How to be let in, without values."""
        options = loading.get_auth_plugin_conf_options(
            loading.get_plugin_loader(name))
        service.CONF.register_opts(options, group=group)

        def forget():
            # One of them is required: other tests have no value for it.
            service.CONF.reset()
            service.CONF.unregister_opts(options, group=group)
        self.addCleanup(forget)
        self.config(auth_type=name, group=group)

    def capture(self, args):
        """What the hardware manager does with the step."""
        return node_disk.capture(self.disk, args)

    def slice(self, args, moved, **changes):
        """What the agent answers when a slice ends and more is to do."""
        return {'protocol': 1, 'snapshot': args['snapshot'], 'more': True,
                'progress': {
                    'phase': 'clusters', 'percent': 10, 'total_bytes': 10000,
                    'read_bytes': 1000, 'data_bytes': 800,
                    'stored_bytes': 300, 'packs': 1, 'rate': 50, 'eta': 180,
                    'moved': moved, **changes}}

    # What happens to nodes

    def prepare_deployment(self):
        """Ironic prepares another deployment, as for a rebuild."""
        self.node.provision_state = states.DEPLOYING
        self.node.save()
        # What Ironic does there needs the image.
        with (task_manager.acquire(self.context, self.node.uuid) as task,
              mock.patch.object(agent.AgentDeploy, 'prepare')):
            task.driver.deploy.prepare(task)
        self.node.refresh()

    def end_deployment(self):
        """Ironic tears the deployment down."""
        with task_manager.acquire(self.context, self.node.uuid) as task:
            task.driver.deploy.tear_down(task)
        self.node.refresh()

    def run_other_step(self):
        """A whole service step that is none of ours."""
        self.agent.steps = {'Some': [
            {'interface': 'deploy', 'step': 'other', 'priority': 0}]}
        self.agent.run = lambda args: {'fine': True}
        self.request({}, step='other')
        self.heartbeat()
        self.heartbeat()

    def booting_from_a_volume(self):
        """No local disk is anything to the node."""
        return mock.patch.object(noop.NoopStorage, 'should_write_image',
                                 lambda interface, task: False)

    def condemned(self, name):
        """A prune is about to delete an object.

        :param name: the end of its name.
        """
        found = next(each.name for each in self.store.list('v1/')
                     if each.name.endswith(name))
        return mock.patch.object(prune, 'condemned', lambda store: {found})

    # What fails

    def without_grants(self):
        """Swift does not answer whoever wants a grant."""
        return mock.patch.object(
            swift_target.SwiftTarget, 'grant',
            side_effect=errors.StoreUnavailable(
                'prepare', 'the container', 'no answer'))

    def without_way_back(self):
        """The BMC fails when the ramdisk is done with."""
        return mock.patch.object(fake.FakeBoot, 'clean_up_ramdisk',
                                 side_effect=RuntimeError('BMC is gone'))

    def with_busy_agent(self, kind='service'):
        """The agent takes no step."""
        return mock.patch.object(
            self.agent, f'execute_{kind}_step',
            side_effect=exception.AgentInProgress(
                node=self.node.uuid, command='x', error='busy'))

    def with_lost_answers(self):
        """The agent takes steps, and nobody hears of it."""
        execute = self.agent.execute_service_step

        def lose(*args):
            execute(*args)
            raise exception.AgentConnectionFailed(reason='timed out')
        return mock.patch.object(self.agent, 'execute_service_step', lose)

    # What happens to conductors

    def die_at(self, owner, name):
        """At the next heartbeat the conductor dies there, and comes back."""
        with mock.patch.object(owner, name, side_effect=Died):
            self.assertRaises(Died, self.heartbeat)
        self.restart_conductor()

    def die_around(self, *places):
        """Each time a slice ends the conductor dies, and comes back.

        :param places: pairs of an owner and the name of its function; it
            dies before and after each.
        :returns: after each death.
        """
        for owner, name in places:
            work = getattr(owner, name)
            for after in (False, True):
                def die(*args, after=after, work=work, **kwargs):
                    if after:
                        work(*args, **kwargs)
                    raise Died
                self.clock.advance(60)
                with mock.patch.object(owner, name, die):
                    self.assertRaises(Died, self.heartbeat)
                self.restart_conductor()
                yield

    def find_orphan(self, state, last_error=None):
        """Somebody finds the node as a conductor that died has left it."""
        self.node.provision_state = state
        if last_error:
            self.node.last_error = last_error
        self.node.save()
        self.look_for_orphans()

    def replace_conductor(self):
        """Another one goes on, and finds all it needs in the database."""
        self.service.del_host()
        self._start_service()
        self.addCleanup(self.service.del_host)

    def look_for_orphans(self):
        """The periodic of the deploy interface, once."""
        interface = driver_factory.get_interface(
            driver_factory.get_hardware_type(self.driver), 'deploy',
            self.deploy_interface)
        interface._boot_back_orphans(self.service, self.context)
        self.node.refresh()

    def restart_conductor(self):
        """Locks of a dead conductor go when it comes back."""
        self.dbapi.clear_node_reservations_for_conductor(self.service.host)
        self.node.refresh()

    # What there is in the end

    @property
    def record(self):
        return attempt.load(self.node)

    @property
    def store(self):
        return swift_target.named(self.container).store

    @property
    def lineage(self):
        return layout.Lineage(self.node.uuid, self.record.generation)

    def snapshots(self):
        return node_disk.committed(self.store, self.lineage,
                                   conductor_base.MANIFEST_KEY.encode())

    def assert_image_is_the_disk(self, snapshot, disk=None):
        """The image is sound, and reads as the disk does.

        :param disk: as it was then; by default, as it is now.
        """
        path = self.tmp / f'{snapshot}.qcow2'
        name = layout.image_name(self.lineage, snapshot)
        with path.open('wb') as file:
            file.writelines(self.store.iter_bytes(name))
        subprocess.run(['qemu-img', 'check', '-q', path], check=True)
        subprocess.run(['qemu-img', 'compare', '-q', '-f', 'raw', '-F',
                        'qcow2', disk or self.disk, path], check=True)

    def assert_failed(self, text, before=()):
        """One clear error, nothing committed, the tenant has the node.

        :param before: ids of the snapshots that there were already.
        """
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertIn(text, self.node.last_error or '')
        self.assertNotIn('\n', self.node.last_error)
        self.assertEqual(attempt.FAILED, self.record.status)
        self.assertFalse(attempt.is_prepared(self.node))
        self.assert_runs_own_system()
        self.assert_no_secret()
        if self.record.generation:
            self.assertEqual(
                list(before), [each.id for each in self.snapshots()])
            self.assertEqual([], self.leases())

    def leases(self):
        return list(self.store.list(f'{self.lineage.prefix}leases/'))

    def status(self, grant, method, name):
        """What Swift says to the best of the permissions of a grant."""
        return min(requests.request(
            method, f'{grant["container_url"]}/{name}', timeout=10,
            params={'temp_url_sig': each['secret'],
                    'temp_url_expires': grant['expires'],
                    'temp_url_prefix': each['prefix']},
            data=b'x' if method == 'PUT' else None).status_code
            for each in grant['permissions'])

    @contextlib.contextmanager
    def refused(self, text, key):
        """What is asked for meanwhile is refused; the node is not touched.

        :param key: of the entry of the node that stays as it is.
        """
        del self.power[:]
        before = self.node.driver_internal_info.get(key)
        yield
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertIn(text, self.node.last_error)
        self.assertFalse(self.node.maintenance)
        self.assertEqual(before, self.node.driver_internal_info.get(key))
        self.assert_abort_does_not_boot()

    def assert_abort_does_not_boot(self):
        """From "service failed" it leads back to where the node was."""
        self.assertEqual([], self.power)
        self.abort()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertEqual([], self.power)

    def secrets(self):
        """Every signature and key that was in play."""
        return self.agent.secrets | {
            swift_target.named(self.container).ensure(),
            conductor_base.MANIFEST_KEY}

    def assert_no_secret(self):
        """No signature in node fields, history or any log line."""
        # Were the log not seen, nothing would be found in it.
        self.assertIn('ironic.conductor.task_manager', self.caplog.text)
        places = {
            'log': self.caplog.text,
            'node': json.dumps(self.node.as_dict(), default=str),
            'history': ' '.join(
                str(entry.as_dict()) for entry in
                self.dbapi.get_node_history_list())}
        for place, text in places.items():
            for secret in self.secrets():
                self.assertNotIn(secret, text, place)
