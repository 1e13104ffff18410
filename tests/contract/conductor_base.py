# SPDX-License-Identifier: Apache-2.0
"""A real conductor in the test process, with a real database.

Real: ConductorManager, the state machine, the step code, the deploy
interface under test and its way through stevedore. Not real, because it has
no counterpart here: the BMC (Ironic's own fake interfaces, whose calls are
recorded) and the HTTP of the agent (:class:`ScriptedAgent`).
"""
import copy
import logging.config
from unittest import mock
import uuid

import futurist
from ironic.common import exception
from ironic.common import states
from ironic.conductor import task_manager
from ironic.conductor import utils as manager_utils
from ironic.drivers.modules import agent_client
from ironic.drivers.modules import fake
from ironic.tests.unit.conductor import mgr_utils
from ironic.tests.unit.db import base as db_base
from ironic.tests.unit.objects import utils as obj_utils
import oslo_messaging as messaging

from ironic_snapshot import conf as _conf  # noqa: F401  registers [snapshot]

MANIFEST_KEY = 'k' * 32
IN_BAND_STEPS = {'SnapshotHardwareManager': [
    {'interface': 'deploy', 'step': 'snapshot', 'priority': 0,
     'abortable': True, 'reboot_requested': False},
    {'interface': 'deploy', 'step': 'restore', 'priority': 0,
     'abortable': False, 'reboot_requested': False}]}
IN_BAND_DEPLOY_STEPS = {'SnapshotHardwareManager': [
    {'interface': 'deploy', 'step': step, 'priority': 0,
     'abortable': False, 'reboot_requested': False}
    for step in ('write_config_drive', 'restore')]}


class ScriptedAgent:
    """Answers the conductor as an agent does, at the edge of its client.

    :ivar commands: what ``get_commands_status`` answers.
    :ivar run: called with the arguments of the step; returns its result or
        raises, which makes the command fail.
    """

    def __init__(self):
        self.commands = []
        self.run = lambda args: {}
        self.steps = IN_BAND_STEPS
        self.deploy_steps = IN_BAND_DEPLOY_STEPS
        self.bootloaders = 0
        self.received = []
        self.secrets = set()

    def get_service_steps(self, node, ports):
        return self._tell_steps('service', self.steps)

    def get_deploy_steps(self, node, ports):
        return self._tell_steps('deploy', self.deploy_steps)

    def _tell_steps(self, kind, steps):
        self.commands.append({'id': str(uuid.uuid4()),
                              'command_name': f'get_{kind}_steps',
                              'command_status': 'SUCCEEDED'})
        return {'command_result': {
            f'{kind}_steps': steps,
            'hardware_manager_version': {'snapshot': '1'}}}

    def execute_service_step(self, step, node, ports, *args, **kwargs):
        return self._execute('service', step, node)

    def execute_deploy_step(self, step, node, ports, *args, **kwargs):
        return self._execute('deploy', step, node)

    def _execute(self, kind, step, node):
        name = f'execute_{kind}_step'
        if self.commands and self.commands[-1]['command_status'] == 'RUNNING':
            raise exception.AgentInProgress(
                node=node.uuid, command=name, error='Agent is busy')
        self.receive(step)
        command = {'id': str(uuid.uuid4()), 'command_name': name,
                   'command_status': 'RUNNING'}
        self.commands.append(command)
        try:
            result = self.run(step['args'])
        except Exception as exc:
            command.update(command_status='FAILED', command_error={
                'details': str(exc), 'type': type(exc).__name__})
        else:
            if result is not None:
                self.succeed(result, step)
        return dict(command, command_status='RUNNING')

    def receive(self, step):
        """The step has arrived; remember what must never be seen again."""
        self.received.append(copy.deepcopy(step))
        for permission in step['args'].get('grant', {}).get(
                'permissions', ()):
            self.secrets.add(permission['secret'])
        if secret := step['args'].get('upload', {}).get('secret'):
            self.secrets.add(secret)

    def succeed(self, result, step=None):
        """The last command ends with this result."""
        step = dict(step or self.received[-1], args={})
        _, kind, _ = self.commands[-1]['command_name'].split('_')
        self.commands[-1].update(
            command_status='SUCCEEDED', command_result={
                f'{kind}_result': result, f'{kind}_step': step})

    def restart(self):
        """A new agent process: the token is kept, the commands are not."""
        self.commands = []

    def get_commands_status(self, node, *args, **kwargs):
        return self.commands

    def get_partition_uuids(self, node):
        return {'command_result': {}}

    def install_bootloader(self, node, **kwargs):
        self.bootloaders += 1
        return {'command_status': 'SUCCEEDED'}


