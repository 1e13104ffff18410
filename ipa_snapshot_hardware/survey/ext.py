# SPDX-License-Identifier: Apache-2.0
"""The allocation map of ext2, ext3 and ext4, from their block bitmaps.

partclone is not asked: it goes through a file system block by block, 2 to 4
seconds for each TiB however little is in it, and it calls all inode tables
data, 16 GiB of an ext4 of 1 TiB. Here a group of blocks that was never used
costs nothing, and of an inode table counts only what ever held an inode: the
rest is zero or, after ``lazy_itable_init``, garbage that nobody reads.

The layout is that of the kernel's Documentation/filesystems/ext4; how groups
without a bitmap are to be read is ext4_init_block_bitmap() in
fs/ext4/balloc.c. Nothing is believed that does not fit: where groups have
checksums they must be right, and each group's bitmap must have as many free
blocks as its descriptor says.
"""

import collections.abc
import dataclasses
import re
import struct

from ironic_snapshot_core import extent
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import part

_SUPER_OFFSET = 1024
_SUPER_SIZE = 1024
_MAGIC = 0xEF53

# s_state
_VALID = 0x1

# s_feature_compat
_SPARSE_SUPER2 = 0x200
# s_feature_incompat
_RECOVER = 0x4
_JOURNAL_DEVICE = 0x8
_META_BG = 0x10
_64BIT = 0x80
_CSUM_SEED = 0x2000
# filetype, extents, mmp, flex_bg, ea_inode, largedir, inline_data, encrypt,
# casefold
_KNOWN_INCOMPAT = (
    _RECOVER | _JOURNAL_DEVICE | _META_BG | _64BIT | _CSUM_SEED | 0x2 | 0x40
    | 0x100 | 0x200 | 0x400 | 0x4000 | 0x8000 | 0x10000 | 0x20000)
# s_feature_ro_compat
_SPARSE_SUPER = 0x1
_GDT_CSUM = 0x10
_METADATA_CSUM = 0x400
_ORPHANS_PRESENT = 0x10000
# large_file, huge_file, dir_nlink, extra_isize, quota, read-only, project,
# verity. Not bigalloc, whose bitmaps are of clusters.
_KNOWN_RO_COMPAT = (
    _SPARSE_SUPER | _GDT_CSUM | _METADATA_CSUM | _ORPHANS_PRESENT | 0x2 | 0x8
    | 0x20 | 0x40 | 0x100 | 0x1000 | 0x2000 | 0x8000)

# bg_flags
_INODE_UNINIT = 0x1
_BLOCK_UNINIT = 0x2

_OLD_DESCRIPTOR = 32
_CRC16 = 0xA001
_CRC32C = 0x82F63B78

# Whole bytes in use, or one with some bits.
_USED_BYTES = re.compile(rb'\xff+|[^\x00\xff]')

_Ranges = collections.abc.Iterator[tuple[int, int]]


def used_ranges(area: part.Part, watch: look.Watch) -> _Ranges:
    """Give (start, end) of what the file system uses, in order.

    What lies behind its end counts as used.

    :raises Doubt: the map is not up to date, or not understood; ranges
        given before are void.
    """
    file_system = _FileSystem(area)
    file_system.check()
    return _subtract(
        file_system.blocks_in_use(watch), file_system.unused_tables())


@dataclasses.dataclass(frozen=True, slots=True)
class _Group:
    """What a descriptor says.

    :param bitmap: block of the block bitmap.
    :param inode_bitmap: block of the inode bitmap.
    :param table: first block of the inode table.
    :param free: number of free blocks.
    :param unused_inodes: at the end of the table.
    """

    bitmap: int
    inode_bitmap: int
    table: int
    free: int
    flags: int
    unused_inodes: int


