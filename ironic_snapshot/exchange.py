# SPDX-License-Identifier: Apache-2.0
"""What the conductor and the agent say to each other, whatever it is about.

A step of ours is many commands of the agent, one for each slice. Here is what
a capture and a restore have in common: a slice, its end, and what goes wrong
in between. Records are those of the node: :class:`Attempt` and
:class:`Restoration`.
"""
import dataclasses
from typing import Any

from ironic.common import exception
from ironic.conductor import steps as conductor_steps
from keystoneauth1 import exceptions as keystone_exceptions
from oslo_log import log

from ironic_snapshot.conf import CONF
from ironic_snapshot_core import errors
from ironic_snapshot_core.clock import Clock
from ironic_snapshot_core.clock import SystemClock
from ironic_snapshot_core.manifest import format_time

LOG = log.getLogger(__name__)

# Version of what the conductor and the agent say to each other.
PROTOCOL = 1

CLOCK: Clock = SystemClock()

# What the agent says is checked against this name.
RESULT = 'the result of the agent'

# Of a time that the agent says.
_MOST_SECONDS = 10 ** 9


@dataclasses.dataclass(frozen=True, slots=True)
class Slice:
    """A slice for the agent.

    :ivar record: of the node, to be noted once the agent has taken it.
    :ivar step: name of the agent's step.
    :ivar args: its arguments. They hold signatures: they are sent to the
        agent and neither saved nor logged.
    """

    record: Any
    step: str
    args: dict[str, Any]


def now() -> str:
    """This moment, as records have it."""
    return format_time(CLOCK.time())


def is_idle(commands: list[dict[str, Any]], step_type: str) -> bool:
    """Whether the agent has ended something that is no step of ours.

    It was busy with that when it should have begun a slice.
    """
    return (commands[-1]['command_name'] != f'execute_{step_type}_step'
            and commands[-1]['command_status'] != 'RUNNING')


def is_handled(this: Any, command: dict[str, Any]) -> bool:
    """Whether this command of the agent was dealt with before."""
    return bool(this.handled) and command_id(command) == this.handled


def ended_command(commands: list[dict[str, Any]], step: dict[str, Any],
                  step_type: str) -> dict[str, Any] | None:
    """The last command of the agent, if it is this step and has ended.

    As Ironic's own agent_base does; but the agent's step need not be the
    node's.
    """
    command = commands[-1]
    if (command['command_name'] != f'execute_{step_type}_step'
            or command['command_status'] == 'RUNNING'):
        return None
    if command['command_status'] == 'SUCCEEDED':
        about = (command.get('command_result') or {}).get(f'{step_type}_step')
        if not about or not conductor_steps.is_equivalent(about, step):
            # The slice that it was asked for last has not begun yet.
            return None
    return command


def command_id(command: dict[str, Any]) -> str:
    """The id of a command of the agent; empty if it has no proper one."""
    found = command.get('id')
    return found if isinstance(found, str) and len(found) <= 64 else ''


def step_result(command: dict[str, Any], step_type: str) -> Any:
    """What the agent has answered to its step, unchecked."""
    return (command.get('command_result') or {}).get(f'{step_type}_result')


def check_result(result: Any, **expected: str) -> bool:
    """Whether there is more, from a result that is about this.

    :param result: unchecked.
    :param expected: what it must say itself to be about.
    :raises: UnsupportedVersion, Corrupted.
    """
    version = result.get('protocol') if isinstance(result, dict) else None
    if version != PROTOCOL:
        raise errors.UnsupportedVersion(
            what=RESULT, found=version if isinstance(version, int) else None,
            supported=PROTOCOL)
    for name, value in expected.items():
        if result.get(name) != value:
            raise errors.Corrupted(
                what=RESULT, reason=f'it is about another {name}')
    more = result.get('more')
    if not isinstance(more, bool):
        raise errors.Corrupted(
            what=RESULT, reason='it does not say whether there is more')
    return more


def note_progress(node, this: Any, result: dict[str, Any]) -> Any:
    """Note how far the agent is, and see that it gets on.

    The node record is changed and not saved.

    :param result: of a slice that was not the last.
    :returns: the record with it.
    :raises: Corrupted when it is nonsense, Stalled when nothing moves.
    """
    moment = CLOCK.time()
    this = dataclasses.replace(this, progress=this.progress.reported(
        result.get('progress'), moment))
    this.note(node)
    this.progress.check_moving(CONF.snapshot.stall_timeout, moment)
    return this


def check_seconds(value: Any) -> float | None:
    """A time that the agent says, or None if it makes no sense."""
    if type(value) not in (int, float) or not 0 <= value <= _MOST_SECONDS:
        return None
    return value


def is_passing(exc: Exception) -> bool:
    """Whether the next heartbeat may find it gone.

    The agent goes on meanwhile, as long as its grant lasts.
    """
    if isinstance(exc, errors.ServiceError):
        return exc.retryable
    return isinstance(exc, (
        exception.AgentConnectionFailed, exception.AgentInProgress,
        keystone_exceptions.RetriableConnectionFailure))


def check_answering(this: Any, why: str) -> None:
    """Check that a slice of the agent is not long overdue.

    :param why: what stands in the way.
    :raises: Stalled.
    """
    timeout = CONF.snapshot.stall_timeout
    this.progress.check_answering(
        timeout and timeout + this.options.get('slice_seconds', 0),
        CLOCK.time(), why.rstrip('.'))


def count_loss(node, this: Any, gained: bool, what: str) -> Any:
    """The record with one more agent, unless there were too many.

    :param gained: the lost one got further than those before it, and so
        makes up for them: what gets on comes to its end.
    :param what: is lost, for people.
    :raises: NodeServicingFailure.
    """
    tries = 1 if gained else this.tries
    if tries >= CONF.snapshot.max_tries:
        raise exception.NodeServicingFailure(
            f'the agent has lost the {what} {tries} times without '
            f'{this.progress.GAIN}; look at the log of the ramdisk, then run '
            'the step again')
    LOG.warning('The agent on node %(node)s has restarted; the %(what)s of '
                'snapshot %(snapshot)s goes on',
                {'node': node.uuid, 'what': what, 'snapshot': this.snapshot})
    return dataclasses.replace(
        this, tries=tries + 1, progress=this.progress.restarted(CLOCK.time()))


def explain(exc: BaseException) -> str:
    """An exception as one line, with the stable code of our own errors."""
    if isinstance(exc, errors.Error):
        return f'[{exc.code}] {exc}'
    return str(exc) or type(exc).__name__
