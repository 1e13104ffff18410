# SPDX-License-Identifier: Apache-2.0
"""The arguments of the service step, checked before the node is touched.

Step arguments are hostile input: whoever may service a node may write them.
They never hold a URL, a path, a container or a format.
"""
import dataclasses
from typing import Any

from ironic.common import exception
import jsonschema

from ironic_snapshot.conf import BANDWIDTH_MAX
from ironic_snapshot.conf import CLUSTER_SIZES
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import parent as parents
from ironic_snapshot_core.codec import CODECS


STEP_INTERFACE = 'deploy'
STEP = 'snapshot'

AUTO = 'auto'
# zstd, with a level that is chosen while capturing.
_AUTO_CODEC = 'zstd'

_UUID = '[0-9a-f]{8}-' + 3 * '[0-9a-f]{4}-' + '[0-9a-f]{12}'

_PROPERTIES: dict[str, dict[str, Any]] = {
    'name': {
        'type': 'string',
        'pattern': r'\A[A-Za-z0-9][A-Za-z0-9 ._:~+-]{0,126}\Z',
        'description': 'Name of the snapshot: up to 127 letters, digits, '
                       'spaces and ._:~+- (default: node name and time).',
    },
    'description': {
        'type': 'string',
        'maxLength': 1000,
        'pattern': r'\A[^\x00-\x1f\x7f]*\Z',
        'description': 'Free text of up to 1000 characters, on one line.',
    },
    'cluster_size': {
        'type': 'integer',
        'enum': CLUSTER_SIZES,
        'description': 'Bytes of a cluster (default: [snapshot]'
                       'cluster_size).',
    },
    'compression': {
        'type': 'string',
        'enum': [AUTO, 'zstd', 'zlib', 'none'],
        'description': 'Compression of the image; auto: zstd with a level '
                       'that keeps up with the upload (default: [snapshot]'
                       'compression).',
    },
    'compression_level': {
        'type': 'integer',
        'minimum': 1,
        'maximum': 19,
        'description': 'Level of the compression: zstd 1 to 19, zlib 1 to 9 '
                       '(default: [snapshot]compression_level).',
    },
    'all_blocks': {
        'type': 'boolean',
        'description': 'Read every block of the disk, not only those that '
                       'its file systems use (default: false).',
    },
    'skip_gaps': {
        'type': 'boolean',
        'description': 'Leave out the inside of large gaps between '
                       'partitions (default: false).',
    },
    'allow_bad_sectors': {
        'type': 'boolean',
        'description': 'Go on past sectors that cannot be read; the snapshot '
                       'is degraded then and says where (default: false).',
    },
    'bandwidth_limit': {
        'type': 'integer',
        'minimum': 1,
        'maximum': BANDWIDTH_MAX,
        'description': 'MiB to upload per second at most, 1 to '
                       f'{BANDWIDTH_MAX} (default: [snapshot]'
                       'bandwidth_limit, which is the most there is).',
    },
    'io_priority': {
        'type': 'string',
        'enum': ['normal', 'low', 'idle'],
        'description': 'Priority with which the disk is read (default: '
                       '[snapshot]io_priority).',
    },
    'parent': {
        'type': 'string',
        'pattern': rf'\A({parents.AUTO}|{parents.NONE}|{_UUID})\Z',
        'description': 'Snapshot to build upon, so that only what changed '
                       'since then is stored: auto, the latest good one of '
                       'this deployment (default); none: a full snapshot; '
                       'or the id (a UUID in lower case) of one of the same '
                       'project.',
    },
    'shutdown': {
        'type': 'string',
        'enum': ['soft', 'hard'],
        'description': 'soft: ask the operating system to shut down first '
                       '(default); hard: power off at once.',
    },
}

_VALIDATOR = jsonschema.Draft202012Validator({
    'type': 'object',
    'properties': _PROPERTIES,
    'additionalProperties': False,
})

ARGSINFO = {name: {'description': schema['description'], 'required': False}
            for name, schema in _PROPERTIES.items()}


