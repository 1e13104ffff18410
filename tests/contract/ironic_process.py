# SPDX-License-Identifier: Apache-2.0
"""A real Ironic in a process of its own: API, conductor and database.

    python -m tests.contract.ironic_process DIRECTORY PORT

Real: the API with its microversions and masks, the state machine, locks, the
database, and what the conductor side notes in the node record. Scripted,
because they have their own tests: the deploy interface, whose service step
``snapshot`` remembers its arguments and waits, and the BMC (Ironic's own
fake). What a test makes happen it says by POST to
``/control/<method of Control>``.

Not in the process of the tests, for Ironic and Nova share names in one global
configuration.
"""
import json
import pathlib
import sys
import threading
import uuid

from cheroot import wsgi
from ironic.common import context as ironic_context
from ironic.common import exception
from ironic.common import rpc
from ironic.common import service
from ironic.common import states
from ironic.conductor import manager as conductor_manager
from ironic.conductor import steps as conductor_steps
from ironic.conductor import task_manager
from ironic.conductor import utils as conductor_utils
from ironic.db import migration
from ironic.drivers import base
from ironic.drivers.modules import fake
from ironic import objects

from ironic_snapshot import attempt
from ironic_snapshot import publication_record
from tests.servers import settings

INTERFACES = {
    name: 'noop' if name in ('network', 'storage') else 'fake'
    for name in ('bios', 'boot', 'deploy', 'inspect', 'management',
                 'network', 'power', 'raid', 'storage', 'vendor')}


class ScriptedDeploy(fake.FakeDeploy):
    """Does with the service step what the test says."""

    received = []
    refusal = ''
    way_back = threading.Event()

    def get_service_steps(self, task):
        # Not known before the ramdisk runs: so Ironic prepares the node.
        return self.service_steps if attempt.is_prepared(task.node) else []

    def prepare_service(self, task):
        if self.refusal:
            raise exception.NodeServicingFailure(self.refusal)
        attempt.set_prepared(task.node, for_snapshot=True)
        # What Ironic does when the agent has told its steps.
        conductor_steps.set_node_service_steps(task)

    @base.service_step(priority=0, abortable=True, argsinfo={
        name: {'description': name}
        for name in ('destination', 'image_id', 'name')})
    def snapshot(self, task, **args):
        self.received.append(args)
        return states.SERVICEWAIT

    def tear_down_service(self, task):
        conductor_utils.node_power_action(task, states.POWER_OFF)
        assert self.way_back.wait(60)
        conductor_utils.node_power_action(task, states.POWER_ON)
        # As our deploy interface does after a snapshot.
        task.node.fault = None
        task.node.maintenance = False
        attempt.clear_prepared(task.node)


class Control:
    """What happens to nodes, as a test says it."""

    def __init__(self, conductor):
        self._conductor = conductor
        self._context = ironic_context.get_admin_context()

    def create(self, **fields):
        node = objects.Node(self._context, **{
            'driver': 'fake-hardware', 'provision_state': states.ACTIVE,
            'power_state': states.POWER_ON, 'resource_class': 'gold',
            'driver_internal_info': {}, 'properties': {'cpu_arch': 'x86_64'},
            **{f'{name}_interface': value
               for name, value in INTERFACES.items()}, **fields})
        node.create()
        ScriptedDeploy.way_back.set()
        ScriptedDeploy.refusal = ''

    def change(self, node, **fields):
        """Change fields of the record."""
        found = self._node(node)
        for name, value in fields.items():
            setattr(found, name, value)
        found.save()

    def show(self, node):
        found = self._node(node)
        return {name: getattr(found, name) for name in (
            'provision_state', 'power_state', 'driver_internal_info',
            'reservation', 'instance_uuid', 'last_error')}

    def received(self):
        """Arguments of all service steps so far."""
        return ScriptedDeploy.received

    def refuse(self, reason):
        """The next capture is refused before the node is touched."""
        ScriptedDeploy.refusal = reason

    def hold_way_back(self):
        """Nodes stay on their way back to their own system."""
        ScriptedDeploy.way_back.clear()

    def release_way_back(self):
        ScriptedDeploy.way_back.set()

    def publish(self, node, image_id, status, reason=''):
        """Note how far the publication of an image is."""
        with task_manager.acquire(self._context, node) as task:
            publication_record.note(task.node, publication_record.Publication(
                snapshot=str(uuid.uuid4()), container='snapshots',
                generation=str(uuid.uuid4()), image_id=image_id,
                project='alpha', method='import', ours=False, status=status,
                reason=reason))
            task.node.save()

    def finish(self, node):
        """The capture has ended well: the node boots back."""
        self._conductor.continue_node_service(self._context, node)

    def fail(self, node, reason):
        """The capture has failed."""
        with task_manager.acquire(self._context, node) as task:
            attempt.Attempt(attempt.FAILED, reason=reason).note(task.node)
            conductor_utils.servicing_error_handler(task, reason)

    def _node(self, node):
        return objects.Node.get_by_uuid(self._context, node)


def configure(directory):
    path = directory / 'ironic.conf'
    path.write_text(settings.text({
        'DEFAULT': {
            'auth_strategy': 'noauth', 'rpc_transport': 'none',
            'debug': True, 'host': 'conductor', 'use_stderr': True,
            'enabled_hardware_types': 'fake-hardware',
            **{f'enabled_{name}_interfaces': value
               for name, value in INTERFACES.items()}},
        'database': {
            'connection': f'sqlite:///{directory}/ironic.sqlite'},
        'oslo_messaging_notifications': {'driver': 'noop'},
        # The fake BMC knows no state of its own.
        'conductor': {'sync_power_state_interval': 0},
    }))
    service.prepare_service('ironic', ['ironic', f'--config-file={path}'])


def main():
    directory, port = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    configure(directory)
    migration.create_schema()
    fake.FakeDeploy = ScriptedDeploy
    conductor = conductor_manager.ConductorManager('conductor')
    conductor.prepare_host()
    conductor.init_host(ironic_context.get_admin_context())
    rpc.set_global_manager(conductor)
    control = Control(conductor)
    from ironic.api import app
    api = app.VersionSelectorApplication()

    def serve(environ, start_response):
        _, kind, *rest = environ['PATH_INFO'].split('/')
        if kind != 'control':
            return api(environ, start_response)
        wanted = json.loads(environ['wsgi.input'].read(
            int(environ['CONTENT_LENGTH'])))
        answer = getattr(control, rest[0])(**wanted)
        start_response('200 OK', [('Content-Type', 'application/json')])
        return [json.dumps(answer).encode()]

    wsgi.Server(('127.0.0.1', port), serve, numthreads=8).start()


if __name__ == '__main__':
    main()
