# SPDX-License-Identifier: Apache-2.0
"""The documents of a snapshot: the agent's report, the manifest.

The **report** is what the agent says it did. The **manifest** *is* the
snapshot: written by the conductor, last, after everything it names has been
checked. A snapshot without a manifest does not exist.
"""

import dataclasses
import datetime
import re
import typing

from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import geometry
from ironic_snapshot_core import layout
from ironic_snapshot_core.units import GiB

VERSION = 1
REPORT_VERSION = 1

#: Features a manifest may ask for; a reader refuses one it does not know.
FEATURES: frozenset[str] = frozenset()

MAX_CLUSTER_SIZE = geometry.MAX_CLUSTER_SIZE
validate_cluster_size = geometry.validate_cluster_size

#: Swift takes 5 GiB in one PUT.
MAX_OBJECT_SIZE = 5 * GiB

MAX_TEXT = 4096

#: A disk with more unreadable runs than this is not worth a snapshot.
MAX_UNREADABLE = 10_000

#: How a region of the disk was read: all of it, ...
WHOLE = 'whole'
#: ... what its file system has allocated, ...
ALLOCATED = 'allocated'
#: ... only what identifies it (the header of a swap area), ...
HEADER = 'header'
#: ... or not at all.
SKIPPED = 'skipped'
METHODS = (WHOLE, ALLOCATED, HEADER, SKIPPED)

#: How a machine is booted.
UEFI = 'uefi'
BIOS = 'bios'

# What others may make properties of, so that nothing in it has a meaning.
_FACT = re.compile('[A-Za-z0-9._-]{0,64}')

_TIME_FORMAT = '%Y-%m-%dT%H:%M:%SZ'


@dataclasses.dataclass(frozen=True, slots=True)
class Disk:
    """The disk that was captured. Text is empty where nothing is known.

    :param size: in bytes.
    :param name: of the device in the ramdisk, for example ``/dev/sda``.
    :param partition_table: ``gpt``, ``dos``, or empty.
    """

    size: int
    logical_sector_size: int
    physical_sector_size: int
    serial: str
    wwn: str
    model: str
    partition_table: str
    name: str

    def __post_init__(self) -> None:
        geometry.validate_disk_size(self.size)
        for what, size in (('logical sector', self.logical_sector_size),
                           ('physical sector', self.physical_sector_size)):
            geometry.power_of_two(
                what, size, geometry.SECTOR, geometry.MAX_CLUSTER_SIZE)
        for what in ('serial', 'wwn', 'model', 'partition_table', 'name'):
            _text(what, getattr(self, what))


@dataclasses.dataclass(frozen=True, slots=True)
class PackRecord:
    """A pack the snapshot needs.

    Of an older pack, what lies before the first and behind the last cluster
    that the snapshot uses need not be in its image. One of which nothing is
    in the image is a *spare*: it holds second copies.

    :param attempt: UUID of the attempt that wrote it.
    :param name: inside the attempt.
    :param size: in bytes.
    :param etag: the store's; each cluster's own digest is in the index.
    :param clusters: number of clusters in it.
    :param live_bytes: how many of its bytes this snapshot uses, or, in a
        spare, has second copies in.
    :param start: of the part that is in the image, in bytes.
    :param length: of that part, in bytes; 0 for a spare.
    :param generations: snapshots in a row that have relied on it, this one
        included; 1 for a new pack.
    """

    attempt: str
    name: str
    size: int
    etag: str
    clusters: int
    live_bytes: int
    start: int
    length: int
    generations: int

    @classmethod
    def new(cls, attempt: str, name: str, size: int, etag: str,
            clusters: int, live_bytes: int) -> 'PackRecord':
        """Make the record of a pack that was just written."""
        return cls(attempt, name, size, etag, clusters, live_bytes,
                   start=0, length=size, generations=1)

    @property
    def spare(self) -> bool:
        """Whether it holds second copies only."""
        return not self.length

    def __post_init__(self) -> None:
        layout.validate_uuid(self.attempt)
        layout.parse_pack_name(self.name)
        geometry.between('pack size', self.size, 1, MAX_OBJECT_SIZE)
        _hex('pack etag', self.etag, 32)
        geometry.between('clusters in a pack', self.clusters, 1, self.size)
        geometry.between('live bytes of a pack', self.live_bytes, 0, self.size)
        geometry.between('start in a pack', self.start, 0, self.size)
        geometry.between(
            'length in a pack', self.length, 0, self.size - self.start)
        geometry.between(
            'generations of a pack', self.generations, 1, layout.MAX_PACKS)


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectRecord:
    """An object of the attempt.

    :param digest: BLAKE3-256, in hex.
    """

    size: int
    etag: str
    digest: str

    def __post_init__(self) -> None:
        geometry.between('object size', self.size, 1, MAX_OBJECT_SIZE)
        _hex('object etag', self.etag, 32)
        _hex('object digest', self.digest, 64)


