# SPDX-License-Identifier: Apache-2.0
"""LVM: look through the simple volumes to what is in them.

Nothing is activated: this reads the description of the volume group that
LVM keeps on the disk, and computes where the volumes are.

What is done with a physical volume that is alone in its group:

* a volume in one run of extents is looked at as if it were a partition;
* any other volume (several segments, stripes, snapshots and their origins,
  thin pools, RAID, caches and all that lies below them) is read whole;
* extents that no volume has are not data. To LVM they are what free blocks
  are to a file system: the next volume made of them starts from nothing.
  They are left out only when every part of the description is sound and
  known, and no volume is being moved;
* label, metadata areas, what lies behind the last extent, and the first and
  last MiB are data.

With the least doubt, all of the physical volume is.
"""

import dataclasses
import heapq
import re
import typing
from collections.abc import Callable

from ironic_snapshot_core import extent
from ironic_snapshot_core import manifest
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import lvm_area
from ipa_snapshot_hardware.survey import lvm_text

CONTENT = 'LVM2_member'

#: Looks at (start, length, name): what is in a volume that is in one piece.
LookAt = Callable[[int, int, str], look.Look]

#: Pieces that volumes may lie in; each becomes a region of the manifest.
MAX_PIECES = 1000

_CONTENTS = 'Text Format Volume Group'
_VERSION = 1

_GROUP_STATUS = {'RESIZEABLE', 'READ', 'WRITE'}
_DEVICE_STATUS = {'ALLOCATABLE'}
_VOLUME_STATUS = {'READ', 'WRITE', 'VISIBLE', 'FIXED_MINOR'}
_VOLUME_FLAGS = {'ACTIVATION_SKIP'}
_GROUP_SECTIONS = {
    'physical_volumes',
    'logical_volumes',
    'historical_logical_volumes',
}
_LINEAR_KEYS = {
    'start_extent',
    'extent_count',
    'type',
    'stripe_count',
    'stripe_size',
    'stripes',
    'tags',
}
# By itself: of use to LVM alone, such as spare room.
_HIDDEN = 'hidden'
_NAME = re.compile(r'[A-Za-z0-9_.+-]{1,128}')


@dataclasses.dataclass(slots=True)
class Volume:
    """A logical volume, or what another is made of.

    :param pieces: where it is, (first, count) in extents of the device.
    :param reason: why it cannot be looked through; empty if it can.
    """

    name: str
    pieces: list[tuple[int, int]]
    reason: str


@dataclasses.dataclass(frozen=True, slots=True)
class Group:
    """A volume group on one device.

    :param device: what the group calls its device.
    :param data_start: where the extents begin, in bytes from the start of
        the physical volume.
    :param extent_size: in bytes.
    :param extents: how many there are.
    :param text: what LVM has written about each volume, by its name.
    """

    name: str
    device: str
    data_start: int
    extent_size: int
    extents: int
    volumes: list[Volume]
    text: dict[str, lvm_text.Section]


def survey_lvm(
    disk: base.Disk, start: int, length: int, look_at: LookAt
) -> look.Look:
    """Look at a physical volume.

    :param start: of the volume, in bytes from the start of the disk.
    :param length: of the volume, in bytes.
    :param look_at: looks at a part of the disk as at a partition.
    :returns: what the group has allocated.
    :raises Doubt: ``lvm: ...``.
    :raises DiskReadError: when the description cannot be read.
    """
    group = read_group(disk, start, length)
    return _look_through(disk, start, length, group, look_at)


def read_group(disk: base.Disk, start: int, length: int) -> Group:
    """Read and check what a physical volume says of its group.

    :param start: of the volume, in bytes from the start of the disk.
    :param length: of the volume, in bytes.
    :raises Doubt: ``lvm: ...``.
    :raises DiskReadError: when the description cannot be read.
    """
    try:
        volume = lvm_area.read_label(disk, start, length)
        text = lvm_area.read_text(disk, start, length, volume)
        return _read_group(lvm_text.parse(text), volume, length)
    except look.Doubt as doubt:
        raise look.Doubt(f'lvm: {doubt.reason}') from None


def segments(volume: lvm_text.Section) -> list[lvm_text.Section]:
    """Give the segments of a volume, as LVM has written them.

    :raises Doubt: there are none, or not as many as it says.
    """
    found = list(lvm_text.sections(volume).values())
    if not found or lvm_text.number(volume, 'segment_count', 1) != len(found):
        raise look.Doubt('bad segments')
    return found


