# SPDX-License-Identifier: Apache-2.0
"""Deploy interfaces that take snapshots, and restore them.

The service steps ``snapshot`` and ``restore``, and the deploy step
``restore``, exist twice: the agent offers those that do the work, and the
ones here shadow them, so that the agent gets fresh temporary URLs that the
user never sees and the node record never holds. What else is overridden is how
Ironic ends servicing: whatever happens, the tenant gets the machine back; but
a machine whose disk is half restored is held, and never booted.
"""
import copy
import functools

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
from ironic.drivers.modules import deploy_utils
from oslo_log import log

try:
    from ironic.conductor import configdrive_utils
except ImportError:
    # Earlier releases of Ironic have its functions there.
    configdrive_utils = manager_utils

from ironic_snapshot import arguments
from ironic_snapshot import attempt
from ironic_snapshot import clone
from ironic_snapshot import exchange
from ironic_snapshot import power
from ironic_snapshot import publication
from ironic_snapshot import publication_record
from ironic_snapshot import record
from ironic_snapshot import restoration
from ironic_snapshot import restore_arguments
from ironic_snapshot import restore_record
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
_REASON_FOLLOWS = ('servicing ended before the step did; see "baremetal '
                   'node history list"')
_DEPLOYMENT_FAILED = ('the deployment ended before the step did; see '
                      '"baremetal node history list"')

# With the name of a step.
_NOT_IN_RAMDISK = ('The ramdisk of this node has no hardware manager for '
                   'deploy.%s: build it with ipa_snapshot_hardware ("pip '
                   'install ironic-snapshot[ramdisk]")')

# Our steps, and the modules that know how they are done.
_WORKS = ((arguments.SCHEMA, service), (restore_arguments.SCHEMA, restoration))

_WAITING = {'service': states.SERVICEWAIT, 'deploy': states.DEPLOYWAIT}


def _work(step):
    """The module that does this step, or None if it is none of ours."""
    return next(
        (work for schema, work in _WORKS if schema.is_step(step)), None)


def _is_orphan(node):
    """Whether somebody should be at work on it, if nobody is.

    One that is held waits for its user.
    """
    return attempt.is_prepared_for_snapshot(node) and not (
        restore_record.is_inconsistent(node)
        and not any(this.open for this in _records(node)))


def _records(node):
    """Those of the last restore and the last attempt, if there are any."""
    return [this for this in (restore_record.load(node), attempt.load(node))
            if this is not None]


