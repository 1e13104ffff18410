# SPDX-License-Identifier: Apache-2.0
"""LVM: where a thin pool lies on the disk, and what volumes are in it.

::

    root, kept ...    thin volumes, each a numbered device of the pool
    pool              thin-pool: chunks of pool_tdata, by what pool_tmeta says
    pool_tdata        segments on the disk
    pool_tmeta        segments on the disk

Of a pool that is anything more than this (RAID or a cache below it, a volume
with an origin outside, a snapshot that is being merged, a change that LVM has
begun) nothing is said.

Keys: lib/thin/thin.c of LVM2.
"""

import dataclasses

from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import lvm
from ipa_snapshot_hardware.survey import lvm_area
from ipa_snapshot_hardware.survey import lvm_text

_SEGMENT_KEYS = {'start_extent', 'extent_count', 'type', 'tags'}
_POOL_KEYS = {
    *_SEGMENT_KEYS,
    'metadata',
    'pool',
    'transaction_id',
    'chunk_size',
    'discards',
    'zero_new_blocks',
    'crop_metadata',
}
# Also known, and always a doubt: external_origin, merge.
_THIN_KEYS = {
    *_SEGMENT_KEYS,
    'thin_pool',
    'transaction_id',
    'device_id',
    'origin',
}
_HIDDEN_STATUS = {'READ', 'WRITE'}
# The kernel's limit: device numbers have 24 bits.
_MAX_DEVICE = (1 << 24) - 1


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """A part of a volume that is in one run on the disk.

    :param logical: where it is in the volume, in bytes.
    :param start: where it is on the disk, in bytes.
    :param length: in bytes.
    """

    logical: int
    start: int
    length: int


@dataclasses.dataclass(frozen=True, slots=True)
class Volume:
    """A thin volume.

    :param uuid: LVM's id of it: random, and never given twice.
    :param transaction: of the pool, when the volume was made.
    """

    uuid: str
    transaction: int


@dataclasses.dataclass(frozen=True, slots=True)
class Pool:
    """A thin pool.

    :param name: ``vg/pool``.
    :param uuid: LVM's id of it.
    :param chunk_size: in bytes.
    :param transaction: how many changes LVM has made to it.
    :param data: where its data is, in the order of the volume.
    :param metadata: where its metadata is, likewise.
    :param volumes: by their device number in the pool.
    """

    name: str
    uuid: str
    chunk_size: int
    transaction: int
    data: tuple[Piece, ...]
    metadata: tuple[Piece, ...]
    volumes: dict[int, Volume]


def pools(
    disk: base.Disk, start: int, length: int
) -> dict[str, Pool | look.Doubt]:
    """Read what a physical volume says of thin pools.

    :param start: of the volume, in bytes from the start of the disk.
    :param length: of the volume, in bytes.
    :returns: each pool by its name, or why it is not understood.
    :raises Doubt: its group is not understood.
    :raises DiskReadError: when the description cannot be read.
    """
    group = lvm.read_group(disk, start, length)
    found: dict[str, Pool | look.Doubt] = {}
    for name, volume in group.text.items():
        first = lvm.segments(volume)[0]
        if first.get('type') == 'thin-pool':
            full_name = f'{group.name}/{name}'
            try:
                found[full_name] = _pool(group, name, full_name, start)
            except look.Doubt as doubt:
                found[full_name] = doubt
    return found


# Private


def _pool(
    group: lvm.Group, name: str, full_name: str, start: int
) -> Pool:
    segment = _only_segment(group.text[name], _POOL_KEYS)
    return Pool(
        full_name,
        _uuid(group.text[name]),
        lvm_text.number(segment, 'chunk_size', 1) * lvm_area.SECTOR,
        lvm_text.number(segment, 'transaction_id', 0),
        _pieces(group, segment.get('pool'), start),
        _pieces(group, segment.get('metadata'), start),
        _volumes(group, name),
    )


def _volumes(group: lvm.Group, pool: str) -> dict[int, Volume]:
    found: dict[int, Volume] = {}
    for volume in group.text.values():
        if not any(
            segment.get('thin_pool') == pool
            for segment in lvm.segments(volume)
        ):
            continue
        segment = _only_segment(volume, _THIN_KEYS)
        number = lvm_text.number(segment, 'device_id', 0)
        if (
            segment.get('type') != 'thin'
            or number > _MAX_DEVICE
            or number in found
        ):
            raise look.Doubt('bad thin volume')
        found[number] = Volume(
            _uuid(volume), lvm_text.number(segment, 'transaction_id', 0)
        )
    return found


def _only_segment(
    volume: lvm_text.Section, keys: set[str]
) -> lvm_text.Section:
    segments = lvm.segments(volume)
    if len(segments) != 1:
        raise look.Doubt('thin volume in several segments')
    unknown = sorted(set(segments[0]) - keys)
    if unknown:
        raise look.Doubt(f'thin volume with {unknown[0]}')
    return segments[0]


def _pieces(
    group: lvm.Group, name: object, start: int
) -> tuple[Piece, ...]:
    """Give where a volume of plain segments is, in its own order."""
    volume = group.text.get(name) if isinstance(name, str) else None
    if volume is None:
        raise look.Doubt('thin pool without its parts')
    if not lvm_text.strings(volume, 'status') <= _HIDDEN_STATUS:
        raise look.Doubt('thin pool being changed')
    found: list[Piece] = []
    logical = 0
    for segment in sorted(
        lvm.segments(volume),
        key=lambda each: lvm_text.number(each, 'start_extent', 0),
    ):
        if segment.get('type', 'striped') != 'striped':
            raise look.Doubt('thin pool on another layer')
        areas = lvm.stripes(segment, group.device)
        if len(areas) != 1 or segment['stripe_count'] != 1:
            raise look.Doubt('thin pool on another layer')
        first, count = areas[0]
        if segment['start_extent'] != logical // group.extent_size:
            raise look.Doubt('bad segments')
        at = start + group.data_start + first * group.extent_size
        size = count * group.extent_size
        if found and found[-1].start + found[-1].length == at:
            last = found.pop()
            found.append(Piece(
                last.logical, last.start, last.length + size))
        else:
            found.append(Piece(logical, at, size))
        logical += size
    return tuple(found)


def _uuid(volume: lvm_text.Section) -> str:
    found = volume.get('id')
    if not isinstance(found, str) or not 0 < len(found) <= 64:
        raise look.Doubt('volume without id')
    return found