def stripes(
    segment: lvm_text.Section, device: str
) -> list[tuple[int, int]]:
    """Give the extents of the device in a segment, (first, count).

    :raises Doubt: it makes no sense.
    """
    count = lvm_text.number(segment, 'extent_count', 1)
    stripes = lvm_text.number(segment, 'stripe_count', 1)
    areas = segment.get('stripes')
    lvm_text.number(segment, 'start_extent', 0)
    if (
        not isinstance(areas, list)
        or len(areas) != 2 * stripes
        or count % stripes
    ):
        raise look.Doubt('bad segments')
    pieces = []
    for name, first in zip(areas[::2], areas[1::2], strict=True):
        if not isinstance(name, str) or not isinstance(first, int):
            raise look.Doubt('bad segments')
        if name == device:
            pieces.append((first, count // stripes))
    return pieces


# Private


def _look_through(
    disk: base.Disk, start: int, length: int, group: Group, look_at: LookAt
) -> look.Look:
    data_start = start + group.data_start
    data_end = data_start + group.extents * group.extent_size
    end = start + length
    ranges: list[typing.Iterable[tuple[int, int]]] = [
        ((start, min(end, max(start + look.EDGE_BYTES, data_start))),),
        ((max(start, min(end - look.EDGE_BYTES, data_end)), end),),
    ]
    inner: list[manifest.Region] = []
    pieces = [
        (piece, volume) for volume in group.volumes for piece in volume.pieces
    ]
    # No two begin alike, so the volumes are never compared.
    for (first, count), volume in sorted(pieces):
        at = data_start + first * group.extent_size
        size = count * group.extent_size
        name = f'volume {group.name}/{volume.name}'
        found = _look_at_volume(disk, at, size, name, volume.reason, look_at)
        ranges.append(found.extents)
        inner.append(
            manifest.Region(
                at,
                size,
                name,
                found.content,
                found.method,
                found.reason,
                found.extents.size,
            )
        )
        inner.extend(found.inner)
    extents = extent.DataExtents()
    for from_byte, to_byte in heapq.merge(*ranges):
        extents.add(from_byte, to_byte)
    return look.Look(
        CONTENT, manifest.ALLOCATED, '', extents, tuple(inner)
    )


def _look_at_volume(
    disk: base.Disk,
    start: int,
    length: int,
    name: str,
    reason: str,
    look_at: LookAt,
) -> look.Look:
    if reason:
        return look.whole(start, length, '', f'lvm: {reason}')
    # A chain of groups inside groups would be followed until the stack ends.
    beginning = bytearray(
        min(lvm_area.LABEL_SECTORS * lvm_area.SECTOR, length)
    )
    disk.read_into(start, beginning)
    if lvm_area.has_label(bytes(beginning)):
        return look.whole(start, length, CONTENT, 'lvm: inside lvm')
    return look_at(start, length, name)


# Private: what the text says


def _read_group(
    root: lvm_text.Section, volume: lvm_area.PhysicalVolume, length: int
) -> Group:
    if (root.get('contents'), root.get('version')) != (_CONTENTS, _VERSION):
        raise look.Doubt('unknown metadata version')
    name, group = _only_section(root, 'no single volume group')
    _check_name(name)
    if not lvm_text.strings(group, 'status') <= _GROUP_STATUS:
        raise look.Doubt(_unusual(group, _GROUP_STATUS))
    if lvm_text.strings(group, 'flags', ()):
        raise look.Doubt('unknown flags')
    if group.get('format', 'lvm2') != 'lvm2':
        raise look.Doubt('unknown format')
    if group.get('lock_type', 'none') != 'none':
        raise look.Doubt('shared')
    if not set(lvm_text.sections(group)) <= _GROUP_SECTIONS:
        raise look.Doubt('unknown section')
    devices = lvm_text.sections(lvm_text.section(group, 'physical_volumes'))
    if len(devices) != 1:
        raise look.Doubt('several physical volumes')
    device_name, device = devices.popitem()
    extent_size = lvm_text.number(group, 'extent_size', 1) * lvm_area.SECTOR
    count = _check_device(device, volume, extent_size, length)
    text = lvm_text.sections(lvm_text.section(group, 'logical_volumes', {}))
    volumes = _read_volumes(text, device_name)
    _check_pieces(volumes, count)
    return Group(
        name,
        device_name,
        volume.data_start,
        extent_size,
        count,
        volumes,
        text,
    )


def _check_device(
    device: lvm_text.Section,
    volume: lvm_area.PhysicalVolume,
    extent_size: int,
    length: int,
) -> int:
    """Check the group's device against its label; give its extents."""
    uuid = device.get('id')
    if not isinstance(uuid, str) or uuid.replace('-', '') != volume.uuid:
        raise look.Doubt('another device')
    if not lvm_text.strings(device, 'status') <= _DEVICE_STATUS:
        raise look.Doubt(_unusual(device, _DEVICE_STATUS))
    if lvm_text.strings(device, 'flags', ()):
        raise look.Doubt(_unusual(device, set(), 'flags'))
    data_start = lvm_text.number(device, 'pe_start', 1) * lvm_area.SECTOR
    count = lvm_text.number(device, 'pe_count', 1)
    data_end = data_start + count * extent_size
    if data_start != volume.data_start:
        raise look.Doubt('label and metadata differ')
    if data_end > length or volume.size > length:
        raise look.Doubt('larger than its device')
    for offset, size in (*volume.metadata, *volume.boot_areas):
        if offset < data_end and offset + size > data_start:
            raise look.Doubt('metadata inside the data')
    return count


def _read_volumes(
    found: dict[str, lvm_text.Section], device: str
) -> list[Volume]:
    volumes = {}
    below: dict[str, str] = {}
    for name, section in found.items():
        volumes[name] = _read_volume(name, section, device, below)
    # A snapshot reads from its origin what has not changed since, used or
    # not; whatever another volume is made of has a content of its own.
    for name, kind in below.items():
        if name in volumes and volumes[name].reason in ('', _HIDDEN):
            volumes[name].reason = f'below {kind}'
    return list(volumes.values())


def _read_volume(
    name: str,
    section: lvm_text.Section,
    device: str,
    below: dict[str, str],
) -> Volume:
    """Read a logical volume.

    :param below: added to: names of what it is built on -> its kind.
    """
    _check_name(name)
    status = lvm_text.strings(section, 'status')
    in_order = segments(section)
    pieces: list[tuple[int, int]] = []
    reason = ''
    stacked = False
    for segment in in_order:
        kind = segment.get('type', 'striped')
        if not isinstance(kind, str) or not _NAME.fullmatch(kind):
            raise look.Doubt('bad segments')
        names = set(_all_strings(segment))
        if kind == 'striped' and segment.keys() <= _LINEAR_KEYS:
            pieces += stripes(segment, device)
            names.discard(device)
        elif device in names:
            raise look.Doubt(f'{kind} on the device itself')
        if kind != 'striped':
            reason = kind
        stacked = stacked or bool(names)
        below.update(dict.fromkeys(names, kind))
    pieces = _joined(pieces)
    if not reason and len(in_order) > 1:
        reason = f'{len(in_order)} segments'
    elif not reason and (len(pieces) != 1 or stacked):
        reason = 'stripes'
    elif not reason and (
        not status <= _VOLUME_STATUS
        or not lvm_text.strings(section, 'flags', ()) <= _VOLUME_FLAGS
    ):
        reason = 'unusual status'
    elif not reason and 'VISIBLE' not in status:
        reason = _HIDDEN
    return Volume(name, pieces, reason)


def _joined(pieces: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Put adjacent pieces together."""
    joined: list[tuple[int, int]] = []
    for first, count in sorted(pieces):
        if joined and sum(joined[-1]) == first:
            joined[-1] = (joined[-1][0], joined[-1][1] + count)
        else:
            joined.append((first, count))
    return joined


def _check_pieces(volumes: list[Volume], extents: int) -> None:
    """Check that no extent is used twice, or does not exist."""
    pieces = sorted(piece for each in volumes for piece in each.pieces)
    if len(pieces) > MAX_PIECES:
        raise look.Doubt('too many segments')
    free_from = 0
    for first, count in pieces:
        if first < free_from:
            raise look.Doubt('overlapping volumes')
        free_from = first + count
    if free_from > extents:
        raise look.Doubt('volume beyond the end')


def _only_section(
    section: lvm_text.Section, doubt: str
) -> tuple[str, lvm_text.Section]:
    found = lvm_text.sections(section)
    if len(found) != 1:
        raise look.Doubt(doubt)
    return found.popitem()


def _all_strings(segment: lvm_text.Section) -> list[str]:
    """Give every string in a segment: the names of volumes are among them."""
    found: list[str] = []
    for name, value in segment.items():
        if isinstance(value, dict):
            found += _all_strings(value)
        elif name not in ('type', 'tags'):
            values = value if isinstance(value, list) else [value]
            found += [each for each in values if isinstance(each, str)]
    return found


def _unusual(
    section: lvm_text.Section, usual: set[str], name: str = 'status'
) -> str:
    """Name what is unusual of a status, if it is a word."""
    unusual = min(lvm_text.strings(section, name) - usual)
    if re.fullmatch('[A-Z_]{1,20}', unusual):
        return unusual.lower()
    return 'unknown status'


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise look.Doubt('bad name')
