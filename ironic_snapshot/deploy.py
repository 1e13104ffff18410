# SPDX-License-Identifier: Apache-2.0
"""Deploy interfaces with the service step ``snapshot``.

The step exists twice: the agent offers one that does the work, and the one
here shadows it, so that the agent gets fresh temporary URLs that the user
never sees and the node record never holds. What else is overridden is how
Ironic ends servicing: whatever happens, the tenant gets the machine back.
"""
import copy

from ironic.common import async_steps
from ironic.common import exception
from ironic.common import faults
from ironic.common import metrics_utils
from ironic.common import states
from ironic.conductor import periodics
from ironic.conductor import steps as conductor_steps
from ironic.conductor import utils as manager_utils
from ironic.drivers import base
from ironic.drivers.modules import agent
from ironic.drivers.modules import agent_base
from ironic.drivers.modules import agent_client
from oslo_log import log

from ironic_snapshot import arguments
from ironic_snapshot import attempt
from ironic_snapshot import service
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import errors
from ironic_snapshot_core import redact

LOG = log.getLogger(__name__)
METRICS = metrics_utils.get_metrics_logger(__name__)

# agent_client logs the whole request body, grant included, when an agent
# answers with something that is not JSON.
redact.install([agent_client.__name__])

_ORPHAN_STATES = (states.SERVICING, states.SERVICEFAIL)

# Ironic tears down first and sets last_error then; and it clears last_error
# when it next looks at the power state.
_REASON_FOLLOWS = ('servicing ended before the capture did; see "baremetal '
                   'node history list"')


