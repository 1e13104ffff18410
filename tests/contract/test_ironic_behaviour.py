# SPDX-License-Identifier: Apache-2.0
"""What stock Ironic does, and our deploy interface answers.

A test that fails here says that a release of Ironic behaves differently: look
at the override of :mod:`ironic_snapshot.deploy` that the test names.
"""
from unittest import mock

from ironic.common import exception
from ironic.common import faults
from ironic.common import states
from ironic.conductor import task_manager
from ironic.conductor import utils as manager_utils
from ironic.drivers.modules import agent_base
from ironic.drivers import utils as driver_utils
from ironic_python_agent.extensions import base as agent_extensions
from oslo_config import cfg

from tests.contract import conductor_base


class StockServiceStepTest(conductor_base.ConductorTestCase):
    driver = 'fake-hardware'
    deploy_interface = 'direct'

    def start_step(self):
        self.agent.run = lambda args: None
        self.request({})
        self.heartbeat()
        self.assertEqual(states.SERVICEWAIT, self.node.provision_state)

    def test_unknown_step_boots_the_ramdisk(self):
        # get_service_steps() must know nothing before the agent does.
        self.request({})
        self.assertIn('ramdisk', self.power)
        self.assertEqual(states.SERVICEWAIT, self.node.provision_state)

    def test_failed_step_leaves_the_node_in_the_ramdisk(self):
        # process_next_step()
        self.start_step()
        self.agent.commands[-1].update(command_status='FAILED',
                                       command_error={'details': 'boom'})
        booted = len(self.power)
        self.heartbeat()
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertNotIn('instance', self.power[booted:])
        self.assertTrue(self.node.service_step)

    def test_restarted_agent_looks_like_success(self):
        # async_steps.set_node_flags(skip_current_step=False)
        self.start_step()
        self.agent.restart()
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertIsNone(self.node.last_error)
        self.assertEqual(1, len(self.agent.received))

    def test_flag_makes_a_restarted_agent_begin_again(self):
        self.start_step()
        self.node.set_driver_internal_info('skip_current_service_step', False)
        self.node.save()
        self.agent.restart()
        self.heartbeat()
        self.assertEqual(states.SERVICEWAIT, self.node.provision_state)
        self.assertEqual(2, len(self.agent.received))

    def test_next_slice_would_go_through_servicing(self):
        # process_next_step(), which stays in "service wait" for it
        self.start_step()
        self.node.set_driver_internal_info('skip_current_service_step', False)
        self.node.save()
        self.agent.succeed({'more': True})
        seen = []
        self.agent.run = lambda args: seen.append(
            self.dbapi.get_node_by_id(self.node.id).provision_state)
        self.heartbeat()
        self.assertEqual([states.SERVICING], seen)

    def test_conductor_that_starts_fails_a_node_in_servicing(self):
        # process_next_step(), likewise
        self.assertIn(states.SERVICING, states.STUCK_STATES_TREATED_AS_FAIL)
        self.assertNotIn(states.SERVICEWAIT,
                         states.STUCK_STATES_TREATED_AS_FAIL)

    def test_unreachable_agent_fails_the_step(self):
        # process_next_step(), which waits for the next heartbeat
        self.start_step()
        self.agent.get_commands_status = mock.Mock(
            side_effect=exception.AgentConnectionFailed(reason='gone'))
        self.heartbeat()
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)

    def test_busy_agent_keeps_the_step(self):
        # snapshot() leaves the attempt open when the agent is busy
        self.agent.execute_service_step = mock.Mock(
            side_effect=exception.AgentInProgress(
                node=self.node.uuid, command='x', error='busy'))
        self.request({})
        self.heartbeat()
        self.assertEqual(states.SERVICEWAIT, self.node.provision_state)
        self.assertTrue(self.node.service_step)
        self.assertIs(False, self.node.driver_internal_info.get(
            'skip_current_service_step'))

    def test_commands_of_the_agent_have_ids(self):
        # exchange.is_handled()
        self.assertIn('id', agent_extensions.BaseCommandResult(
            'execute_service_step', {}).serialize())

    def test_stale_step_skips_the_request(self):
        # prepare_service()
        self.node.service_step = {'interface': 'deploy', 'step': 'snapshot',
                                  'priority': 0}
        self.node.save()
        self.request({})
        # set_node_service_steps() did not get as far as clearing it.
        self.assertTrue(self.node.service_step)
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertEqual([], self.agent.received)

    def test_timeout_leaves_the_node_off_and_in_maintenance(self):
        # tear_down_service()
        self.start_step()
        booted = len(self.power)
        self.time_out()
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertEqual(faults.SERVICE_FAILURE, self.node.fault)
        self.assertTrue(self.node.maintenance)
        self.assertNotIn('instance', self.power[booted:])

    def test_abort_boots_a_node_whose_step_has_failed(self):
        # _hold()
        self.start_step()
        self.agent.commands[-1].update(command_status='FAILED',
                                       command_error={'details': 'boom'})
        self.heartbeat()
        booted = len(self.power)
        self.abort()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertIn('instance', self.power[booted:])

    def test_abort_waits_for_a_step_that_cannot_be_aborted(self):
        # _abort_unsent()
        self.agent.run = lambda args: None
        self.request({}, step='restore')
        self.heartbeat()
        self.abort()
        self.assertEqual(states.SERVICEWAIT, self.node.provision_state)
        self.assertIs(True, self.node.service_step['abort_after'])

    def test_steps_are_forgotten_before_they_are_torn_down(self):
        # _hold() tells by them whether Ironic is about to fail the node
        seen = []

        def tear_down(interface, task):
            seen.append(task.node.driver_internal_info.get('service_steps'))
        patcher = mock.patch.object(
            agent_base.AgentBaseMixin, 'tear_down_service', tear_down)
        patcher.start()
        self.addCleanup(patcher.stop)
        self.start_step()
        self.time_out()
        self.assertTrue(seen.pop())
        self.node.maintenance = False
        self.node.save()
        self.agent.restart()
        self.start_step()
        self.agent.succeed({})
        self.heartbeat()
        self.assertEqual([None], seen)

    def test_servicing_powers_off_hard(self):
        # power.shut_down()
        self.request({})
        self.assertEqual(states.POWER_OFF, self.power[0])

    def test_error_handler_keeps_maintenance_off_without_a_step(self):
        # snapshot() clears node.service_step before it raises
        with task_manager.acquire(self.context, self.node.uuid) as task:
            task.node.service_step = {}
            manager_utils.servicing_error_handler(
                task, 'boom', tear_down_service=False, set_fail_state=False)
            self.assertFalse(task.node.maintenance)

    def test_verify_ca_wants_a_group_named_like_the_hardware_type(self):
        # conf.VERIFY_CA_GROUPS
        if not hasattr(driver_utils, 'get_verify_ca'):
            self.skipTest('this release of Ironic has no get_verify_ca()')
        self.node.driver = 'no-such-group'
        self.assertRaises(cfg.NoSuchOptError, driver_utils.get_verify_ca,
                          self.node, True)
        self.node.driver = 'redfish-snapshot'
        self.assertTrue(driver_utils.get_verify_ca(self.node, True))


