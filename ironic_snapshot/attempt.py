# SPDX-License-Identifier: Apache-2.0
"""What the node record remembers of a snapshot, and of its deployment.

Small entries in ``driver_internal_info`` (a TEXT column: a few hundred bytes
each, and never a secret):

``snapshot``
    the running or the last attempt; its status and its progress are what a
    user reads.
``snapshot_generation``
    the second half of the lineage: a new deployment gets a new one.
``service_prepared_for``
    set while the node is away from its own system for servicing.
"""
import dataclasses
from typing import Any
import uuid

from ironic_snapshot.progress import Progress
from ironic_snapshot_core.layout import Lineage

_RECORD = 'snapshot'
_GENERATION = 'snapshot_generation'
_PREPARED = 'service_prepared_for'
_FOR_SNAPSHOT = 'snapshot'
_FOR_OTHERS = 'other steps'

PREPARING = 'preparing'
RUNNING = 'running'
COMMITTED = 'committed'
FAILED = 'failed'
ABORTED = 'aborted'

# A capture is under way: something must end it.
OPEN = frozenset((PREPARING, RUNNING))

# An error text longer than this is cut in the record; last_error has it all.
_REASON_LIMIT = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """One try to take one snapshot.

    :ivar status: one of the constants of this module.
    :ivar snapshot: the id, a UUID; empty while the node is prepared.
    :ivar name: the user's name for it.
    :ivar container: Swift container.
    :ivar generation: second half of the lineage.
    :ivar started_at: ISO 8601, UTC.
    :ivar shutdown: how the node went down: ``clean``, ``forced`` or ``off``.
    :ivar sequence: its place among the snapshots of the lineage.
    :ivar tries: agents that were begun with since something was stored; an
        agent that restarts goes on with the same attempt.
    :ivar lost_at_bytes: that were stored when the agent last restarted.
    :ivar step_index: position of the step in the request.
    :ivar options: arguments of the agent that stay the same from slice to
        slice, whatever becomes of the configuration.
    :ivar lease_expires: seconds since the epoch.
    :ivar handled: id of the last command of the agent that was dealt with.
    :ivar progress: of a capture that is not committed.
    :ivar reason: why it failed.
    :ivar result: figures of a committed snapshot.
    """

    status: str
    snapshot: str = ''
    name: str = ''
    container: str = ''
    generation: str = ''
    started_at: str = ''
    shutdown: str = ''
    sequence: int = 0
    tries: int = 0
    lost_at_bytes: int = 0
    step_index: int | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    lease_expires: int = 0
    handled: str = ''
    progress: Progress = Progress()
    reason: str = ''
    result: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether a capture is under way."""
        return self.status in OPEN

    def note(self, node: Any) -> None:
        """Put it into the node record; the caller saves that."""
        record = {field.name: getattr(self, field.name)
                  for field in dataclasses.fields(self)}
        record['progress'] = (
            {} if self.progress == Progress() else self.progress.to_dict())
        node.set_driver_internal_info(_RECORD, {
            name: value for name, value in record.items()
            if value not in ('', None, {})})

    def save(self, node: Any) -> None:
        """Write it to the node record."""
        self.note(node)
        node.save()

    def ended(self, status: str, **changes: Any) -> 'Attempt':
        """The same attempt, ended."""
        if 'reason' in changes:
            changes['reason'] = changes['reason'][:_REASON_LIMIT]
        return dataclasses.replace(self, status=status, **changes)


def load(node: Any) -> Attempt | None:
    """The attempt that the node record holds."""
    record = node.driver_internal_info.get(_RECORD)
    if not record:
        return None
    known = {field.name for field in dataclasses.fields(Attempt)}
    fields = {key: value for key, value in record.items() if key in known}
    fields['progress'] = Progress.from_dict(record.get('progress') or {})
    return Attempt(**fields)


def current(node: Any) -> Attempt | None:
    """The attempt of the step that the node is at, once it has begun."""
    this = load(node)
    index = node.driver_internal_info.get('service_step_index')
    if (this is None or this.status not in (RUNNING, COMMITTED)
            or this.step_index != index):
        return None
    return this


def lineage(node: Any) -> Lineage:
    """The lineage of the node's present deployment, begun if need be."""
    return Lineage(node.uuid, _generation(node)['id'])


def next_sequence(node: Any) -> int:
    """Take the next place in the lineage.

    Order is by sequence and never by time: clocks jump. A place that comes
    to nothing leaves a gap.
    """
    record = dict(_generation(node))
    record['sequence'] = record.get('sequence', 0) + 1
    node.set_driver_internal_info(_GENERATION, record)
    node.save()
    return record['sequence']


def end_lineage(node: Any) -> None:
    """The deployment is over: the next one is another lineage."""
    node.del_driver_internal_info(_GENERATION)
    node.save()


def set_prepared(node: Any, for_snapshot: bool) -> None:
    """Note that from now on the node must be booted back.

    :param for_snapshot: whether a snapshot is among the steps.
    """
    node.set_driver_internal_info(
        _PREPARED, _FOR_SNAPSHOT if for_snapshot else _FOR_OTHERS)
    node.save()


def is_prepared(node: Any) -> bool:
    """Whether the node is on its way to, in, or on its way from the ramdisk.

    :param node: anything with ``driver_internal_info``.
    """
    return bool(node.driver_internal_info.get(_PREPARED))


def is_prepared_for_snapshot(node: Any) -> bool:
    """The same, and a snapshot is among the steps of the request."""
    return node.driver_internal_info.get(_PREPARED) == _FOR_SNAPSHOT


def clear_prepared(node: Any) -> None:
    """Note that the node runs its own system again."""
    node.del_driver_internal_info(_PREPARED)
    node.save()


def _generation(node: Any) -> dict[str, Any]:
    record = node.driver_internal_info.get(_GENERATION) or {}
    if not record or record.get('instance_uuid') != node.instance_uuid:
        record = {'id': str(uuid.uuid4()),
                  'instance_uuid': node.instance_uuid}
        node.set_driver_internal_info(_GENERATION, record)
        node.save()
    return record
