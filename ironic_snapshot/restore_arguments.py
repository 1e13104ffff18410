# SPDX-License-Identifier: Apache-2.0
"""The arguments of the service step ``restore``."""
import dataclasses
from typing import Any

from ironic_snapshot import arguments
from ironic_snapshot import step_schema
from ironic_snapshot.conf import CONF

STEP = 'restore'

KEEP = 'keep'
RESET = 'reset'
IDENTITIES = [KEEP, RESET]

# What the agent accepts.
_SERIAL_PATTERN = r'\A[\x20-\x7e]{1,255}\Z'

_PROPERTIES: dict[str, dict[str, Any]] = {
    'snapshot': {
        'type': 'string',
        'pattern': step_schema.NAME_PATTERN,
        'description': 'Snapshot to restore: its id, or its name if no other '
                       'snapshot of this node has that.',
    },
    'confirm': {
        'type': 'string',
        'maxLength': 255,
        'description': 'Name or UUID of the node, once more: its disk is '
                       'overwritten.',
    },
    'identity': {
        'type': 'string',
        'enum': IDENTITIES,
        'description': 'keep: the disk becomes what it was, host keys and '
                       'all (default for a snapshot of this node); reset: '
                       'what tells one machine from another is made anew '
                       '(default for a snapshot of another).',
    },
    'target_serial': {
        'type': 'string',
        'pattern': _SERIAL_PATTERN,
        'description': 'Serial number of the disk to write, if it is not the '
                       'one that the snapshot was taken of.',
    },
    'before_restore': {
        'type': ['boolean', 'string'],
        'pattern': step_schema.NAME_PATTERN,
        'description': 'true, or a name: take a snapshot of the disk as it '
                       'is first (default: false).',
    },
    'bandwidth_limit': step_schema.BANDWIDTH_LIMIT,
    'io_priority': step_schema.IO_PRIORITY,
    'shutdown': step_schema.SHUTDOWN,
}

SCHEMA = step_schema.StepSchema(STEP, _PROPERTIES, ('snapshot', 'confirm'))


@dataclasses.dataclass(frozen=True, slots=True)
class RestoreArguments:
    """What the user asked for, with the defaults filled in.

    :ivar snapshot: an id or a name.
    :ivar confirm: the node, as the user calls it.
    :ivar identity: ``keep`` or ``reset``; None: as the snapshot has it.
    :ivar target_serial: None: the disk that the snapshot was taken of.
    :ivar before: arguments of the snapshot to take first, or None.
    :ivar bandwidth_limit: in MiB per second; 0: none.
    """

    snapshot: str
    confirm: str
    identity: str | None
    target_serial: str | None
    before: dict[str, Any] | None
    bandwidth_limit: int
    io_priority: str
    shutdown: str


def parse(args: dict[str, Any] | None) -> RestoreArguments:
    """Check the arguments of one step.

    :param args: as the user wrote them.
    :raises: InvalidParameterValue naming each argument that is wrong.
    """
    args = SCHEMA.check(args)
    return RestoreArguments(
        snapshot=args['snapshot'],
        confirm=args['confirm'],
        identity=args.get('identity'),
        target_serial=args.get('target_serial'),
        before=_before(args),
        bandwidth_limit=SCHEMA.bandwidth(args),
        io_priority=args.get('io_priority', CONF.snapshot.io_priority),
        shutdown=args.get('shutdown', 'soft'))


def requested(node: Any) -> list[RestoreArguments]:
    """The restore steps among the service steps asked for on this node.

    :raises: InvalidParameterValue as :func:`parse`.
    """
    return [parse(step.get('args')) for step in SCHEMA.requested(node)]


def _before(args: dict[str, Any]) -> dict[str, Any] | None:
    """What the step ``snapshot`` would be given.

    It is there to be gone back to, and no image is made of it.
    """
    asked = args.get('before_restore', False)
    if asked is False:
        return None
    shared = {name: args[name] for name in ('bandwidth_limit', 'io_priority')
              if name in args}
    return {'destination': arguments.SWIFT, **shared,
            **({} if asked is True else {'name': asked})}