class _FileSystem:
    def __init__(self, area: part.Part) -> None:
        self._area = area
        data = area.read(_SUPER_OFFSET, _SUPER_SIZE)
        self._super = data
        blocks_low = _u32(data, 4)
        self._first = _u32(data, 20)
        log_size = _u32(data, 24)
        self._per_group = _u32(data, 32)
        self._inodes_per_group = _u32(data, 40)
        self._magic = _u16(data, 56)
        self._state = _u16(data, 58)
        revision = _u32(data, 76)
        inode_size = _u16(data, 88)
        self._compat, self._incompat, self._ro_compat = (
            struct.unpack_from('<III', data, 92))
        self._reserved_descriptors = _u16(data, 206)
        self._journal_device = _u32(data, 228)
        descriptor_size = _u16(data, 254)
        self._first_meta = _u32(data, 260)
        blocks_high = _u32(data, 336)
        large = self._incompat & _64BIT
        self._inode_size = inode_size if revision else 128
        self._descriptor_size = (
            descriptor_size if large else _OLD_DESCRIPTOR)
        self._blocks = blocks_low | (blocks_high << 32 if large else 0)
        self._block_size = 1024 << min(log_size, 16)
        self._groups: list[_Group] = []

    def check(self) -> None:
        """Check that the map is up to date and understood, and learn it.

        :raises Doubt: it is not.
        """
        if self._magic != _MAGIC:
            raise look.Doubt('damaged')
        if self._incompat & _JOURNAL_DEVICE or self._journal_device:
            raise look.Doubt('external journal')
        if (self._incompat & ~_KNOWN_INCOMPAT
                or self._ro_compat & ~_KNOWN_RO_COMPAT):
            raise look.Doubt('unknown features')
        if self._incompat & _RECOVER or self._ro_compat & _ORPHANS_PRESENT:
            raise look.Doubt('dirty journal')
        if self._state != _VALID:
            # Mounted without a journal, or with errors on record.
            raise look.Doubt('not clean')
        size = self._block_size
        if (size > 65536 or self._first != (size == 1024)
                or not self._first < self._blocks
                or self._blocks * size > self._area.length
                or not 0 < self._per_group <= 8 * size
                or self._per_group % 8
                or not 0 < self._inodes_per_group <= 8 * size
                or not 128 <= self._inode_size <= size
                or not 32 <= self._descriptor_size <= size
                or size % self._descriptor_size):
            raise look.Doubt('damaged')
        self._read_descriptors()

    def blocks_in_use(self, watch: look.Watch) -> _Ranges:
        """Give (start, end) in bytes of what the bitmaps call used."""
        size = self._block_size
        # With blocks of 1 KiB, the boot block belongs to no group.
        yield 0, self._first * size
        for number, group in enumerate(self._groups):
            watch()
            first = self._first + number * self._per_group
            count = min(self._per_group, self._blocks - first)
            runs: collections.abc.Iterable[tuple[int, int]]
            if self._has_checksums and group.flags & _BLOCK_UNINIT:
                runs = self._runs_without_bitmap(number, group)
            else:
                runs = _runs(
                    self._area.read(group.bitmap * size, size), count)
            used = 0
            for start, end in runs:
                used += end - start
                yield (first + start) * size, (first + end) * size
            if count - used != group.free:
                raise look.Doubt('map does not fit')
        if self._blocks * size < self._area.length:
            yield self._blocks * size, self._area.length

    def unused_tables(self) -> _Ranges:
        """Give (start, end) in bytes of what no inode was ever in."""
        if not self._has_checksums:
            return
        size = self._block_size
        for group in sorted(self._groups, key=lambda each: each.table):
            used = self._inodes_per_group - group.unused_inodes
            if group.flags & _INODE_UNINIT:
                used = 0
            used_end = group.table + -(-used * self._inode_size // size)
            end = self._table_end(group.table)
            if used_end < end:
                yield used_end * size, end * size

    # Private

    @property
    def _has_checksums(self) -> bool:
        return bool(self._ro_compat & (_GDT_CSUM | _METADATA_CSUM))

    @property
    def _per_block(self) -> int:
        """Descriptors per block."""
        return self._block_size // self._descriptor_size

    def _read_descriptors(self) -> None:
        count = -(-(self._blocks - self._first) // self._per_group)
        check = _Checksum(self._super, self._incompat, self._ro_compat)
        size = self._descriptor_size
        for block in range(-(-count // self._per_block)):
            data = self._area.read(
                self._descriptor_block(block) * self._block_size,
                self._block_size)
            first = block * self._per_block
            for number in range(first, min(first + self._per_block, count)):
                at = (number - first) * size
                descriptor = data[at:at + size]
                if self._has_checksums and not check.fits(
                        number, descriptor):
                    raise look.Doubt('damaged')
                self._groups.append(self._parse(descriptor))

    def _descriptor_block(self, block: int) -> int:
        """Tell where a block of descriptors lies."""
        if not self._incompat & _META_BG or block < self._first_meta:
            return self._first + 1 + block
        group = block * self._per_block
        return (self._first + group * self._per_group
                + self._has_super(group))

    def _parse(self, data: bytes) -> _Group:
        fields = list(struct.unpack_from('<IIIHHHH', data))
        unused = _u16(data, 28)
        if self._descriptor_size >= 64:
            high = struct.unpack_from('<IIIHHHH', data, 32)
            for number, bits in enumerate((32, 32, 32, 16)):
                fields[number] |= high[number] << bits
            unused |= high[6] << 16
        bitmap, inode_bitmap, table, free, _, _, flags = fields
        end = max(bitmap + 1, inode_bitmap + 1, self._table_end(table))
        if (not self._first < min(bitmap, inode_bitmap, table)
                or end > self._blocks or unused > self._inodes_per_group):
            raise look.Doubt('damaged')
        return _Group(bitmap, inode_bitmap, table, free, flags, unused)

    def _runs_without_bitmap(
        self, number: int, group: _Group
    ) -> extent.DataExtents:
        """Give what is used in a group that has only its own metadata."""
        first = self._first + number * self._per_group
        count = min(self._per_group, self._blocks - first)
        runs = extent.DataExtents()
        for start, end in sorted((
                (0, self._base_blocks(number)),
                (group.bitmap - first, group.bitmap - first + 1),
                (group.inode_bitmap - first, group.inode_bitmap - first + 1),
                (group.table - first, self._table_end(group.table) - first),
        )):
            if end > 0:
                runs.add(max(start, 0), min(end, count))
        return runs

    def _table_end(self, table: int) -> int:
        """Tell the block behind an inode table."""
        size = self._inodes_per_group * self._inode_size
        return table + -(-size // self._block_size)

    def _base_blocks(self, number: int) -> int:
        """Count the blocks of superblock and descriptors in a group."""
        has_super = self._has_super(number)
        block = number // self._per_block
        if self._incompat & _META_BG and block >= self._first_meta:
            place = number % self._per_block
            return has_super + (place in (0, 1, self._per_block - 1))
        if not has_super:
            return 0
        blocks = -(-len(self._groups) // self._per_block)
        if self._incompat & _META_BG:
            blocks = min(blocks, self._first_meta)
        return 1 + blocks + self._reserved_descriptors

    def _has_super(self, number: int) -> bool:
        """Tell whether a group begins with a copy of the superblock."""
        if number == 0:
            return True
        if self._compat & _SPARSE_SUPER2:
            return number in (_u32(self._super, 588), _u32(self._super, 592))
        if number == 1 or not self._ro_compat & _SPARSE_SUPER:
            return True
        return any(_is_power(number, base) for base in (3, 5, 7))


class _Checksum:
    """The checksums of group descriptors."""

    def __init__(
        self, superblock: bytes, incompat: int, ro_compat: int
    ) -> None:
        self._is_crc32c = bool(ro_compat & _METADATA_CSUM)
        uuid = superblock[104:120]
        if not self._is_crc32c:
            self._table = _crc_table(_CRC16)
            self._seed = self._crc(0xFFFF, uuid)
            return
        self._table = _crc_table(_CRC32C)
        if incompat & _CSUM_SEED:
            self._seed = _u32(superblock, 624)
        else:
            self._seed = self._crc(0xFFFFFFFF, uuid)

    def fits(self, number: int, descriptor: bytes) -> bool:
        """Tell whether a group's descriptor is what was written."""
        expected = _u16(descriptor, 30)
        found = self._crc(self._seed, number.to_bytes(4, 'little'))
        if self._is_crc32c:
            found = self._crc(
                found, descriptor[:30] + bytes(2) + descriptor[32:])
        else:
            found = self._crc(found, descriptor[:30] + descriptor[32:])
        return found & 0xFFFF == expected

    def _crc(self, crc: int, data: bytes) -> int:
        table = self._table
        for byte in data:
            crc = crc >> 8 ^ table[(crc ^ byte) & 0xFF]
        return crc


def _u16(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset:offset + 2], 'little')


def _u32(data: bytes, offset: int) -> int:
    return int.from_bytes(data[offset:offset + 4], 'little')


def _crc_table(polynomial: int) -> list[int]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (polynomial if value & 1 else 0)
        table.append(value)
    return table


def _is_power(number: int, base: int) -> bool:
    power = base
    while power < number:
        power *= base
    return power == number


def _runs(bitmap: bytes, count: int) -> _Ranges:
    """Give (start, end) of the bits that are set, among the first ones."""
    for match in _USED_BYTES.finditer(bitmap[:-(-count // 8)]):
        start, end = match.span()
        byte = bitmap[start]
        if byte == 0xFF:
            yield start * 8, min(end * 8, count)
            continue
        for bit in range(8):
            if byte >> bit & 1 and start * 8 + bit < count:
                yield start * 8 + bit, start * 8 + bit + 1


def _subtract(ranges: _Ranges, without: _Ranges) -> _Ranges:
    """Leave some ordered ranges out of others."""
    skip, resume = next(without, (1 << 64, 1 << 64))
    for start, end in ranges:
        while skip < end:
            if start < skip:
                yield start, skip
            start = max(start, min(resume, end))
            if resume > end:
                break
            skip, resume = next(without, (1 << 64, 1 << 64))
        if start < end:
            yield start, end