class SnapshotDeployMixin:
    """The step, and the way out of it, on top of an agent deploy interface.

    Every override names the behaviour of Ironic that it answers;
    tests/contract pins that behaviour.
    """

    # Which steps there are

    def get_service_steps(self, task):
        """Our steps and the agent's, ours in place of equal ones.

        Nothing until the agent's are known: do_node_service() boots the
        ramdisk only because the requested step is not known without it.

        :raises: NodeServicingFailure when the request can never succeed.
        """
        in_band = super().get_service_steps(task)
        asked = arguments.requested(task.node)
        if not in_band:
            info = task.node.driver_internal_info
            if asked and info.get('service_disable_ramdisk'):
                raise exception.NodeServicingFailure(
                    'Service step deploy.snapshot reads the disk from the '
                    'ramdisk: request it without "disable_ramdisk"')
            return []
        if asked and not any(map(arguments.is_snapshot, in_band)):
            raise exception.NodeServicingFailure(
                'The ramdisk of this node has no hardware manager for '
                'deploy.snapshot: build it with ipa_snapshot_hardware '
                '("pip install ironic-snapshot[ramdisk]")')
        steps = [step for step in self.service_steps
                 if conductor_steps.find_step(in_band, step)]
        return steps + [step for step in in_band
                        if not conductor_steps.find_step(steps, step)]

    def execute_service_step(self, task, step):
        """Run our side of our steps, and the others on the agent."""
        if conductor_steps.find_step(self.service_steps, step):
            return self._execute_step(task, step)
        return super().execute_service_step(task, step)

    @METRICS.timer('SnapshotDeploy.snapshot')
    @base.service_step(priority=0, abortable=True,
                       argsinfo=arguments.ARGSINFO)
    def snapshot(self, task, **args):
        """Capture the root disk as one complete qcow2 image in Swift.

        :param task: a TaskManager with an exclusive lock.
        :param args: see :data:`ironic_snapshot.arguments.ARGSINFO`.
        :raises: NodeServicingFailure when the capture could not be begun.
        :returns: SERVICEWAIT: the agent works on it.
        """
        node = task.node
        this = attempt.current(node)
        if this is not None and this.status == attempt.COMMITTED:
            return None
        try:
            self._send(task, *(service.proceed(task) if this
                               else service.start(task, args)))
            return states.SERVICEWAIT
        except exception.AgentInProgress:
            # The agent is still at an earlier command; do_next_service_step
            # waits, and the next heartbeat goes on with this attempt.
            raise
        except Exception as exc:
            # The text may quote the request; no traceback, for it may too.
            reason = redact.redact(service.explain(exc))
            # With a step on the node servicing_error_handler() puts it in
            # maintenance, which stands in the way of "abort".
            node.service_step = {}
            service.close(node, attempt.FAILED, reason)
            raise exception.NodeServicingFailure(
                f'deploy.snapshot: {reason}') from None

    # On the way in and out

    def prepare_service(self, task):
        """Refuse what is wrong, shut the system down, boot the ramdisk.

        :raises: InvalidParameterValue before the node is touched.
        """
        node = task.node
        # A step left over from a failure makes Ironic skip the request and
        # report success.
        node.service_step = {}
        node.save()
        try:
            asked = service.check(task)
        except errors.Error as exc:
            raise exception.NodeServicingFailure(
                service.explain(exc)) from None
        attempt.set_prepared(node, for_snapshot=bool(asked))
        if asked:
            service.shut_down(task, soft=asked[0].shutdown == 'soft')
        return super().prepare_service(task)

    def tear_down_service(self, task):
        """Boot the node back into its own system, if it was taken out of it.

        Ironic calls this after success, failure, timeout and abort. It leaves
        a node with a service fault powered off; a snapshot is no reason for
        that.
        """
        node = task.node
        if not attempt.is_prepared(node):
            LOG.debug('Node %s was not touched for servicing; nothing to '
                      'tear down', node.uuid)
            return
        record = attempt.load(node)
        if record and record.open:
            if node.provision_state == states.ACTIVE:
                service.close(node, attempt.ABORTED, 'aborted on request')
            else:
                service.close(node, attempt.FAILED, _REASON_FOLLOWS)
        if (attempt.is_prepared_for_snapshot(node)
                and node.fault == faults.SERVICE_FAILURE):
            node.fault = None
            node.maintenance = False
        super().tear_down_service(task)
        attempt.clear_prepared(node)

    def restore_interface(self, task):
        """Called last by servicing_error_handler(): put the record right."""
        super().restore_interface(task)
        node = task.node
        record = attempt.load(node)
        if record and record.reason == _REASON_FOLLOWS and node.last_error:
            record.ended(record.status, reason=node.last_error).save(node)
        if node.maintenance_reason and not node.maintenance:
            node.maintenance_reason = None
            node.save()

    # While the agent works

    def process_next_step(self, task, step_type, **kwargs):
        """On each heartbeat: has the agent finished, failed or restarted?

        Ironic runs the *deploy* error handler for a failed service step; so
        neither success nor failure of ours is left to it. Nor is the next
        slice: Ironic would take the node through "servicing" for it, and a
        conductor that dies or starts meanwhile fails the node.
        """
        node = task.node
        if step_type != 'service' or not arguments.is_snapshot(
                node.service_step):
            return super().process_next_step(task, step_type, **kwargs)
        this = attempt.current(node)
        if this is None:
            # The agent was busy when the step should have begun.
            async_steps.set_node_flags(node, skip_current_step=False,
                                       step_type='service')
            return agent_base._continue_steps(task, 'service')
        if this.status == attempt.COMMITTED:
            return self._complete(task)
        try:
            commands = agent_client.get_client(task).get_commands_status(node)
        except exception.AgentConnectionFailed as exc:
            return self._wait(task, service.explain(exc), LOG.warning)
        if agent_base._freshly_booted(commands, 'service'):
            return self._proceed(task, lost=True)
        if service.is_idle(commands):
            return self._proceed(task)
        command = agent_base._get_completed_command(task, commands, 'service')
        if command is None:
            return self._wait(task, 'the agent has not ended its slice')
        if service.is_handled(this, command):
            return self._proceed(task)
        if command['command_status'] != 'SUCCEEDED':
            return self._give_up(
                task, agent_client.get_command_error(command))
        try:
            more = service.take(task, command)
        except Exception as exc:
            LOG.debug('The result is not taken', exc_info=True)
            return self._bear(task, exc)
        return self._proceed(task) if more else self._complete(task)

    def _proceed(self, task, lost=False):
        """Have the agent do another slice, with fresh temporary URLs."""
        try:
            self._send(task, *service.proceed(task, lost))
        except Exception as exc:
            return self._bear(task, exc)

    def _send(self, task, this, args):
        """Give the agent a slice, and remember it once it has taken it.

        A conductor that dies in between does it again, which is safe.

        :param args: hold signatures; the step with them is never saved.
        """
        node = task.node
        step = copy.deepcopy(node.service_step)
        step['args'] = args
        agent_base.execute_step(task, step, 'service')
        this.note(node)
        # Without the flag a restarted agent makes Ironic skip the step and
        # report success.
        async_steps.set_node_flags(node, skip_current_step=False,
                                   step_type='service')

    def _bear(self, task, exc):
        """Try again with the next heartbeat what may do better then."""
        if not service.is_passing(exc):
            return self._give_up(task, service.explain(exc))
        # What was taken already is not taken again.
        task.node.save()
        return self._wait(task, service.explain(exc), LOG.warning)

    def _wait(self, task, why, log=LOG.debug):
        """Leave it to the next heartbeat, unless there were too many."""
        why = redact.redact(why)
        log('Snapshot of node %(node)s waits for the next heartbeat: %(why)s',
            {'node': task.node.uuid, 'why': why})
        try:
            service.check_answering(task.node, why)
        except errors.Stalled as exc:
            self._give_up(task, service.explain(exc))

    def _complete(self, task):
        """Go on after the committed snapshot.

        What super() would end with, without asking the agent once more: it
        must not be able to fail what is committed.
        """
        async_steps.set_node_flags(task.node, skip_current_step=True,
                                   step_type='service')
        return agent_base._continue_steps(task, 'service')

    def _give_up(self, task, reason):
        """Boot the node back first, then say why: booting clears errors."""
        node = task.node
        reason = redact.redact(reason)
        message = f'Service step deploy.snapshot failed: {reason}'
        service.close(node, attempt.FAILED, reason)
        try:
            self.tear_down_service(task)
        except Exception as exc:
            LOG.exception('Node %s could not be booted back', node.uuid)
            message += (f' The node could not be booted back ({exc}); this '
                        'is tried again.')
        manager_utils.servicing_error_handler(
            task, message, tear_down_service=False, set_maintenance=False)

    # When a conductor died on it

    @METRICS.timer('SnapshotDeploy._boot_back_orphans')
    @periodics.node_periodic(
        purpose='looking after nodes whose snapshot was cut off',
        spacing=CONF.snapshot.orphan_check_interval,
        enabled=CONF.snapshot.orphan_check_interval > 0,
        filters={'provision_state_in': _ORPHAN_STATES, 'reserved': False,
                 'maintenance': False},
        predicate_extra_fields=['driver_internal_info'],
        predicate=attempt.is_prepared_for_snapshot,
        shared_task=False,
    )
    def _boot_back_orphans(self, task, manager, context):
        """Boot back what no worker is busy with any more.

        A conductor that dies while a node is in "servicing" leaves it there,
        or in "service failed" when it comes back, in the ramdisk. A capture
        that was begun by then goes on.
        """
        node = task.node
        if (node.provision_state not in _ORPHAN_STATES
                or not attempt.is_prepared_for_snapshot(node)):
            return
        this = attempt.current(node)
        if (node.provision_state == states.SERVICING and this is not None
                and this.open and arguments.is_snapshot(node.service_step)):
            LOG.warning('A conductor stopped while it began snapshot '
                        '%(snapshot)s of node %(node)s; it goes on with the '
                        'next heartbeat of the agent',
                        {'snapshot': this.snapshot, 'node': node.uuid})
            task.process_event('wait')
            return
        LOG.warning('Node %(node)s is in state "%(state)s" with nobody '
                    'working on its snapshot; booting it back',
                    {'node': node.uuid, 'state': node.provision_state})
        if node.provision_state == states.SERVICING:
            record = attempt.load(node)
            self._give_up(
                task,
                f'the conductor stopped after snapshot {record.snapshot} was '
                'committed; steps that were to follow have not run'
                if record and record.status == attempt.COMMITTED else
                'the conductor stopped while it was working on the node; run '
                'the step again')
            return
        reason = node.last_error
        self.tear_down_service(task)
        node.last_error = reason
        node.save()

    # A deployment begins and ends

    def prepare(self, task):
        """A new deployment is a new lineage."""
        if task.node.provision_state == states.DEPLOYING:
            attempt.end_lineage(task.node)
        return super().prepare(task)

    def tear_down(self, task):
        """The next tenant never builds on this one's snapshots."""
        attempt.end_lineage(task.node)
        attempt.clear_prepared(task.node)
        return super().tear_down(task)


class DirectSnapshotDeploy(SnapshotDeployMixin, agent.AgentDeploy):
    """Deploy interface ``direct-snapshot``."""


class CustomAgentSnapshotDeploy(SnapshotDeployMixin, agent.CustomAgentDeploy):
    """Deploy interface ``custom-agent-snapshot``."""