class StockDeployStepTest(conductor_base.ConductorTestCase):
    driver = 'fake-hardware'
    deploy_interface = 'direct'

    def test_image_is_required(self):
        # validate()
        self.node.instance_info = {'snapshot': 'x'}
        self.node.provision_state = states.AVAILABLE
        self.node.save()
        with task_manager.acquire(self.context, self.node.uuid) as task:
            self.assertRaises(exception.MissingParameterValue,
                              task.driver.deploy.validate, task)

    def test_rebuild_requires_an_image(self):
        # doc/source/admin.rst sends users to the service step
        self.node.instance_info = {'snapshot': 'x'}
        self.node.save()
        self.assertRaises(UnboundLocalError, self.call, 'do_node_deploy',
                          rebuild=True)

    def test_restarted_agent_looks_like_success(self):
        # process_next_step(), write_config_drive()
        step = {'interface': 'deploy', 'step': 'restore', 'priority': 80}
        self.node.provision_state = states.DEPLOYWAIT
        self.node.target_provision_state = states.ACTIVE
        self.node.deploy_step = step
        self.node.driver_internal_info = {
            'deploy_steps': [step], 'deploy_step_index': 0,
            'steps_validated': True, 'agent_cached_deploy_steps': {'x': []}}
        self.node.save()
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertEqual([], self.agent.received)