@dataclasses.dataclass(frozen=True, slots=True)
class HeadRecord:
    """The object that comes before the packs in the image.

    A snapshot of a disk that has not changed has the same head as its
    parent, which is not stored twice then.

    :param name: in the container.
    :param size: in bytes.
    :param digest: BLAKE3-256, in hex.
    """

    name: str
    size: int
    etag: str
    digest: str

    def __post_init__(self) -> None:
        layout.validate_name(self.name)
        geometry.between('head size', self.size, 1, MAX_OBJECT_SIZE)
        _hex('head etag', self.etag, 32)
        _hex('head digest', self.digest, 64)


@dataclasses.dataclass(frozen=True, slots=True)
class AttemptRecord:
    """An attempt that wrote packs which the snapshot needs.

    :param id: UUID; the snapshot's own, or an older one's.
    :param lineage: below which its objects are.
    :param index: tells what is in its packs.
    """

    id: str
    lineage: layout.Lineage
    index: ObjectRecord

    def __post_init__(self) -> None:
        layout.validate_uuid(self.id)


@dataclasses.dataclass(frozen=True, slots=True)
class HintRecord:
    """What tells a later capture of parts that have not changed since.

    :param kind: of hint, for example ``dm-thin``.
    :param key: text that only this kind of hint understands.
    """

    kind: str
    key: str

    def __post_init__(self) -> None:
        _text('kind of hint', self.kind)
        _text('hint', self.key)


@dataclasses.dataclass(frozen=True, slots=True)
class Region:
    """A part of the disk, and how it was read.

    :param start: in bytes.
    :param length: in bytes.
    :param name: ``partition 1``, ``gap``, ``disk`` or ``volume vg/root``.
    :param content: type of the file system or container, as blkid names it;
        empty where nothing is known.
    :param method: one of :data:`METHODS`.
    :param reason: why not otherwise, e.g. ``dirty journal``; may be empty.
    :param used_bytes: that count as data.
    """

    start: int
    length: int
    name: str
    content: str
    method: str
    reason: str
    used_bytes: int

    def __post_init__(self) -> None:
        geometry.between('region start', self.start, 0, document.MAX_INTEGER)
        geometry.between(
            'region length', self.length, 1, document.MAX_INTEGER)
        geometry.between('used bytes', self.used_bytes, 0, self.length)
        for what in ('name', 'content', 'reason'):
            _text(what, getattr(self, what))
        if self.method not in METHODS:
            raise errors.InvalidValue(
                'method', self.method[:40], f'it is none of {METHODS}')


@dataclasses.dataclass(frozen=True, slots=True)
class Unreadable:
    """Sectors that could not be read; the image has zeroes there.

    :param start: in bytes.
    :param length: in bytes.
    """

    start: int
    length: int

    def __post_init__(self) -> None:
        geometry.between('start', self.start, 0, document.MAX_INTEGER)
        geometry.between('length', self.length, 1, document.MAX_INTEGER)


