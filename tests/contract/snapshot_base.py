# SPDX-License-Identifier: Apache-2.0
"""A real conductor that snapshots a node into a real Swift.

The agent is scripted at its HTTP edge, but what it runs is the real capture
of the ramdisk side with the real grant.
"""
import json
import logging
import subprocess
from unittest import mock

from ironic.common import driver_factory
from ironic.common import states
from keystoneauth1 import loading
import pytest

from ironic_snapshot import attempt
from ironic_snapshot import exchange
from ironic_snapshot import service
from ironic_snapshot.targets import swift as swift_target
from ironic_snapshot_core import layout
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
        self.container = f'snapshots-{self.id().rsplit(".", 1)[1]}'[:120]
        self.config(container=self.container, require_https=False,
                    auth_type='v1password', group='snapshot')
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
        options = loading.get_auth_plugin_conf_options(
            loading.get_plugin_loader('v1password'))
        service.CONF.register_opts(options, group='snapshot')

        def forget():
            # One of them is required: other tests have no value for it.
            service.CONF.reset()
            service.CONF.unregister_opts(options, group='snapshot')
        self.addCleanup(forget)
        self.config(auth_url=self.swift.auth_url, username=self.swift.user,
                    password=self.swift.key, group='snapshot')

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

    # What happens to conductors

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
