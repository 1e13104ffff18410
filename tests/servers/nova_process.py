# SPDX-License-Identifier: Apache-2.0
"""Nova's own compute API and compute manager, in a process of their own.

    python -m tests.servers.nova_process

Real: the compute API, the compute manager with our driver, the databases of
Nova's own tests, the client of Glance and openstacksdk. Not there: the message
bus between API and manager, Neutron and Placement. Takes one line of JSON that
says where Ironic and Glance are, then one request per line, ``[method of
Compute, arguments]``, and answers each with a line.

Not in the process of the tests, for Ironic and Nova share names in one global
configuration.
"""
# First of all: it decides how threads work.
from ironic_snapshot.nova import compute

import json
import logging
import os
import sys
import threading
import time
from unittest import mock

from nova.compute import api as compute_api
from nova.compute import manager as compute_manager
from nova.compute import vm_states
import nova.conf
from nova import context as nova_context
from nova.network import model as network_model
from nova import objects
from nova import test
from nova.tests import fixtures as nova_fixtures
from openstack import proxy
from oslo_utils.fixture import uuidsentinel as uuids
from oslo_utils import timeutils

CONF = nova.conf.CONF

DRIVER = 'ironic_snapshot.nova.driver.IronicSnapshotDriver'
HOST = 'compute'

#: Seconds that a second of the driver's takes.
PACE = 0.001

_GET_ENDPOINT = proxy.Proxy.get_endpoint


class Died(BaseException):
    """The process is gone; nothing may catch it."""


class HurryingClock:
    """Hours pass in seconds."""

    def __init__(self):
        self.died = None

    def monotonic(self):
        return time.monotonic() / PACE

    def sleep(self, seconds):
        if self.died:
            self.died.set()
            raise Died
        time.sleep(seconds * PACE)


class MessageBus:
    """Brings the casts of the API to the manager, each in a thread."""

    def __init__(self, manager):
        self._manager = manager

    def snapshot_instance(self, context, instance, image_id):
        # It returns at once: the work is done in a pool of its own.
        self._send(self._manager.snapshot_instance, context, image_id,
                   instance)

    def backup_instance(self, context, instance, image_id, *args):
        self._send(self._manager.backup_instance, context, image_id,
                   instance, *args)

    def shelve_instance(self, context, instance, image_id, **kwargs):
        self._send(self._manager.shelve_instance, context, instance,
                   image_id, **kwargs)

    def terminate_instance(self, context, instance, bdms):
        self._send(self._manager.terminate_instance, context, instance, bdms)

    def stop_instance(self, context, instance, **kwargs):
        self._send(self._manager.stop_instance, context, instance, True)

    def _send(self, method, *args, **kwargs):
        threading.Thread(target=self._deliver, args=(method, args, kwargs),
                         daemon=True).start()

    @staticmethod
    def _deliver(method, args, kwargs):
        try:
            method(*args, **kwargs)
        except Exception:
            # It is in the faults of the server, where tests look for it.
            logging.getLogger(__name__).exception('The message failed')


