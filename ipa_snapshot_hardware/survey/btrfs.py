# SPDX-License-Identifier: Apache-2.0
"""The allocation map of a btrfs, from its own extent tree.

partclone is not asked: before 0.3.38 it leaves out the second copy of
duplicated metadata, and up to now it may leave out a tree's inner nodes. The
extent tree lists whatever is in use, data and metadata, in *logical*
addresses; the chunk tree says where on the disk each of them lies, once or
(profile DUP) twice::

    superblock --> system chunks --> chunk tree --> all chunks
               --> root tree --> extent tree --> what is in use

Both are as of the last commit, which is what a mount begins with; newer
blocks are none of its business, unless a log tree tells of them.

The layout is that of btrfs's on-disk format documentation and the kernel's
include/uapi/linux/btrfs_tree.h. Nothing is believed that does not fit: a
tree block must say its own address, file system, generation and level, keys
ascend, and the sum of what is in use is the superblock's.
"""

import bisect
import collections.abc
import dataclasses
import itertools
import struct

from ironic_snapshot_core import errors
from ironic_snapshot_core import extent
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import part

# A superblock's copies; those within the device are there.
_SUPER_OFFSETS = (64 << 10, 64 << 20, 256 << 30)
_SUPER_SIZE = 4096
_MAGIC = b'_BHRfS_M'
# Header flags "written" and "relocation"; not seeding, not being changed.
_KNOWN_FLAGS = 0x3
# mixed backref, default subvolume, mixed groups, lzo, zstd, big metadata,
# extended iref, raid56, skinny metadata, no holes, metadata uuid, raid1c34,
# simple quota. Not zoned, extent tree v2, raid stripe tree.
_KNOWN_INCOMPAT = (
    0x1 | 0x2 | 0x4 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400
    | 0x800 | 0x10000)
_METADATA_UUID = 0x400
# free space tree, its being valid, verity, block group tree
_KNOWN_RO_COMPAT = 0x1 | 0x2 | 0x4 | 0x8

_KEY = struct.Struct('<QBQ')
_HEADER_SIZE = 101
_ITEM = struct.Struct('<QBQII')
_POINTER = struct.Struct('<QBQQQ')
_CHUNK = struct.Struct('<QQQQIIIHH')
_STRIPE = struct.Struct('<QQ16x')
_MAX_LEVEL = 8
_SIZES = (4096, 8192, 16384, 32768, 65536)

_EXTENT_TREE = 2
_ROOT_ITEM = 132
_EXTENT_ITEM = 168
_METADATA_ITEM = 169
_CHUNK_ITEM = 228

# Block group types; a profile of neither is SINGLE.
_CONTENTS = 0x1 | 0x2 | 0x4
_DUP = 0x20

_Key = tuple[int, int, int]
_LOWEST = (0, 0, 0)
_HIGHEST = (1 << 64, 0, 0)


@dataclasses.dataclass(frozen=True)
class _Chunk:
    """A run of logical addresses, and where on the disk its copies are."""

    start: int
    length: int
    copies: tuple[int, ...]
    used: extent.DataExtents

    @property
    def end(self) -> int:
        return self.start + self.length


@dataclasses.dataclass(frozen=True)
class _Root:
    """Where a tree begins."""

    logical: int
    level: int
    generation: int


def used_ranges(
    area: part.Part, watch: look.Watch
) -> collections.abc.Iterator[tuple[int, int]]:
    """Give (start, end) of what the file system uses, in order.

    What lies behind its end counts as used.

    :raises Doubt: the map cannot be had, or is not understood.
    """
    file_system = _FileSystem(area, watch)
    file_system.read()
    return file_system.used_ranges()