@dataclasses.dataclass(frozen=True, slots=True)
class SnapshotArguments:
    """What the user asked for, with the defaults filled in.

    :ivar compression: a codec.
    :ivar compression_level: of it; None where there is no choice.
    :ivar adaptive_level: the level is chosen while capturing.
    :ivar bandwidth_limit: in MiB per second; 0: none.
    :ivar parent: ``auto``, ``none`` or the id of a snapshot.
    """

    name: str | None
    description: str
    cluster_size: int
    compression: str
    compression_level: int | None
    adaptive_level: bool
    all_blocks: bool
    skip_gaps: bool
    allow_bad_sectors: bool
    bandwidth_limit: int
    io_priority: str
    parent: str
    shutdown: str

    @property
    def names_parent(self) -> bool:
        """Whether the user insists on one parent."""
        return self.parent not in (parents.AUTO, parents.NONE)


def parse(args: dict[str, Any] | None) -> SnapshotArguments:
    """Check the arguments of one step.

    :param args: as the user wrote them.
    :raises: InvalidParameterValue naming each argument that is wrong.
    """
    args = {} if args is None else args
    faults = sorted(_VALIDATOR.iter_errors(args), key=lambda e: str(e.path))
    if faults:
        raise _refusal('; '.join(_explain(fault) for fault in faults))
    if args.get('all_blocks') and args.get('skip_gaps'):
        raise _refusal('"skip_gaps" leaves out what "all_blocks" is to '
                       'read: ask for one of them')
    compression = args.get('compression', CONF.snapshot.compression)
    adaptive = compression == AUTO
    return SnapshotArguments(
        name=args.get('name'),
        description=args.get('description', ''),
        cluster_size=args.get('cluster_size', CONF.snapshot.cluster_size),
        compression=_AUTO_CODEC if adaptive else compression,
        compression_level=_level(compression, args.get('compression_level')),
        adaptive_level=adaptive,
        all_blocks=args.get('all_blocks', False),
        skip_gaps=args.get('skip_gaps', False),
        allow_bad_sectors=args.get('allow_bad_sectors', False),
        bandwidth_limit=_bandwidth(args.get('bandwidth_limit', 0)),
        io_priority=args.get('io_priority', CONF.snapshot.io_priority),
        parent=args.get('parent', parents.AUTO),
        shutdown=args.get('shutdown', 'soft'))


def requested(node: Any) -> list[SnapshotArguments]:
    """The snapshot steps among the service steps asked for on this node.

    :raises: InvalidParameterValue as :func:`parse`.
    """
    steps = node.driver_internal_info.get('service_steps') or []
    return [parse(step.get('args')) for step in steps if is_snapshot(step)]


def is_snapshot(step: dict[str, Any] | None) -> bool:
    """Whether this step is ours."""
    return (bool(step) and step.get('interface') == STEP_INTERFACE
            and step.get('step') == STEP)


def _level(compression: str, asked: int | None) -> int | None:
    if compression == AUTO:
        if asked is not None:
            raise _refusal(
                'argument "compression_level" goes with a compression, and '
                'auto chooses its own: name a compression, or leave the '
                'level out')
        return None
    # A codec without levels refuses every one.
    highest = max(CODECS[compression].levels, default=0)
    if asked is None:
        return min(CONF.snapshot.compression_level, highest) or None
    if asked > highest:
        raise _refusal(
            f'argument "compression_level" is {asked}, but {compression} '
            + (f'ends at {highest}' if highest else 'has no level: '
               'leave the argument out'))
    return asked


def _bandwidth(asked: int) -> int:
    limit = CONF.snapshot.bandwidth_limit
    if limit and asked > limit:
        raise _refusal(
            f'argument "bandwidth_limit" is {asked}, but the operator allows '
            f'{limit} MiB/s at most')
    return asked or limit


def _refusal(text: str) -> exception.InvalidParameterValue:
    return exception.InvalidParameterValue(
        f'Service step deploy.snapshot: {text}')


def _explain(fault: jsonschema.ValidationError) -> str:
    if fault.validator == 'additionalProperties':
        unknown = sorted(set(fault.instance) - set(_PROPERTIES))
        return (f'unknown argument {", ".join(map(_show, unknown))} (known: '
                f'{", ".join(_PROPERTIES)})')
    if not fault.path:
        return 'the arguments must be a JSON object'
    name = str(fault.path[0])
    wanted = {
        'type': f'must be of type {fault.validator_value}',
        'enum': f'must be one of {fault.validator_value}',
    }.get(fault.validator, _PROPERTIES[name]['description'])
    return f'argument "{name}" is {_show(fault.instance)}: {wanted}'


def _show(value: Any) -> str:
    # Never the whole of a hostile value, never its control characters.
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + '...'
