# SPDX-License-Identifier: Apache-2.0
"""Names of objects in a container.

::

    v1/<node>/<generation>/attempts/<snapshot>/pack-000001
    v1/<node>/<generation>/attempts/<snapshot>/{index,map,head,report}
    v1/<node>/<generation>/attempts/<snapshot>/checkpoint-000001
    v1/<node>/<generation>/snapshots/<snapshot>/manifest
    v1/<node>/<generation>/snapshots/<snapshot>/disk.qcow2
    v1/<node>/<generation>/leases/<snapshot or restore>
    v1/<node>/<generation>/restores/<restore>
    v1/<node>/<generation>/images/<image>/record
    v1/<node>/<generation>/images/<image>/disk.qcow2
    v1/<node>/<generation>/images/<image>/link-000001
    v1/condemned

The agent may write below ``attempts/`` only; the rest is the conductor's.
"""

import dataclasses
import re

from ironic_snapshot_core import errors

VERSION = 'v1'
INDEX = 'index'
MAP = 'map'
HEAD = 'head'
REPORT = 'report'

#: Swift's limit is 1024 bytes.
MAX_NAME = 1024

#: File systems allow 255 bytes for a folder or file, and a name must be good
#: for each store, which may add a few of its own.
MAX_PART = 200

#: More packs than fit two levels of SLO manifests are not needed.
MAX_PACKS = 999_999

#: One a minute for two years.
MAX_CHECKPOINTS = 999_999

_UUID = re.compile('[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}')
_NAME = re.compile(r'[A-Za-z0-9._/-]*')
_PACK = re.compile(r'pack-([0-9]{6})')
MANIFEST = 'manifest'
IMAGE = 'disk.qcow2'

#: The folders of a lineage.
ATTEMPTS = 'attempts'
SNAPSHOTS = 'snapshots'
LEASES = 'leases'
RESTORES = 'restores'
IMAGES = 'images'

#: What is remembered of an image in Glance.
RECORD = 'record'

#: The document that says what prune will delete.
CONDEMNED = f'{VERSION}/condemned'


@dataclasses.dataclass(frozen=True, slots=True)
class Lineage:
    """Snapshots of one deployment of one node; only they share clusters.

    :param node: UUID of the node.
    :param generation: UUID of the deployment.
    :raises InvalidName: one of them is not a canonical UUID.
    """

    node: str
    generation: str

    def __post_init__(self) -> None:
        validate_uuid(self.node)
        validate_uuid(self.generation)

    @property
    def prefix(self) -> str:
        """What the names of all the lineage's objects begin with."""
        return f'{VERSION}/{self.node}/{self.generation}/'


def node_prefix(node: str) -> str:
    """Give what the names of all the node's lineages begin with."""
    return f'{VERSION}/{validate_uuid(node)}/'


def attempt_prefix(lineage: Lineage, snapshot: str) -> str:
    """Give what the agent may write below; ends with a slash."""
    return f'{lineage.prefix}{ATTEMPTS}/{validate_uuid(snapshot)}/'


def snapshots_prefix(lineage: Lineage) -> str:
    """Give what the names of all manifests of a lineage begin with."""
    return f'{lineage.prefix}{SNAPSHOTS}/'


def snapshot_prefix(lineage: Lineage, snapshot: str) -> str:
    """Give what the names of a snapshot's manifest and image begin with."""
    return f'{snapshots_prefix(lineage)}{validate_uuid(snapshot)}/'


def manifest_name(lineage: Lineage, snapshot: str) -> str:
    """Name the document whose existence makes the snapshot exist."""
    return f'{snapshot_prefix(lineage, snapshot)}{MANIFEST}'


def image_name(lineage: Lineage, snapshot: str) -> str:
    """Name the object that reads as the whole disk in qcow2 format."""
    return f'{snapshot_prefix(lineage, snapshot)}{IMAGE}'


def lease_name(lineage: Lineage, snapshot: str) -> str:
    """Name the object that says an attempt, or a restore, is under way."""
    return f'{lineage.prefix}{LEASES}/{validate_uuid(snapshot)}'


def restore_name(lineage: Lineage, operation: str) -> str:
    """Name the document that says a disk of the lineage was restored."""
    return f'{lineage.prefix}{RESTORES}/{validate_uuid(operation)}'


def published_prefix(lineage: Lineage, image: str) -> str:
    """Give what the names of all that an image in Glance needs begin with."""
    return f'{lineage.prefix}{IMAGES}/{validate_uuid(image)}/'


def record_name(lineage: Lineage, image: str) -> str:
    """Name the document that tells of an image in Glance."""
    return f'{published_prefix(lineage, image)}{RECORD}'


def published_name(lineage: Lineage, image: str) -> str:
    """Name the object that an image in Glance reads, if it was linked."""
    return f'{published_prefix(lineage, image)}{IMAGE}'


