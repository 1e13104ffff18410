# SPDX-License-Identifier: Apache-2.0
"""The arguments of the service step ``snapshot``."""
import dataclasses
from typing import Any

from ironic_snapshot import step_schema
from ironic_snapshot.conf import CLUSTER_SIZES
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import image_properties
from ironic_snapshot_core import parent as parents
from ironic_snapshot_core.codec import CODECS

STEP = 'snapshot'

SWIFT = 'swift'
GLANCE = 'glance'

AUTO = 'auto'
# zstd, with a level that is chosen while capturing.
_AUTO_CODEC = 'zstd'

_PROPERTIES: dict[str, dict[str, Any]] = {
    'name': {
        'type': 'string',
        'pattern': step_schema.NAME_PATTERN,
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
    'bandwidth_limit': step_schema.BANDWIDTH_LIMIT,
    'io_priority': step_schema.IO_PRIORITY,
    'parent': {
        'type': 'string',
        'pattern': rf'\A({parents.AUTO}|{parents.NONE}|'
                   rf'{step_schema.UUID_PATTERN})\Z',
        'description': 'Snapshot to build upon, so that only what changed '
                       'since then is stored: auto, the latest good one of '
                       'this deployment (default); none: a full snapshot; '
                       'or the id (a UUID in lower case) of one of the same '
                       'project.',
    },
    'destination': {
        'type': 'string',
        'enum': [SWIFT, GLANCE],
        'description': 'swift: a snapshot in Swift; glance: the same, and an '
                       'image in Glance made of it, for the project of the '
                       'node (default: [snapshot]destination).',
    },
    'image_id': {
        'type': 'string',
        'pattern': rf'\A{step_schema.UUID_PATTERN}\Z',
        'description': 'Image to fill instead of creating one: the id (a UUID '
                       'in lower case) of one of the project of the node '
                       'whose status is queued.',
    },
    'visibility': {
        'type': 'string',
        'enum': list(image_properties.VISIBILITIES),
        'description': 'Who may see the image: private, the project '
                       '(default); shared, also projects that it is shared '
                       'with.',
    },
    'shutdown': step_schema.SHUTDOWN,
}

SCHEMA = step_schema.StepSchema(STEP, _PROPERTIES)


@dataclasses.dataclass(frozen=True, slots=True)
class SnapshotArguments:
    """What the user asked for, with the defaults filled in.

    :ivar compression: a codec.
    :ivar compression_level: of it; None where there is no choice.
    :ivar adaptive_level: the level is chosen while capturing.
    :ivar bandwidth_limit: in MiB per second; 0: none.
    :ivar parent: ``auto``, ``none`` or the id of a snapshot.
    :ivar destination: ``swift`` or ``glance``.
    :ivar image_id: of an image to fill, or None.
    :ivar visibility: of an image that is created.
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
    destination: str
    image_id: str | None
    visibility: str

    @property
    def names_parent(self) -> bool:
        """Whether the user insists on one parent."""
        return self.parent not in (parents.AUTO, parents.NONE)

    @property
    def publishes(self) -> bool:
        """Whether an image is to be made of the snapshot."""
        return self.destination == GLANCE


def parse(args: dict[str, Any] | None) -> SnapshotArguments:
    """Check the arguments of one step.

    :param args: as the user wrote them.
    :raises: InvalidParameterValue naming each argument that is wrong.
    """
    args = SCHEMA.check(args)
    if args.get('all_blocks') and args.get('skip_gaps'):
        raise SCHEMA.refusal('"skip_gaps" leaves out what "all_blocks" is to '
                       'read: ask for one of them')
    destination = args.get('destination', CONF.snapshot.destination)
    for name in ('image_id', 'visibility'):
        if name in args and destination != GLANCE:
            raise SCHEMA.refusal(
                f'argument "{name}" is about an image, and the destination is '
                f'"{destination}": leave it out, or ask for destination '
                f'"{GLANCE}"')
    if 'image_id' in args and 'visibility' in args:
        raise SCHEMA.refusal(
            'argument "visibility" is of an image that is created, and '
            '"image_id" names one that is there: leave one of them out')
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
        bandwidth_limit=SCHEMA.bandwidth(args),
        io_priority=args.get('io_priority', CONF.snapshot.io_priority),
        parent=args.get('parent', parents.AUTO),
        shutdown=args.get('shutdown', 'soft'),
        destination=destination,
        image_id=args.get('image_id'),
        visibility=args.get('visibility', image_properties.PRIVATE))


def requested(node: Any) -> list[SnapshotArguments]:
    """The snapshot steps among the service steps asked for on this node.

    :raises: InvalidParameterValue as :func:`parse`.
    """
    return [parse(step.get('args')) for step in SCHEMA.requested(node)]


def _level(compression: str, asked: int | None) -> int | None:
    if compression == AUTO:
        if asked is not None:
            raise SCHEMA.refusal(
                'argument "compression_level" goes with a compression, and '
                'auto chooses its own: name a compression, or leave the '
                'level out')
        return None
    # A codec without levels refuses every one.
    highest = max(CODECS[compression].levels, default=0)
    if asked is None:
        return min(CONF.snapshot.compression_level, highest) or None
    if asked > highest:
        raise SCHEMA.refusal(
            f'argument "compression_level" is {asked}, but {compression} '
            + (f'ends at {highest}' if highest else 'has no level: '
               'leave the argument out'))
    return asked