class SnapshotDeployMixin:
    """The steps, and the way out of them, on top of an agent deploy interface.

    Every override names the behaviour of Ironic that it answers;
    tests/contract pins that behaviour.
    """

    # Whether this interface writes images at all.
    _deploys_images = False

    # Which steps there are

    def get_service_steps(self, task):
        """Our steps and the agent's, ours in place of equal ones.

        Nothing until the agent's are known: do_node_service() boots the
        ramdisk only because the requested step is not known without it.

        :raises: NodeServicingFailure when the request can never succeed.
        """
        in_band = super().get_service_steps(task)
        info = task.node.driver_internal_info
        asked = [schema for schema, _work in _WORKS
                 if schema.requested(task.node)]
        if not in_band:
            if info.get('service_disable_ramdisk'):
                for schema in asked:
                    raise exception.NodeServicingFailure(
                        f'Service step deploy.{schema.step} works in the '
                        'ramdisk: request it without "disable_ramdisk"')
                if restore_record.is_inconsistent(task.node):
                    # Ironic would call the node active afterwards.
                    raise exception.NodeServicingFailure(
                        restore_record.explain_hold(task.node))
            return []
        for schema in asked:
            if not any(map(schema.is_step, in_band)):
                raise exception.NodeServicingFailure(
                    _NOT_IN_RAMDISK % schema.step)
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
                       argsinfo=arguments.SCHEMA.argsinfo)
    def snapshot(self, task, **args):
        """Capture the root disk as one complete qcow2 image in Swift.

        :param task: a TaskManager with an exclusive lock.
        :param args: see :mod:`ironic_snapshot.arguments`.
        :raises: NodeServicingFailure when the capture could not be begun.
        :returns: SERVICEWAIT: the agent works on it.
        """
        return self._begin(
            task, service, functools.partial(service.start, task, args))

    @METRICS.timer('SnapshotDeploy.restore')
    @base.deploy_step(priority=80)
    @base.service_step(priority=0, abortable=False,
                       argsinfo=restore_arguments.SCHEMA.argsinfo)
    def restore(self, task, **args):
        """Write a snapshot to the root disk: only what differs.

        As a deploy step it writes the one that instance_info names, if any.

        Ironic knows no step that can be aborted until some moment; so this
        one cannot, and _abort_unsent() does what can be done.

        :param task: a TaskManager with an exclusive lock.
        :param args: see :mod:`ironic_snapshot.restore_arguments`; none for a
            deploy step.
        :raises: NodeServicingFailure or InstanceDeployFailure when the
            restore could not be begun.
        :returns: SERVICEWAIT or DEPLOYWAIT: the agent works on it; None:
            there is nothing to do.
        """
        if record.step_type(task.node) == 'service':
            return self._begin(
                task, restoration,
                functools.partial(restoration.start, task, args))
        if not clone.is_requested(task.node):
            return None
        if not agent_base.find_step(task, 'deploy', 'deploy', 'restore'):
            raise exception.InstanceDeployFailure(_NOT_IN_RAMDISK % 'restore')
        return self._begin(
            task, restoration, functools.partial(clone.start, task))

    @METRICS.timer('SnapshotDeploy.write_config_drive')
    @base.deploy_step(priority=70)
    def write_config_drive(self, task):
        """Write the config drive after a snapshot, if there is one.

        With an image, the agent does it in one step.

        :param task: a TaskManager with an exclusive lock.
        :returns: DEPLOYWAIT: the agent works on it; None: there is nothing
            to do.
        """
        if not clone.is_requested(task.node):
            return None
        config_drive = configdrive_utils.get_configdrive_image(task.node)
        if not config_drive:
            return None
        result = agent_base.execute_step(
            task, {'interface': 'deploy', 'step': 'write_config_drive',
                   'args': {'configdrive': config_drive}}, 'deploy')
        # An agent that restarts does it again.
        async_steps.set_node_flags(task.node, skip_current_step=False,
                                   step_type='deploy')
        return result

    @staticmethod
    @agent_base.post_deploy_step_hook(interface='deploy',
                                      step='write_config_drive')
    def _go_on_after_config_drive(task, command):
        """It is written: do not do it again."""
        async_steps.set_node_flags(task.node, skip_current_step=True,
                                   step_type='deploy')

    def _begin(self, task, work, start):
        """Begin a step, or go on with one that Ironic executes again.

        :param start: gives the first slice, if the step has not begun.
        """
        node = task.node
        kind = record.step_type(node)
        this = work.current(node)
        if this is not None and this.done:
            return None
        try:
            self._send(task, work.proceed(task) if this else start())
            return _WAITING[kind]
        except exception.AgentInProgress:
            # The agent is still at an earlier command; do_next_service_step
            # and do_next_deploy_step wait, and the next heartbeat goes on
            # with this one.
            raise
        except Exception as exc:
            this = restore_record.current(node)
            if (exchange.is_passing(exc) and this is not None
                    and this.status == record.RUNNING):
                # The agent may have heard of it and may be writing.
                LOG.warning('Restore of node %(node)s waits for the next '
                            'heartbeat: %(why)s',
                            {'node': node.uuid, 'why': redact.redact(
                                exchange.explain(exc))})
                async_steps.set_node_flags(node, skip_current_step=False,
                                           step_type=kind)
                return _WAITING[kind]
            # The text may quote the request; no traceback, for it may too.
            reason = redact.redact(exchange.explain(exc))
            step = record.step(node)['step']
            if kind == 'service':
                # With a step on the node servicing_error_handler() puts it in
                # maintenance, which stands in the way of "abort".
                node.service_step = {}
            work.close(node, record.FAILED, reason)
            if kind == 'deploy':
                raise exception.InstanceDeployFailure(reason) from None
            raise exception.NodeServicingFailure(
                f'deploy.{step}: {reason}') from None

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
            captures = service.check(task)
            restores = restoration.check(task)
        except errors.Error as exc:
            raise exception.NodeServicingFailure(
                exchange.explain(exc)) from None
        attempt.set_prepared(node, for_snapshot=bool(captures or restores))
        if captures or restores:
            self._shut_down(task, captures, restores)
        return super().prepare_service(task)

    def _shut_down(self, task, captures, restores):
        # What runs on a disk that is half restored is the ramdisk.
        soft = (not restore_record.is_inconsistent(task.node)
                and all(asked.shutdown == 'soft'
                        for asked in (*captures, *restores)))
        if restores:
            restoration.prepare(task.node)
        if captures or any(asked.before is not None for asked in restores):
            service.shut_down(task, soft)
        else:
            power.shut_down(
                task, CONF.snapshot.shutdown_timeout if soft else 0)

    def tear_down_service(self, task):
        """Boot the node back into its own system, if it was taken out of it.

        Ironic calls this after success, failure, timeout and abort. It leaves
        a node with a service fault powered off; a snapshot is no reason for
        that. A node whose disk is half restored stays where it is.

        :raises: NodeServicingFailure where Ironic would call such a node
            active.
        """
        node = task.node
        if not attempt.is_prepared(node):
            LOG.debug('Node %s was not touched for servicing; nothing to '
                      'tear down', node.uuid)
            return
        aborted = node.provision_state == states.ACTIVE
        for work in (restoration, service):
            work.close(node, *(
                (record.ABORTED, 'aborted on request') if aborted
                else (record.FAILED, _REASON_FOLLOWS)))
        if (attempt.is_prepared_for_snapshot(node)
                and node.fault == faults.SERVICE_FAILURE):
            node.fault = None
            node.maintenance = False
        if restore_record.is_inconsistent(node):
            return self._hold(task)
        super().tear_down_service(task)
        attempt.clear_prepared(node)

    def _hold(self, task):
        """Leave the node in the ramdisk, in "service failed".

        Its power is left alone: whatever boots finds no boot sector. Without
        maintenance mode the step can be run again at once, and
        maintenance_reason stays when Ironic clears last_error.

        :raises: NodeServicingFailure unless Ironic is about to fail the node
            anyway.
        """
        node = task.node
        reason = restore_record.explain_hold(node)
        if not (node.maintenance and node.maintenance_reason):
            node.maintenance_reason = reason
            node.save()
        if node.provision_state == states.ACTIVE:
            # "abort" has left "service failed" already.
            task.process_event('service', target_state=states.ACTIVE)
            task.process_event('fail')
        elif (node.provision_state == states.SERVICEFAIL
              or node.driver_internal_info.get('service_steps')):
            return
        raise exception.NodeServicingFailure(reason)

    def restore_interface(self, task):
        """Called last by servicing_error_handler(): put the record right."""
        super().restore_interface(task)
        node = task.node
        for this in _records(node):
            if this.reason == _REASON_FOLLOWS and node.last_error:
                this.ended(this.status, reason=node.last_error).save(node)
        if (restore_record.is_inconsistent(node)
                and attempt.is_prepared(node)):
            self._explain_hold(node)
        elif node.maintenance_reason and not node.maintenance:
            node.maintenance_reason = None
            node.save()

    def _explain_hold(self, node):
        """Say why the node is held, beside what has happened now."""
        reason = restore_record.explain_hold(node)
        if reason not in (node.last_error or ''):
            node.last_error = f'{node.last_error or ""} {reason}'.strip()
            node.save()

    # While the agent works

    def process_next_step(self, task, step_type, **kwargs):
        """On each heartbeat: has the agent finished, failed or restarted?

        Ironic runs the *deploy* error handler for a failed service step; so
        neither success nor failure of ours is left to it. Nor is the next
        slice: Ironic would take the node through "servicing" or "deploying"
        for it, and a conductor that dies or starts meanwhile fails the node.
        """
        node = task.node
        work = _work(record.step(node)) if step_type in _WAITING else None
        if work is None:
            return super().process_next_step(task, step_type, **kwargs)
        this = work.acting(node)
        if this is None:
            # The agent was busy when the step should have begun.
            async_steps.set_node_flags(node, skip_current_step=False,
                                       step_type=step_type)
            return agent_base._continue_steps(task, step_type)
        if work.current(node).done:
            return self._complete(task)
        if self._abort_unsent(task):
            return
        try:
            commands = agent_client.get_client(task).get_commands_status(node)
        except exception.AgentConnectionFailed as exc:
            return self._wait(task, exchange.explain(exc), LOG.warning)
        if agent_base._freshly_booted(commands, step_type):
            return self._proceed(task, lost=True)
        if (exchange.is_idle(commands, step_type)
                or exchange.is_handled(this, commands[-1])):
            return self._proceed(task)
        command = exchange.ended_command(
            commands, {'interface': 'deploy', 'step': this.STEP}, step_type)
        if command is None:
            return self._wait(task, 'the agent has not ended its slice')
        if command['command_status'] != 'SUCCEEDED':
            return self._give_up(
                task, agent_client.get_command_error(command), ended=True)
        try:
            more = work.take(task, command)
        except Exception as exc:
            LOG.debug('The result is not taken', exc_info=True)
            return self._bear(task, exc)
        return self._proceed(task) if more else self._complete(task)

    def _abort_unsent(self, task):
        """Heed "abort" of a restore while nothing can have been written.

        :returns: whether it was asked for.
        """
        this = restore_record.current(task.node)
        if (this is None or not this.unsent
                or not record.step(task.node).get('abort_after')):
            return False
        self._give_up(task, 'aborted on request before anything was written',
                      status=record.ABORTED)
        return True

    def _proceed(self, task, lost=False):
        """Have the agent do another slice, with fresh temporary URLs."""
        try:
            self._send(
                task, _work(record.step(task.node)).proceed(task, lost))
        except Exception as exc:
            return self._bear(task, exc)

    def _send(self, task, slice):
        """Give the agent a slice, and remember it once it has taken it.

        A conductor that dies in between does it again, which is safe.

        :param slice: holds signatures; the step with them is never saved.
        """
        node = task.node
        kind = record.step_type(node)
        step = copy.deepcopy(record.step(node))
        step.update(step=slice.step, args=slice.args)
        agent_base.execute_step(task, step, kind)
        slice.record.note(node)
        # Without the flag a restarted agent makes Ironic skip the step and
        # report success.
        async_steps.set_node_flags(node, skip_current_step=False,
                                   step_type=kind)

    def _bear(self, task, exc):
        """Try again with the next heartbeat what may do better then."""
        if not exchange.is_passing(exc):
            return self._give_up(task, exchange.explain(exc))
        # What was taken already is not taken again.
        task.node.save()
        return self._wait(task, exchange.explain(exc), LOG.warning)

    def _wait(self, task, why, log=LOG.debug):
        """Leave it to the next heartbeat, unless there were too many."""
        why = redact.redact(why)
        node = task.node
        log('Step %(step)s of node %(node)s waits for the next heartbeat: '
            '%(why)s', {'step': record.step(node)['step'], 'node': node.uuid,
                        'why': why})
        try:
            exchange.check_answering(
                _work(record.step(node)).acting(node), why)
        except errors.Stalled as exc:
            self._give_up(task, exchange.explain(exc))

    def _complete(self, task):
        """Go on after what is committed, or restored.

        What super() would end with, without asking the agent once more: it
        must not be able to fail what is done.
        """
        kind = record.step_type(task.node)
        async_steps.set_node_flags(task.node, skip_current_step=True,
                                   step_type=kind)
        return agent_base._continue_steps(task, kind)

    def _give_up(self, task, reason, ended=False, status=record.FAILED):
        """Boot the node back first, then say why: booting clears errors.

        :param ended: the agent itself has ended with this.
        """
        node = task.node
        reason = redact.redact(reason)
        if record.step_type(node) == 'deploy':
            return self._fail_deployment(task, reason, ended)
        step = (node.service_step or {}).get('step')
        message = (f'Service step deploy.{step} failed: {reason}' if step
                   else f'Servicing failed: {reason}')
        for work in (restoration, service):
            work.close(node, status, reason, ended)
        try:
            self.tear_down_service(task)
        except Exception as exc:
            LOG.exception('Node %s could not be booted back', node.uuid)
            message += (f' The node could not be booted back ({exc}); this '
                        'is tried again.')
        manager_utils.servicing_error_handler(
            task, message, tear_down_service=False, set_maintenance=False)

    def _fail_deployment(self, task, reason, ended):
        """Leave the node in "deploy failed", as Ironic does."""
        node = task.node
        restoration.close(node, record.FAILED, reason, ended)
        message = f'Deploy step deploy.restore failed: {reason}'
        if restore_record.is_inconsistent(node):
            message = (f'{message.rstrip(".")}. The disk is not bootable; '
                       'deploy the node again, or undeploy it.')
        deploy_utils.set_failed_state(
            task, message, collect_logs=self.collect_deploy_logs)

    # When a conductor died on it

    @METRICS.timer('SnapshotDeploy._boot_back_orphans')
    @periodics.node_periodic(
        purpose='looking after nodes whose step was cut off',
        spacing=CONF.snapshot.orphan_check_interval,
        enabled=CONF.snapshot.orphan_check_interval > 0,
        filters={'provision_state_in': _ORPHAN_STATES, 'reserved': False,
                 'maintenance': False},
        predicate_extra_fields=['driver_internal_info'],
        predicate=_is_orphan,
        shared_task=False,
    )
    def _boot_back_orphans(self, task, manager, context):
        """Boot back what no worker is busy with any more.

        A conductor that dies while a node is in "servicing" leaves it there,
        or in "service failed" when it comes back, in the ramdisk. A capture
        or a restore that was begun by then goes on, as long as the node is in
        "servicing"; a disk that is half restored is not booted.
        """
        node = task.node
        if node.provision_state not in _ORPHAN_STATES or not _is_orphan(node):
            return
        work = _work(node.service_step)
        this = work and work.current(node)
        if (node.provision_state == states.SERVICING and this is not None
                and this.open):
            LOG.warning('A conductor stopped while it began a %(step)s of '
                        'node %(node)s; it goes on with the next heartbeat '
                        'of the agent',
                        {'step': this.STEP, 'node': node.uuid})
            task.process_event('wait')
            return
        LOG.warning('Node %(node)s is in state "%(state)s" with nobody '
                    'working on it; booting it back',
                    {'node': node.uuid, 'state': node.provision_state})
        if node.provision_state == states.SERVICING:
            self._give_up(task, self._explain_orphan(node))
            return
        reason = node.last_error
        self.tear_down_service(task)
        node.last_error = reason
        node.save()
        if restore_record.is_inconsistent(node):
            self._explain_hold(node)

    def _explain_orphan(self, node):
        records = _records(node)
        # One that is open may have no time yet.
        last = max(records, default=None,
                   key=lambda this: (this.open, this.started_at))
        if last is not None and last.done:
            return (f'the conductor stopped after snapshot {last.snapshot} '
                    f'was {last.status}; steps that were to follow have not '
                    'run')
        return ('the conductor stopped while it was working on the node; run '
                'the step again')

    # When a snapshot is to become an image

    @METRICS.timer('SnapshotDeploy._publish')
    @periodics.node_periodic(
        purpose='making images of snapshots',
        spacing=CONF.snapshot.publication_interval,
        filters={'reserved': False},
        predicate_extra_fields=['driver_internal_info'],
        predicate=publication_record.is_open,
        shared_task=False,
    )
    def _publish(self, task, manager, context):
        """Bring images a little further, whatever the node is at."""
        publication.advance(task)

    # A deployment begins and ends

    def validate(self, task):
        """What Ironic asks of an image is of no matter to a snapshot.

        :raises: InvalidParameterValue.
        """
        if not clone.is_requested(task.node):
            return super().validate(task)
        agent.CustomAgentDeploy.validate(self, task)
        clone.check(task)

    def prepare(self, task):
        """A new deployment is a new lineage.

        :raises: InvalidParameterValue when the snapshot to deploy is damaged.
        """
        if task.node.provision_state == states.DEPLOYING:
            self._end_deployment(task.node)
            if self._deploys_images:
                clone.find_image(task.node)
                task.node.save()
            if clone.is_requested(task.node):
                clone.verify(task.node)
        return super().prepare(task)

    def _update_instance_info(self, task):
        """There is no image to look for; it boots as from one of a disk."""
        if not clone.is_requested(task.node):
            return super()._update_instance_info(task)
        task.node.set_driver_internal_info('is_whole_disk_image', True)
        task.node.save()

    def clean_up(self, task):
        """Ironic calls this, too, when a deployment has failed."""
        if task.node.provision_state in (
                states.DEPLOYING, states.DEPLOYWAIT, states.DEPLOYFAIL):
            restoration.close(task.node, record.FAILED, _DEPLOYMENT_FAILED)
        super().clean_up(task)

    def tear_down(self, task):
        """The next tenant never builds on this one's snapshots."""
        self._end_deployment(task.node)
        return super().tear_down(task)

    def _end_deployment(self, node):
        # Its lease ends.
        restoration.close(node, record.ABORTED, _DEPLOYMENT_FAILED)
        restore_record.forget(node)
        clone.forget_image(node)
        attempt.end_lineage(node)
        attempt.clear_prepared(node)


class DirectSnapshotDeploy(SnapshotDeployMixin, agent.AgentDeploy):
    """Deploy interface ``direct-snapshot``."""

    _deploys_images = True

    @base.deploy_step(priority=80)
    def write_image(self, task):
        """Write the image, unless a snapshot is written instead."""
        if clone.is_requested(task.node):
            return None
        return super().write_image(task)


class CustomAgentSnapshotDeploy(SnapshotDeployMixin, agent.CustomAgentDeploy):
    """Deploy interface ``custom-agent-snapshot``."""
