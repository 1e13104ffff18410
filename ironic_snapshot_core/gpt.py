# SPDX-License-Identifier: Apache-2.0
"""A GUID partition table, moved to a disk of another size.

Source: UEFI specification 2.10, sections 5.2.3 (protective MBR) and 5.3. All
numbers are little-endian, in blocks of one logical sector::

    0             protective MBR
    1             header
    2 ..          entries, one for each partition
    ...
    last - n ..   entries again
    last          header again

Only the headers and the protective MBR know how large the disk is. The
entries stay as they are, and so does what lies between the two tables.
"""

import dataclasses
import itertools
import struct
import typing
import zlib

from ironic_snapshot_core import errors
from ironic_snapshot_core.units import KiB, MiB

#: What the header begins with, at the start of the second sector.
SIGNATURE = b'EFI PART'

#: More entries than this, or the table further from the disk's start, is
#: taken for damage.
MAX_ENTRIES_SIZE = 1 * MiB
MAX_START_SIZE = 16 * MiB

# Kept for the entries at least, however few there are.
_RESERVED = 16 * KiB
_REVISION = 0x00010000
_ENTRY_SIZE = 128

# signature, revision, header size, header CRC, reserved, own LBA, the other
# header's LBA, first and last usable LBA, GUID of the disk, LBA of the
# entries, their number, size of one, their CRC
_HEADER = struct.Struct('<8s4I4Q16sQ3I')
_HEADER_CRC = slice(16, 20)
#: Of its fields, in bytes.
HEADER_SIZE = _HEADER.size

# first LBA, last LBA of a partition; behind its type and its own GUID
_ENTRY = struct.Struct('<32x2Q')
_UNUSED = bytes(16)

# type of a partition in the MBR, first LBA, number of blocks
_RECORD = struct.Struct('<4xB3xII')
_RECORDS = range(446, 510, _RECORD.size)
_MBR_SIGNATURE = slice(510, 512)
_PROTECTIVE = 0xEE
_MAX_BLOCKS = 0xFFFFFFFF


@dataclasses.dataclass(frozen=True, slots=True)
class Relocated:
    """A table for a disk of another size.

    :param primary: what the disk begins with.
    :param backup: what it ends with.
    :param backup_offset: where that belongs, in bytes.
    """

    primary: bytes
    backup: bytes
    backup_offset: int


def size_needed(start: bytes, sector: int) -> int:
    """Tell how much of a disk's start its table takes.

    :param start: at least its first two sectors.
    :param sector: logical, in bytes.
    :returns: in bytes; 34 sectors of 512, or 6 of 4096, on most disks.
    :raises Corrupted: there is no sound table.
    """
    header = _read_header(start, sector)
    end = header.entries_lba * sector + -(-header.entries_size // sector
                                          ) * sector
    if end > min(header.first_usable * sector, MAX_START_SIZE):
        raise _corrupted(f'its entries lie at block {header.entries_lba}')
    return end


def last_used(primary: bytes, sector: int) -> int:
    """Tell where the last partition ends.

    :param primary: start of the disk, see :func:`size_needed`.
    :param sector: logical, in bytes.
    :returns: in bytes; 0 when there is no partition.
    :raises Corrupted: there is no sound table.
    """
    return _Table.parse(primary, sector).end * sector