class ConductorTestCase(mgr_utils.ServiceSetUpMixin, db_base.DbTestCase):
    """A conductor with one active node.

    :cvar driver: hardware type of the node.
    :cvar deploy_interface: its deploy interface.
    """

    # These tests start no process, but real servers and qemu-img may be.
    block_execute = False
    driver = 'fake-hardware-snapshot'
    deploy_interface = 'direct-snapshot'

    def _clear_attrs(self):
        # Ironic's base deletes what pytest has set and deletes itself.
        pass

    def setUp(self):
        # The migration of the database would silence every logger, and no
        # test would see what is logged.
        with mock.patch.object(logging.config, 'fileConfig'):
            super().setUp()
        self.config(
            enabled_hardware_types=['fake-hardware',
                                    'fake-hardware-snapshot'],
            enabled_deploy_interfaces=['fake', 'direct', 'direct-snapshot',
                                       'custom-agent-snapshot'],
            default_deploy_interface=None)
        self.config(manifest_key=MANIFEST_KEY, group='snapshot')
        # Logs would be fetched from an address where nobody is, past the
        # scripted agent.
        self.config(deploy_logs_collect='never', group='agent')
        # Where the ramdisk would call back to.
        self.config(auth_type='none', group='service_catalog',
                    endpoint_override='http://192.0.2.2:6385')
        self._start_service()
        # Work is done when the call that asked for it returns; newer
        # releases of Ironic have it so in their own tests.
        self.service._executor = futurist.SynchronousExecutor()
        self.service._reserved_executor = futurist.SynchronousExecutor()
        self.addCleanup(self._stop_service)
        self.agent = ScriptedAgent()
        patcher = mock.patch.object(agent_client, 'get_client',
                                    lambda task: self.agent)
        patcher.start()
        self.addCleanup(patcher.stop)
        self.power = self._record_power()
        self.node = self.create_node(name='node-0')

    def create_node(self, **fields):
        """A node that is active and belongs to nobody, unless told."""
        return obj_utils.create_test_node(self.context, **{
            'driver': self.driver, 'boot_interface': 'fake',
            'deploy_interface': self.deploy_interface,
            'network_interface': 'noop', 'storage_interface': 'noop',
            'provision_state': states.ACTIVE, 'target_provision_state': None,
            'power_state': states.POWER_ON, 'instance_uuid': None,
            'owner': None, 'lessee': None, 'driver_internal_info': {},
            'instance_info': {'image_source': 'http://example.org/image'},
            **fields})

    def _record_power(self):
        """The BMC's log: power changes and boot devices, in order."""
        log = []
        self.machine = states.POWER_ON

        def power(interface, task, state, timeout=None):
            log.append(state)
            self.machine = (states.POWER_OFF if 'off' in state
                            else states.POWER_ON)
            task.node.power_state = self.machine

        def noted(word):
            return lambda interface, task, *args, **kwargs: log.append(word)

        for target, name, new in (
                (fake.FakePower, 'set_power_state', power),
                (fake.FakePower, 'get_power_state',
                 lambda interface, task: self.machine),
                (fake.FakePower, 'get_supported_power_states',
                 lambda interface, task: [
                     states.POWER_ON, states.POWER_OFF,
                     states.SOFT_POWER_OFF, states.REBOOT]),
                (fake.FakeBoot, 'prepare_ramdisk', noted('ramdisk')),
                (fake.FakeBoot, 'prepare_instance', noted('instance'))):
            patcher = mock.patch.object(target, name, new)
            patcher.start()
            self.addCleanup(patcher.stop)
        return log

    # What a user and an agent do

    def request(self, args=None, **fields):
        """``baremetal node service`` with one step, ours by default."""
        step = {'interface': 'deploy', 'step': 'snapshot', **fields}
        if args is not None:
            step['args'] = args
        self.call('do_node_service', [step])

    def call(self, method, *args, **kwargs):
        """One call of the conductor's RPC interface."""
        try:
            getattr(self.service, method)(self.context, self.node.uuid,
                                          *args, **kwargs)
        except messaging.rpc.ExpectedException as exc:
            raise exc.exc_info[1] from None
        self.node.refresh()

    def heartbeat(self):
        """The agent says that it is alive."""
        with task_manager.acquire(self.context, self.node.uuid,
                                  shared=True) as task:
            task.driver.deploy.heartbeat(task, 'https://192.0.2.1:9999',
                                         '13.0.0')
        self.node.refresh()

    def abort(self):
        """``baremetal node abort``."""
        if (self.node.provision_state == states.SERVICEFAIL
                and not self.can_abort_failure()):
            self.skipTest('this release of Ironic cannot abort from "service '
                          'failed"')
        self.call('do_provisioning_action', 'abort')

    def can_abort_failure(self):
        """Whether "abort" leads from "service failed" to "active"."""
        with task_manager.acquire(self.context, self.node.uuid,
                                  shared=True) as task:
            machine = task.fsm.copy()
        machine.initialize(states.SERVICEFAIL)
        return machine.is_actionable_event('abort')

    def time_out(self):
        """What the conductor does when heartbeats stay away."""
        with task_manager.acquire(self.context, self.node.uuid) as task:
            clean_up = {
                states.SERVICEWAIT: manager_utils.cleanup_servicewait_timeout,
                states.DEPLOYWAIT: manager_utils.cleanup_after_timeout,
            }[task.node.provision_state]
            task.process_event(
                'fail', callback=self.service._spawn_worker,
                call_args=(clean_up, task),
                err_handler=manager_utils.provisioning_error_handler)
        self.node.refresh()

    # What must hold afterwards

    def assert_runs_own_system(self):
        """Booted back, and neither faulty nor in maintenance."""
        self.assertEqual(['instance', states.POWER_ON], [
            entry for entry in self.power
            if entry in ('instance', states.POWER_ON)][-2:], self.power)
        self.assertEqual(states.POWER_ON, self.machine)
        self.assertEqual(states.POWER_ON, self.node.power_state)
        self.assertFalse(self.node.maintenance, self.node.maintenance_reason)
        self.assertIsNone(self.node.fault)
        self.assertIsNone(self.node.reservation)