class _FileSystem:
    def __init__(self, area: part.Part, watch: look.Watch) -> None:
        self._area = area
        self._watch = watch
        self._chunks: list[_Chunk] = []
        self._chunk_starts: list[int] = []
        self._blocks_read = 0
        data = area.read(_SUPER_OFFSETS[0], _SUPER_SIZE)
        address, flags = struct.unpack_from('<QQ', data, 48)
        generation, root, chunk_root, log_root = struct.unpack_from(
            '<QQQQ', data, 72)
        self._size, self._used = struct.unpack_from('<QQ', data, 112)
        devices, sector, self._node_size, _, _, array = struct.unpack_from(
            '<QIIIII', data, 136)
        chunk_generation, _, ro_compat, incompat = struct.unpack_from(
            '<QQQQ', data, 164)
        root_level, chunk_level = data[198:200]
        self._device = struct.unpack_from('<Q', data, 201)[0]
        if data[64:72] != _MAGIC or address != _SUPER_OFFSETS[0]:
            raise look.Doubt('damaged')
        if (flags & ~_KNOWN_FLAGS or incompat & ~_KNOWN_INCOMPAT
                or ro_compat & ~_KNOWN_RO_COMPAT):
            raise look.Doubt('unknown features')
        if devices != 1:
            raise look.Doubt('multiple devices')
        if log_root:
            raise look.Doubt('dirty journal')
        if (sector not in _SIZES or self._node_size not in _SIZES
                or not 0 < self._size <= area.length or array > 2048):
            raise look.Doubt('damaged')
        self._uuid = data[571:587] if incompat & _METADATA_UUID else (
            data[32:48])
        self._root = _Root(root, root_level, generation)
        self._chunk_root = _Root(chunk_root, chunk_level, chunk_generation)
        self._add_system_chunks(data[811:811 + array])

    def read(self) -> None:
        """Read the trees."""
        system = self._chunks
        found = [
            self._parse_chunk(key[2], data)
            for key, data in self._items(self._chunk_root)
            if key[1] == _CHUNK_ITEM]
        self._set_chunks(found)
        if any(self._chunk_of(each.start).copies != each.copies
               for each in system):
            raise look.Doubt('damaged')
        self._read_extents(self._extent_root())
        used = sum(chunk.used.size for chunk in self._chunks)
        if used != self._used:
            raise look.Doubt('map does not fit')

    def used_ranges(self) -> collections.abc.Iterator[tuple[int, int]]:
        """Give what is in use as ranges of the part, in order."""
        copies = self._copies()
        supers = [
            (offset, offset + _SUPER_SIZE) for offset in _SUPER_OFFSETS
            if offset + _SUPER_SIZE <= self._size]
        for offset, chunk in copies:
            while supers and supers[0][0] < offset:
                yield supers.pop(0)
            for start, end in chunk.used:
                start += offset - chunk.start
                # mkfs keeps chunks' contents off the superblocks, but not
                # their ranges.
                while supers and supers[0][0] < start:
                    yield supers.pop(0)
                yield start, end + offset - chunk.start
        yield from supers
        if self._size < self._area.length:
            yield self._size, self._area.length

    # Private

    def _copies(self) -> list[tuple[int, _Chunk]]:
        """Give (physical start, chunk) of every copy, in order."""
        copies = sorted(
            ((copy, chunk) for chunk in self._chunks
             for copy in chunk.copies), key=lambda each: each[0])
        for (one, chunk), (other, _) in itertools.pairwise(copies):
            if one + chunk.length > other:
                raise look.Doubt('damaged')
        if copies and copies[-1][0] + copies[-1][1].length > self._size:
            raise look.Doubt('damaged')
        return copies

    def _add_system_chunks(self, data: bytes) -> None:
        """Learn where the chunk tree itself lies."""
        chunks = []
        while data:
            if len(data) < _KEY.size + _CHUNK.size:
                raise look.Doubt('damaged')
            _, kind, logical = _KEY.unpack_from(data)
            if kind != _CHUNK_ITEM:
                raise look.Doubt('damaged')
            data = data[_KEY.size:]
            chunk = self._parse_chunk(logical, data)
            chunks.append(chunk)
            data = data[_CHUNK.size + len(chunk.copies) * _STRIPE.size:]
        self._set_chunks(chunks)

    def _set_chunks(self, chunks: list[_Chunk]) -> None:
        chunks.sort(key=lambda each: each.start)
        for one, other in itertools.pairwise(chunks):
            if one.end > other.start:
                raise look.Doubt('damaged')
        self._chunks = chunks
        self._chunk_starts = [chunk.start for chunk in chunks]

    def _parse_chunk(self, logical: int, data: bytes) -> _Chunk:
        if len(data) < _CHUNK.size:
            raise look.Doubt('damaged')
        length, _, _, kind, _, _, _, copies, _ = _CHUNK.unpack_from(data)
        if kind & ~(_CONTENTS | _DUP):
            raise look.Doubt('unknown profile')
        if copies != (2 if kind & _DUP else 1) or not length:
            raise look.Doubt('damaged')
        if len(data) < _CHUNK.size + copies * _STRIPE.size:
            raise look.Doubt('damaged')
        offsets = []
        for number in range(copies):
            device, offset = _STRIPE.unpack_from(
                data, _CHUNK.size + number * _STRIPE.size)
            if device != self._device:
                raise look.Doubt('multiple devices')
            if offset + length > self._size:
                raise look.Doubt('damaged')
            offsets.append(offset)
        return _Chunk(
            logical, length, tuple(offsets), extent.DataExtents())

    def _chunk_of(self, logical: int) -> _Chunk:
        number = bisect.bisect_right(self._chunk_starts, logical) - 1
        if number < 0 or logical >= self._chunks[number].end:
            raise look.Doubt('damaged')
        return self._chunks[number]

    def _extent_root(self) -> _Root:
        wanted = (_EXTENT_TREE, _ROOT_ITEM, 0)
        for key, data in self._items(
                self._root, wanted, (_EXTENT_TREE, _ROOT_ITEM, 1 << 64)):
            if key[:2] == wanted[:2] and len(data) >= 239:
                return _Root(
                    logical=struct.unpack_from('<Q', data, 176)[0],
                    level=data[238],
                    generation=struct.unpack_from('<Q', data, 160)[0])
        raise look.Doubt('damaged')

    def _read_extents(self, root: _Root) -> None:
        """Note what is in use in each chunk."""
        chunk = None
        ranges = 0
        for block in self._leaves(root, _LOWEST, _HIGHEST):
            if ranges > extent.MAX_RANGES:
                raise look.Doubt('too fragmented')
            for logical, kind, length, _, _ in self._leaf_items(block):
                if kind == _METADATA_ITEM:
                    length = self._node_size
                elif kind != _EXTENT_ITEM:
                    continue
                if chunk is None or not chunk.start <= logical < chunk.end:
                    chunk = self._chunk_of(logical)
                if logical + length > chunk.end:
                    raise look.Doubt('damaged')
                ranges -= len(chunk.used)
                try:
                    chunk.used.add(logical, logical + length)
                except errors.InvalidValue:
                    raise look.Doubt('damaged') from None
                ranges += len(chunk.used)

    def _items(
        self, root: _Root, low: _Key = _LOWEST, high: _Key = _HIGHEST
    ) -> collections.abc.Iterator[tuple[_Key, bytes]]:
        """Give key and data of the items in the leaves that may matter."""
        for block in self._leaves(root, low, high):
            for *key, offset, size in self._leaf_items(block):
                begin = _HEADER_SIZE + offset
                if begin + size > len(block):
                    raise look.Doubt('damaged')
                yield (key[0], key[1], key[2]), block[begin:begin + size]

    def _leaf_items(
        self, block: bytes
    ) -> collections.abc.Iterator[tuple[int, int, int, int, int]]:
        count = struct.unpack_from('<I', block, 96)[0]
        end = _HEADER_SIZE + count * _ITEM.size
        if end > len(block):
            raise look.Doubt('damaged')
        return _ITEM.iter_unpack(block[_HEADER_SIZE:end])

    def _leaves(
        self, root: _Root, low: _Key, high: _Key
    ) -> collections.abc.Iterator[bytes]:
        """Give the leaves with keys from ``low`` to ``high``, in order."""
        if root.level >= _MAX_LEVEL:
            raise look.Doubt('damaged')
        self._watch()
        block = self._block(root)
        if root.level == 0:
            yield block
            return
        count = struct.unpack_from('<I', block, 96)[0]
        end = _HEADER_SIZE + count * _POINTER.size
        if not count or end > len(block):
            raise look.Doubt('damaged')
        children = list(_POINTER.iter_unpack(block[_HEADER_SIZE:end]))
        keys: list[_Key] = [each[:3] for each in children]
        if any(one >= other for one, other in itertools.pairwise(keys)):
            raise look.Doubt('damaged')
        for number, (*_, logical, generation) in enumerate(children):
            following = keys[number + 1] if number + 1 < count else _HIGHEST
            if keys[number] <= high and following > low:
                yield from self._leaves(
                    _Root(logical, root.level - 1, generation), low, high)

    def _block(self, root: _Root) -> bytes:
        """Read a tree block, from whichever copy is sound."""
        chunk = self._chunk_of(root.logical)
        self._blocks_read += 1
        if (root.logical + self._node_size > chunk.end
                or self._blocks_read > self._size // self._node_size):
            raise look.Doubt('damaged')
        for copy in chunk.copies:
            block = self._area.read(
                copy + root.logical - chunk.start, self._node_size)
            logical = struct.unpack_from('<Q', block, 48)[0]
            generation = struct.unpack_from('<Q', block, 80)[0]
            if (block[32:48] == self._uuid and logical == root.logical
                    and generation == root.generation
                    and block[100] == root.level):
                return block
        raise look.Doubt('damaged')
