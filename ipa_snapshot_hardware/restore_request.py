# SPDX-License-Identifier: Apache-2.0
"""A restore as the conductor asks for it: the arguments of the step."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

from ironic_snapshot_core import grant as grants
from ironic_snapshot_core import layout
from ipa_snapshot_hardware import arguments
from ipa_snapshot_hardware import priority

#: Onto the disk, of the node, that the snapshot was taken of.
ROLLBACK = 'rollback'
#: Onto any other.
CLONE = 'clone'
VERBS = (ROLLBACK, CLONE)

#: Whether what tells one machine from another stays as it was captured, ...
KEEP = 'keep'
#: ... or is made anew.
RESET = 'reset'
IDENTITIES = (KEEP, RESET)

# Disks have serial numbers of a few dozen characters at most.
MAX_SERIAL = 255

_REQUIRED = frozenset(
    {
        'protocol',
        'snapshot',
        'lineage',
        'manifest',
        'operation',
        'verb',
        'identity',
        'grant',
    }
)
_OPTIONAL = frozenset(
    {
        'target_serial',
        'workers',
        'memory_limit',
        'bandwidth_limit',
        'io_priority',
        'slice_seconds',
    }
)


@dataclasses.dataclass(frozen=True, slots=True)
class RestoreRequest:
    """A restore as asked for; sizes in bytes, 0 means automatic.

    :param snapshot: id of the snapshot.
    :param lineage: of the snapshot.
    :param size: of its manifest, in bytes.
    :param digest: of its manifest, BLAKE3 in hexadecimal digits.
    :param operation: UUID of this restore.
    :param verb: one of :data:`VERBS`.
    :param identity: one of :data:`IDENTITIES`.
    :param target_serial: serial number of the disk to be written; None: of
        a rollback that of the disk captured, of a clone any.
    :param blank: the target is known to be all zero: nothing is compared.
    :param bandwidth_limit: of what is fetched, in bytes per second; 0: none.
    :param io_priority: of reading and writing: ``normal``, ``low`` or
        ``idle``.
    :param slice_seconds: after which the step answers.
    """

    snapshot: str
    lineage: layout.Lineage
    size: int
    digest: str
    operation: str
    verb: str
    identity: str
    target_serial: str | None = None
    blank: bool = False
    workers: int = 0
    memory_limit: int = 0
    bandwidth_limit: int = 0
    io_priority: str = priority.NORMAL
    slice_seconds: int = arguments.DEFAULT_SLICE_S

    #: What a session calls it.
    activity: ClassVar[str] = 'restore'

    @property
    def key(self) -> str:
        """What tells its session from that of another restore."""
        return self.operation


def parse(
    args: Mapping[str, object], grant: grants.Grant
) -> RestoreRequest:
    """Check the arguments and make a request of them.

    :param args: the arguments, without the grant.
    :param grant: must permit to read the manifest; what else it must permit
        is in there.
    :raises InvalidValue: when an argument is unknown, missing or wrong.
    :raises InvalidName: when an identifier is no UUID.
    :raises UnsupportedVersion: when the conductor speaks another protocol.
    """
    arguments.check_names(args, _REQUIRED, _OPTIONAL)
    lineage = arguments.lineage(args['lineage'])
    snapshot = layout.validate_uuid(arguments.text(args, 'snapshot'))
    size, digest = arguments.manifest(args['manifest'])
    request = RestoreRequest(
        snapshot=snapshot,
        lineage=lineage,
        size=size,
        digest=digest,
        operation=layout.validate_uuid(arguments.text(args, 'operation')),
        verb=arguments.choice(args, 'verb', VERBS),
        identity=arguments.choice(args, 'identity', IDENTITIES),
        target_serial=_target_serial(args),
        workers=arguments.workers(args),
        memory_limit=arguments.memory_limit(args),
        bandwidth_limit=arguments.bandwidth_limit(args),
        io_priority=arguments.io_priority(args),
        slice_seconds=arguments.slice_seconds(args),
    )
    arguments.check_permitted(
        grant, [('GET', layout.snapshot_prefix(lineage, snapshot))]
    )
    return request


# Private


def _target_serial(args: Mapping[str, object]) -> str | None:
    if args.get('target_serial') is None:
        return None
    return arguments.short_text(args, 'target_serial', MAX_SERIAL)
