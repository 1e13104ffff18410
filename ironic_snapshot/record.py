# SPDX-License-Identifier: Apache-2.0
"""What the node record remembers of a capture or a restore.

A small entry in ``driver_internal_info`` (a TEXT column: a few hundred bytes
each, and never a secret).
"""
import dataclasses
from typing import Any, ClassVar

from ironic.common import states

from ironic_snapshot.progress import Progress

PREPARING = 'preparing'
RUNNING = 'running'
FAILED = 'failed'
ABORTED = 'aborted'

# An error text longer than this is cut in the record; last_error has it all.
_REASON_LIMIT = 500


def step_type(node: Any) -> str:
    """Of the steps that the node is at: ``deploy`` or ``service``."""
    return ('deploy' if node.provision_state in (
        states.DEPLOYING, states.DEPLOYWAIT) else 'service')


def step(node: Any) -> dict[str, Any]:
    """The step that the node is at; empty if there is none."""
    return getattr(node, f'{step_type(node)}_step') or {}


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """One try to do one thing.

    :cvar KEY: of the entry.
    :cvar STEP: of the agent that does it.
    :cvar OPEN: statuses in which it is under way: something must end it.
    :cvar DONE: status in which it is done.

    :ivar status: one of the constants of this module, or one of its own.
    :ivar snapshot: the id, a UUID; empty while the node is prepared.
    :ivar name: the user's name for it.
    :ivar container: Swift container.
    :ivar generation: second half of the node's lineage.
    :ivar started_at: ISO 8601, UTC.
    :ivar tries: agents that were begun with since the last that got on; an
        agent that restarts goes on with the same thing.
    :ivar step_index: position of the step in the request.
    :ivar options: arguments of the agent that stay the same from slice to
        slice, whatever becomes of the configuration.
    :ivar lease_expires: seconds since the epoch.
    :ivar handled: id of the last command of the agent that was dealt with.
    :ivar progress: while it is not done.
    :ivar reason: why it failed.
    :ivar result: figures, when it is done.
    """

    KEY: ClassVar[str]
    STEP: ClassVar[str]
    OPEN: ClassVar[frozenset[str]]
    DONE: ClassVar[str]
    PROGRESS: ClassVar[type[Progress]]

    status: str
    snapshot: str = ''
    name: str = ''
    container: str = ''
    generation: str = ''
    started_at: str = ''
    tries: int = 0
    step_index: int | None = None
    options: dict[str, Any] = dataclasses.field(default_factory=dict)
    lease_expires: int = 0
    handled: str = ''
    progress: Progress = Progress()
    reason: str = ''
    result: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether it is under way."""
        return self.status in self.OPEN

    @property
    def done(self) -> bool:
        """Whether it has come to its end."""
        return self.status == self.DONE

    def note(self, node: Any) -> None:
        """Put it into the node record; the caller saves that."""
        fields = {field.name: getattr(self, field.name)
                  for field in dataclasses.fields(self)}
        fields['progress'] = (
            {} if self.progress == self.PROGRESS()
            else self.progress.to_dict())
        node.set_driver_internal_info(self.KEY, {
            name: value for name, value in fields.items()
            if value not in ('', None, {})})

    def save(self, node: Any) -> None:
        """Write it to the node record."""
        self.note(node)
        node.save()

    def ended(self, status: str, **changes: Any) -> Any:
        """The same, ended."""
        if 'reason' in changes:
            changes['reason'] = changes['reason'][:_REASON_LIMIT]
        return dataclasses.replace(self, status=status, **changes)

    @classmethod
    def load(cls, node: Any) -> Any:
        """The one that the node record holds, or None."""
        record = node.driver_internal_info.get(cls.KEY)
        if not record:
            return None
        known = {field.name for field in dataclasses.fields(cls)}
        fields = {key: value for key, value in record.items() if key in known}
        fields['progress'] = cls.PROGRESS.from_dict(
            record.get('progress') or {})
        return cls(**fields)

    @classmethod
    def current(cls, node: Any) -> Any:
        """The one of the step that the node is at, once it has begun."""
        this = cls.load(node)
        index = node.driver_internal_info.get(
            f'{step_type(node)}_step_index')
        if (this is None or this.status == PREPARING
                or not (this.open or this.done) or this.step_index != index):
            return None
        return this