@dataclasses.dataclass(frozen=True, slots=True)
class Totals:
    """How much there was to do, and how much it came to.

    :param virtual_bytes: size of the disk.
    :param used_bytes: in use, as far as is known without reading them.
    :param read_bytes: read from it.
    :param zero_bytes: that were zero, or known to be without reading.
    :param data_bytes: plaintext of the clusters that are not zero.
    :param stored_bytes: of the packs written by this attempt.
    :param clusters: that are not zero.
    :param new_clusters: of those, that this attempt had to store.
    """

    virtual_bytes: int
    used_bytes: int
    read_bytes: int
    zero_bytes: int
    data_bytes: int
    stored_bytes: int
    clusters: int
    new_clusters: int

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            geometry.between(field.name.replace('_', ' '),
                             getattr(self, field.name), 0,
                     document.MAX_INTEGER)


@dataclasses.dataclass(frozen=True, slots=True)
class SystemRecord:
    """The system on the disk, as far as it is known without starting it.

    Text is empty where nothing is known. Nothing relies on it: a disk may
    say of itself what it likes.

    :param distro: ``ID`` of its os-release, for example ``debian``.
    :param version: ``VERSION_ID`` of it, for example ``12``.
    :param architecture: of the machine, as the kernel names it.
    :param firmware: of the machine: :data:`UEFI`, :data:`BIOS` or empty.
    :param secure_boot: whether it is on; None where that is not known.
    """

    distro: str = ''
    version: str = ''
    architecture: str = ''
    firmware: str = ''
    secure_boot: bool | None = None

    def __post_init__(self) -> None:
        for what in ('distro', 'version', 'architecture'):
            if not is_fact(getattr(self, what)):
                raise errors.InvalidValue(
                    what, getattr(self, what)[:64],
                    'it is not up to 64 of A-Z, a-z, 0-9 and ._-')
        if self.firmware not in (UEFI, BIOS, ''):
            raise errors.InvalidValue(
                'firmware', self.firmware[:64],
                f'it is neither {UEFI} nor {BIOS}')


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Contents:
    """What a report and a manifest have in common.

    :param parent: id of the snapshot it builds upon, or None.
    :param full_reason: why there is no parent, or None.
    :param packs: of the whole image in its order, older ones first, and
        spares anywhere.
    :param attempts: that wrote these packs, older ones first; its own only
        if it has stored a pack.
    :param codec_level: None for a codec without levels, or when it was
        chosen on the way.
    :param regions: how the parts of the disk were read.
    :param unreadable: in the order of the disk; not empty in a *degraded*
        snapshot only.
    :param timings: seconds, by phase.
    :param software: versions, by program.
    :param system: on the disk; None where nothing is known of it.
    """

    disk: Disk
    cluster_size: int
    codec: str
    codec_level: int | None
    digest: str
    parent: str | None
    full_reason: str | None
    packs: tuple[PackRecord, ...]
    attempts: tuple[AttemptRecord, ...]
    map: ObjectRecord
    head: HeadRecord
    totals: Totals
    regions: tuple[Region, ...]
    unreadable: tuple[Unreadable, ...]
    timings: dict[str, float]
    software: dict[str, str]
    hints: tuple[HintRecord, ...] = ()
    system: SystemRecord | None = document.optional()

    @property
    def degraded(self) -> bool:
        """Whether something of the disk is missing."""
        return bool(self.unreadable)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class CaptureReport(Contents):
    """What a capture wrote; the agent's last object.

    :param checkpoints: written on the way; of no use any more.
    """

    snapshot: str
    checkpoints: int = 0
    version: int = REPORT_VERSION

    def __post_init__(self) -> None:
        layout.validate_uuid(self.snapshot)
        geometry.between(
            'checkpoints', self.checkpoints, 0, layout.MAX_CHECKPOINTS)
        _check_contents(self)

    @property
    def id(self) -> str:
        """Of the snapshot, under the name that a manifest has for it."""
        return self.snapshot

    def to_bytes(self) -> bytes:
        return document.encode(self)

    @classmethod
    def from_bytes(cls, data: bytes) -> 'CaptureReport':
        """Read a report; nothing in it is trusted but its form.

        :raises Corrupted: it is none.
        :raises UnsupportedVersion: the agent is newer than we are.
        """
        fields = _check_version(data, 'report', REPORT_VERSION)
        return document.decode(cls, data, 'report', fields=fields)