def link_name(lineage: Lineage, image: str, number: int) -> str:
    """Name a link of an image in Glance.

    :param number: counted from 1.
    """
    return f'{published_prefix(lineage, image)}link-{number:06d}'


def pack_name(number: int) -> str:
    """Name a pack inside its attempt.

    :param number: counted from 1.
    :raises InvalidValue: there can be no such pack.
    """
    if not 1 <= number <= MAX_PACKS:
        raise errors.InvalidValue(
            'pack number', number, f'it is not in 1..{MAX_PACKS}')
    return f'pack-{number:06d}'


def checkpoint_name(number: int) -> str:
    """Name a checkpoint inside its attempt.

    :param number: counted from 1.
    :raises InvalidValue: there can be no such checkpoint.
    """
    if not 1 <= number <= MAX_CHECKPOINTS:
        raise errors.InvalidValue(
            'checkpoint number', number,
            f'it is not in 1..{MAX_CHECKPOINTS}')
    return f'checkpoint-{number:06d}'


def parse_pack_name(name: str) -> int:
    """Give the number of a pack from its name inside the attempt.

    :raises InvalidName: it is no pack's name.
    """
    match = _PACK.fullmatch(name)
    if not match or int(match[1]) < 1:
        raise errors.InvalidName(name, 'it is no name of a pack')
    return int(match[1])


@dataclasses.dataclass(frozen=True, slots=True)
class Place:
    """Where in its lineage an object is.

    :param folder: one of :data:`ATTEMPTS`, :data:`IMAGES`, :data:`LEASES`,
        :data:`RESTORES` and :data:`SNAPSHOTS`.
    :param snapshot: whose object it is; or the id of a restore, or of an
        image.
    :param rest: of its name; empty for a lease or a restore.
    """

    lineage: Lineage
    folder: str
    snapshot: str
    rest: str


def parse(name: str) -> Place:
    """Tell where an object is in its lineage.

    :raises InvalidName: it is in none.
    """
    version, *parts = name.split('/', 5)
    if (version != VERSION or len(parts) < 4
            or parts[2] not in (
                ATTEMPTS, IMAGES, LEASES, RESTORES, SNAPSHOTS)
            or (parts[2] in (LEASES, RESTORES)) is not (len(parts) == 4)):
        raise errors.InvalidName(name, 'it is in no lineage')
    node, generation, folder, snapshot, *rest = parts
    return Place(Lineage(node, generation), folder, validate_uuid(snapshot),
                 ''.join(rest))


def parse_manifest_name(name: str) -> tuple[Lineage, str]:
    """Tell whose manifest this is.

    :raises InvalidName: it is no name of a manifest.
    """
    place = parse(name)
    if (place.folder, place.rest) != (SNAPSHOTS, MANIFEST):
        raise errors.InvalidName(name, 'it is no name of a manifest')
    return place.lineage, place.snapshot


def validate_uuid(value: str) -> str:
    """Return the value if it is a UUID in its one canonical form.

    :raises InvalidName: it is not.
    """
    # A manifest has hundreds: uuid.UUID takes seven times longer.
    if not isinstance(value, str) or not _UUID.fullmatch(value):
        raise errors.InvalidName(value, 'it is no lower-case UUID')
    return value


def validate_name(name: str) -> str:
    """Return the name if every store can keep an object under it.

    :raises InvalidName: it cannot.
    """
    if not name:
        raise errors.InvalidName(name, 'it is empty')
    if len(name.encode(errors='replace')) > MAX_NAME:
        raise errors.InvalidName(
            name[:50] + '...', f'it is longer than {MAX_NAME} bytes')
    if not _NAME.fullmatch(name):
        raise errors.InvalidName(
            name, 'only letters, digits and the characters ._/- are allowed')
    for part in name.split('/'):
        if not part:
            raise errors.InvalidName(
                name, 'it begins or ends with a slash, or has two in a row')
        if part in ('.', '..'):
            raise errors.InvalidName(name, f'{part!r} is not allowed')
        if len(part) > MAX_PART:
            raise errors.InvalidName(
                name, f'a part of it is longer than {MAX_PART} bytes')
    return name


def is_name(name: str) -> bool:
    """Whether every store can keep an object under this name."""
    try:
        validate_name(name)
    except errors.InvalidName:
        return False
    return True


def validate_prefix(prefix: str) -> str:
    """Return the prefix if it names a folder, with its slash at the end.

    Without the slash ``node1`` would cover ``node10/`` as well.

    :raises InvalidName: it does not.
    """
    if not prefix.endswith('/'):
        raise errors.InvalidName(prefix, 'it does not end with a slash')
    validate_name(prefix[:-1])
    return prefix