def relocate(primary: bytes, old_size: int, new_size: int,
             sector: int) -> Relocated:
    """Move a table to a disk of another size.

    :param primary: start of the old disk, see :func:`size_needed`.
    :param old_size: of the disk that the table is of, in bytes.
    :param new_size: of the other, in bytes.
    :param sector: logical, in bytes; of both.
    :raises Corrupted: there is no sound table.
    :raises InvalidValue: the partitions do not fit.
    """
    table = _Table.parse(primary, sector)
    if table.end * sector > old_size:
        raise _corrupted(f'a partition ends at block {table.end - 1}')
    header = table.header
    count = -(-max(header.entries_size, _RESERVED) // sector)
    last = new_size // sector - 1
    least = max(table.end, header.first_usable) + count
    if last < least:
        raise errors.InvalidValue(
            'size of the disk', new_size,
            f'its partitions need {(least + 1) * sector} bytes')
    moved = header._replace(other_lba=last, last_usable=last - count - 1)
    copy = moved._replace(
        own_lba=last, other_lba=1, entries_lba=last - count)
    # Whatever else the header has at its end is kept.
    block = primary[sector:2 * sector]
    return Relocated(
        b''.join((
            _resize_mbr(primary[:sector], last),
            moved.encode(block),
            primary[2 * sector:])),
        table.entries.ljust(count * sector, b'\0') + copy.encode(block),
        copy.entries_lba * sector)


def backup_header(header: bytes, sector: int) -> int:
    """Tell where a header says that the other one lies, in bytes.

    :param header: its first :data:`HEADER_SIZE` bytes; it need not be sound.
    :param sector: logical, in bytes.
    """
    return _Header._make(_HEADER.unpack_from(header)).other_lba * sector


# Private


class _Header(typing.NamedTuple):
    """Fields of a header in their order."""

    signature: bytes
    revision: int
    size: int
    crc: int
    reserved: int
    own_lba: int
    other_lba: int
    first_usable: int
    last_usable: int
    guid: bytes
    entries_lba: int
    entries: int
    entry_size: int
    entries_crc: int

    @property
    def entries_size(self) -> int:
        """All entries together, in bytes."""
        return self.entries * self.entry_size

    def encode(self, block: bytes) -> bytes:
        """Write it over another one in its block."""
        made = bytearray(block)
        _HEADER.pack_into(made, 0, *self._replace(crc=0))
        made[_HEADER_CRC] = zlib.crc32(made[:self.size]).to_bytes(4, 'little')
        return bytes(made)


def _read_header(start: bytes, sector: int) -> _Header:
    """Read and check the first header of a disk."""
    if len(start) < 2 * sector:
        raise _corrupted('the disk ends before it')
    block = start[sector:2 * sector]
    header = _Header._make(_HEADER.unpack_from(block))
    if header.signature != SIGNATURE:
        raise _corrupted('there is none')
    if header.revision != _REVISION:
        raise _corrupted(f'its revision is {header.revision:#010x}')
    if not HEADER_SIZE <= header.size <= sector:
        raise _corrupted(f'its header has {header.size} bytes')
    unsigned = bytearray(block[:header.size])
    unsigned[_HEADER_CRC] = bytes(4)
    if zlib.crc32(unsigned) != header.crc:
        raise _corrupted('its header has another checksum')
    for good, reason in (
            (header.own_lba == 1,
             f'its header is one for block {header.own_lba}'),
            (header.entries_lba >= 2,
             f'its entries lie at block {header.entries_lba}'),
            (header.entry_size >= _ENTRY_SIZE
             and not header.entry_size % _ENTRY_SIZE,
             f'one entry has {header.entry_size} bytes'),
            (0 < header.entries_size <= MAX_ENTRIES_SIZE,
             f'it has {header.entries} entries')):
        if not good:
            raise _corrupted(reason)
    if not any(kind == _PROTECTIVE for _, kind, _, _ in _records(start)):
        # Whoever finds no such record looks for no GPT.
        raise _corrupted('there is no protective MBR')
    return header


@dataclasses.dataclass(frozen=True, slots=True)
class _Table:
    """A sound table.

    :param entries: as they are on the disk.
    :param end: block behind the last partition; 0 when there is none.
    """

    header: _Header
    entries: bytes
    end: int

    @classmethod
    def parse(cls, primary: bytes, sector: int) -> '_Table':
        needed = size_needed(primary, sector)
        if len(primary) < needed:
            raise errors.InvalidValue(
                'partition table', f'{len(primary)} bytes',
                f'it takes {needed}')
        header = _read_header(primary, sector)
        start = header.entries_lba * sector
        entries = primary[start:start + header.entries_size]
        if zlib.crc32(entries) != header.entries_crc:
            raise _corrupted('its entries have another checksum')
        used = []
        for offset in range(0, len(entries), header.entry_size):
            if entries[offset:offset + len(_UNUSED)] == _UNUSED:
                continue
            first, last = _ENTRY.unpack_from(entries, offset)
            if not header.first_usable <= first <= last:
                raise _corrupted(
                    f'a partition has the blocks {first} to {last}')
            used.append((first, last + 1))
        used.sort()
        for (_, end), (begin, _) in itertools.pairwise(used):
            if end > begin:
                raise _corrupted('partitions overlap')
        return cls(header, entries, used[-1][1] if used else 0)


def _records(mbr: bytes) -> typing.Iterator[tuple[int, int, int, int]]:
    """Give (offset, type, first block, blocks) of each record in use."""
    if mbr[_MBR_SIGNATURE] != b'\x55\xaa':
        return
    for offset in _RECORDS:
        kind, first, blocks = _RECORD.unpack_from(mbr, offset)
        if kind:
            yield offset, kind, first, blocks


def _resize_mbr(mbr: bytes, last: int) -> bytes:
    """Make the protective record reach to the last block of the disk.

    One that shares the MBR with others covers only what lies before them, and
    is left alone as long as it fits.
    """
    made = bytearray(mbr)
    records = list(_records(mbr))
    for offset, kind, first, blocks in records:
        if kind == _PROTECTIVE and (
                len(records) == 1 or first + blocks > last + 1):
            struct.pack_into(
                '<I', made, offset + 12, min(last + 1 - first, _MAX_BLOCKS))
    return bytes(made)


def _corrupted(reason: str) -> errors.Corrupted:
    return errors.Corrupted('partition table', reason)