@dataclasses.dataclass(frozen=True, slots=True)
class NodeRecord:
    """The node, and the instance on it, at the time."""

    uuid: str
    name: str | None
    instance_uuid: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class ImageRecord:
    """The object that reads as the whole disk.

    :param name: in the container.
    :param size: in bytes.
    """

    name: str
    size: int

    def __post_init__(self) -> None:
        layout.validate_name(self.name)
        geometry.between('image size', self.size, 1, document.MAX_INTEGER)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Manifest(Contents):
    """A snapshot.

    :param features: what a reader must know beyond this version.
    :param sequence: counts the snapshots of a lineage.
    :param consistency: how much the captured disk can be relied upon, for
        example ``clean`` or ``forced``, after how the node was shut down.
    :param started_at: ISO 8601, UTC, whole seconds.
    :param created_at: likewise; when the manifest was made.
    """

    id: str
    name: str
    description: str
    lineage: layout.Lineage
    sequence: int
    node: NodeRecord
    project: str | None
    consistency: str
    started_at: str
    created_at: str
    image: ImageRecord
    features: tuple[str, ...] = ()
    version: int = VERSION

    def __post_init__(self) -> None:
        layout.validate_uuid(self.id)
        geometry.between('sequence', self.sequence, 0, document.MAX_INTEGER)
        parse_time(self.started_at)
        parse_time(self.created_at)
        for what in ('name', 'description', 'consistency'):
            _text(what, getattr(self, what))
        _check_contents(self)
        for attempt in self.attempts:
            if attempt.id == self.id and attempt.lineage != self.lineage:
                raise errors.InvalidValue(
                    'attempts', '(a list)', 'its own is of another lineage')

    @classmethod
    def from_report(cls, report: CaptureReport, *,
                    software: typing.Mapping[str, str] | None = None,
                    **fields: typing.Any) -> 'Manifest':
        """Make a manifest of a report and what only the conductor knows.

        :param software: the conductor's versions, added to the agent's.
        """
        taken = {field.name: getattr(report, field.name)
                 for field in dataclasses.fields(Contents)}
        taken['software'] = {**report.software, **(software or {})}
        return cls(id=report.snapshot, **taken, **fields)

    @property
    def attempt_prefixes(self) -> list[str]:
        """Below which all that the attempts have stored lies, its own first.

        Each attempt is there once; its own always, for that wrote the map.
        """
        attempts = dict.fromkeys(
            [(self.lineage, self.id),
             *((attempt.lineage, attempt.id) for attempt in self.attempts)])
        return [layout.attempt_prefix(*attempt) for attempt in attempts]

    def to_bytes(self, mac_key: bytes | None) -> bytes:
        """Encode; without a key anybody could have written it."""
        return document.encode(self, mac_key)

    @classmethod
    def from_bytes(cls, data: bytes, mac_key: bytes | None,
                   verified: bool = False) -> 'Manifest':
        """Read a manifest.

        :param mac_key: must be None if it was None when writing, and the
            same key otherwise.
        :param verified: the caller knows that not a bit of it has changed,
            and need not have the key.
        :raises Corrupted: any bit changed, or the key is another.
        :raises UnsupportedVersion: a newer release wrote it.
        :raises UnsupportedFeature: likewise.
        """
        fields = _check_version(data, 'manifest', VERSION)
        features = fields.get('features')
        if isinstance(features, list):
            unknown = [str(each)[:MAX_TEXT] for each in features
                       if each not in tuple(FEATURES)]
            if unknown:
                raise errors.UnsupportedFeature('The manifest', unknown)
        return document.decode(
            cls, data, 'manifest', mac_key, verified, fields)


def is_fact(text: str) -> bool:
    """Whether a text may be in a :class:`SystemRecord`."""
    return bool(_FACT.fullmatch(text))