class Compute(test.TestCase):
    """What a user and an operator do with Nova."""

    def __init__(self, ironic, glance):
        super().__init__('runTest')
        self._urls = {'ironic': ironic, 'glance': glance}

    def runTest(self):
        raise AssertionError('this is no test')

    def setUp(self):
        super().setUp()
        self.flags(host=HOST, max_concurrent_snapshots=2,
                   max_concurrent_builds=2, service_down_time=86400)
        self.flags(auth_type='none', group='ironic',
                   endpoint_override=self._urls['ironic'],
                   api_max_retries=30, api_retry_interval=0,
                   status_code_retries=1)
        self.flags(group='glance', num_retries=0,
                   endpoint_override=self._urls['glance'])
        self.useFixture(nova_fixtures.NeutronFixture(self))
        compute.register()
        self.set_option('max_concurrent_backups', 1)
        self.manager = compute_manager.ComputeManager(DRIVER)
        # Placement is not there; Ironic is.
        self.stub_out('openstack.proxy.Proxy.get_endpoint', _GET_ENDPOINT)
        self.driver = self.manager.driver
        self.driver._clock = HurryingClock()
        self.driver.init_host(HOST)
        self.manager.reportclient = mock.Mock()
        objects.Service(
            nova_context.get_admin_context(), host=HOST, topic='compute',
            binary='nova-compute', report_count=1, disabled=False,
            last_seen_up=timeutils.utcnow(with_timezone=True)).create()
        self.api = compute_api.API()
        bus = MessageBus(self.manager)
        self.api.compute_rpcapi = self.manager.compute_api.compute_rpcapi = bus

    def _context(self, user):
        return nova_context.RequestContext(
            user['id'], user['project'], auth_token=user['token'],
            is_admin=user.get('admin', False))

    def _instance(self, server):
        return objects.Instance.get_by_uuid(
            nova_context.get_admin_context(), server, expected_attrs=[
                'system_metadata', 'flavor', 'metadata', 'info_cache'])

    # Requests

    def create(self, node, user, **fields):
        """A server that runs on a node."""
        context = self._context(user)
        flavor = objects.Flavor.get_by_name(context, 'm1.small')
        instance = objects.Instance(context, **{
            'host': HOST, 'node': node, 'compute_id': 1,
            'project_id': user['project'],
            'user_id': user['id'], 'vm_state': vm_states.ACTIVE,
            'power_state': 1, 'display_name': 'server',
            'image_ref': uuids.base, 'os_type': 'linux', 'locked': False,
            'metadata': {},
            'system_metadata': {
                'image_kernel_id': 'a-kernel', 'image_base_image_ref': 'base',
                'image_disk_format': 'raw', 'image_min_disk': '1',
                'image_container_format': 'bare'},
            'launched_at': timeutils.utcnow(with_timezone=True),
            **fields})
        instance.flavor = flavor
        instance.info_cache = objects.InstanceInfoCache(
            network_info=network_model.NetworkInfo())
        instance.numa_topology = None
        instance.create()
        objects.InstanceMapping(
            context, instance_uuid=instance.uuid, project_id=user['project'],
            cell_mapping=self.cell_mappings['cell1']).create()
        return instance.uuid

    def show(self, server):
        instance = self._instance(server)
        # The latest comes first.
        faults = objects.InstanceFaultList.get_by_instance_uuids(
            nova_context.get_admin_context(), [server])
        return {**{name: getattr(instance, name) for name in (
            'task_state', 'vm_state', 'power_state')},
            'fault': faults[0].message if faults else None}

    def create_image(self, server, user, name='an image'):
        return self.api.snapshot(
            self._context(user), self._instance(server), name)['id']

    def backup(self, server, user, name='a backup', rotation=1):
        return self.api.backup(
            self._context(user), self._instance(server), name, 'daily',
            rotation, extra_properties={})['id']

    def shelve(self, server, user):
        self.api.shelve(self._context(user), self._instance(server))

    def delete(self, server, user):
        self.api.delete(self._context(user), self._instance(server))

    def sync_power(self, server):
        """What the periodic task does for each server."""
        self.driver._refresh_cache()
        self.manager._query_driver_power_state_and_sync(
            nova_context.get_admin_context(), self._instance(server))

    def restart(self, server):
        """A nova-compute that waits for the server dies, and another starts.
        """
        self.driver._clock.died = threading.Event()
        assert self.driver._clock.died.wait(60)
        self.driver._clock = HurryingClock()
        self.manager._init_instance(
            nova_context.get_admin_context(), self._instance(server))

    def reconnect(self):
        """Forget which versions Ironic's API has."""
        self.driver._ironic_connection = None

    def set_option(self, name, value):
        """Of the driver."""
        self.flags(group='ironic_snapshot', **{name: value})


def main():
    requests = sys.stdin
    answers, sys.stdout = sys.stdout, sys.stderr
    nova = Compute(**json.loads(requests.readline()))
    nova.setUp()
    # The fixtures keep it to themselves.
    logging.getLogger().addHandler(logging.StreamHandler(sys.stderr))
    print(json.dumps(['ready', None]), file=answers, flush=True)
    for line in requests:
        method, arguments = json.loads(line)
        try:
            answer = [getattr(nova, method)(**arguments), None]
        except Exception as exc:
            logging.getLogger(__name__).exception('The request failed')
            answer = [None, f'{type(exc).__name__}: {exc}']
        print(json.dumps(answer), file=answers, flush=True)
    # Threads that still wait for a node would keep it alive.
    os._exit(0)


if __name__ == '__main__':
    main()