def format_time(seconds: float) -> str:
    """Give seconds since the epoch as manifests have it."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.strftime(_TIME_FORMAT)


def parse_time(text: str) -> float:
    """Give the seconds since the epoch of a manifest's time.

    :raises InvalidValue: it is none.
    """
    try:
        moment = datetime.datetime.strptime(text, _TIME_FORMAT)
    except (ValueError, TypeError):
        raise errors.InvalidValue(
            'time', text, 'it is not like 2026-01-31T12:00:00Z') from None
    return moment.replace(tzinfo=datetime.timezone.utc).timestamp()


# Private

def _check_version(data: bytes, what: str,
                   supported: int) -> dict[str, typing.Any]:
    """Refuse a newer version before anything else is looked at."""
    fields = document.parse(data, what)
    version = fields.get('version')
    if type(version) is not int:
        raise errors.Corrupted(what, 'it has no version')
    if version != supported:
        raise errors.UnsupportedVersion(f'The {what}', version, supported)
    return fields


def _check_contents(record: CaptureReport | Manifest) -> None:
    """Check what a report and a manifest have in common."""
    geometry.validate_cluster_size(record.cluster_size)
    codecs.validate_id(record.codec)
    digests.get_digest(record.digest)
    if record.totals.virtual_bytes != record.disk.size:
        raise errors.InvalidValue(
            'virtual bytes', record.totals.virtual_bytes,
            f'the disk has {record.disk.size} bytes')
    if len(record.unreadable) > MAX_UNREADABLE:
        raise errors.InvalidValue(
            'unreadable runs', len(record.unreadable),
            f'there are more than {MAX_UNREADABLE}')
    runs: list[Region | Unreadable] = [*record.regions, *record.unreadable]
    for run in runs:
        if run.start + run.length > record.disk.size:
            raise errors.InvalidValue(
                'run', run, f'the disk has {record.disk.size} bytes')
    _check_packs(record)
    if record.head.size % record.cluster_size:
        raise errors.InvalidValue(
            'head size', record.head.size, 'it is no multiple of the '
            f'cluster size {record.cluster_size}')


def _check_packs(record: CaptureReport | Manifest) -> None:
    """Check what the snapshot is made of, and where that comes from."""
    named = {(pack.attempt, pack.name) for pack in record.packs}
    if len(named) != len(record.packs):
        raise errors.InvalidValue('packs', '(a list)', 'one is there twice')
    for pack in record.packs:
        for what in ('size', 'start', 'length'):
            if getattr(pack, what) % record.cluster_size:
                raise errors.InvalidValue(
                    f'pack {what}', getattr(pack, what),
                    'it is no multiple of the cluster size '
                    f'{record.cluster_size}')
    if (record.parent is None) != (record.full_reason is not None):
        raise errors.InvalidValue(
            'parent', record.parent, 'a snapshot has either a parent or a '
            'reason for having none')
    if record.parent is not None:
        layout.validate_uuid(record.parent)
    if record.full_reason is not None:
        _text('reason', record.full_reason)
    attempts = [attempt.id for attempt in record.attempts]
    for good, reason in (
            (record.parent != record.id, 'the snapshot is its own parent'),
            (len(set(attempts)) == len(attempts), 'one is there twice'),
            (set(attempts) == {attempt for attempt, _ in named},
             'they are not those that wrote the packs'),
            (record.id not in attempts[:-1],
             "the snapshot's own is not the last"),
            (record.parent is not None or set(attempts) <= {record.id},
             'without a parent there are no others')):
        if not good:
            raise errors.InvalidValue('attempts', '(a list)', reason)


def _hex(what: str, value: str, digits: int) -> None:
    if not re.fullmatch(f'[0-9a-f]{{{digits}}}', value):
        raise errors.InvalidValue(
            what, value[:2 * digits],
            f'it is not {digits} lower-case hexadecimal digits')


def _text(what: str, value: str) -> None:
    if len(value) > MAX_TEXT:
        raise errors.InvalidValue(
            what, value[:40] + '...',
            f'it is longer than {MAX_TEXT} characters')
