# SPDX-License-Identifier: Apache-2.0
"""The head of a qcow2 image whose data are packs.

::

    | header | L1 | L2 L2 ... | refcount table | refcount blocks | packs ...
    |<------------------------ head ---------------------------->|

Everything is aligned to clusters. ``head || packs in order`` is a complete
image, with full refcounts: without them the first program that opens it for
writing marks it as corrupt.
"""

import array
import struct
import sys
import typing

from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import errors
from ironic_snapshot_core import geometry

MAGIC = b'QFI\xfb'
VERSION = 3
HEADER_LENGTH = 112

#: Incompatible feature: there is a compression type.
COMPRESSION_TYPE = 1 << 3

COPIED = 1 << 63
COMPRESSED = 1 << 62
COMPRESSED_SECTOR = 512

#: log2 of the bits of a refcount. A host cluster is referred to by each
#: compressed cluster that touches it, which may be more than 65535.
REFCOUNT_ORDER = 4
LARGE_REFCOUNT_ORDER = 5
MAX_REFCOUNT = 0xffff

# The header up to its length, then the compression type and its padding,
# then the end of the header extensions.
_HEADER = struct.Struct('>4sIQIIQIIQQIIQQQQII')
_TAIL = struct.Struct('>B7sII')
HEADER_SIZE = _HEADER.size + _TAIL.size


class Placement(typing.NamedTuple):
    """Where a guest cluster is.

    :param guest_cluster: its number on the disk.
    :param pack_number: ordinal in the image's packs, from 0.
    :param offset: in the pack, in bytes.
    :param length: in the pack, in bytes.
    """

    guest_cluster: int
    pack_number: int
    offset: int
    length: int
    compressed: bool


def build_head(disk_size: int, cluster_size: int, codec: codecs.Codec,
               packs: typing.Sequence[int],
               clusters: typing.Iterable[tuple[int, int, int, int, bool]]
               ) -> bytes:
    """Build what must stand before the packs.

    :param disk_size: in bytes, a multiple of 512.
    :param packs: sizes in bytes, multiples of the cluster size.
    :param clusters: in guest order, those that are not zero: each a
        :class:`Placement`, or a plain tuple like one.
    :returns: a multiple of the cluster size.
    :raises InvalidValue: it makes no sense.
    """
    geometry.validate_cluster_size(cluster_size)
    geometry.validate_disk_size(disk_size)
    for size in packs:
        if size <= 0 or size % cluster_size:
            raise errors.InvalidValue(
                'pack size', size, 'it is no positive multiple of the '
                'cluster size')
    tables, refcounts, shared = _place(
        disk_size, cluster_size, packs, clusters)
    l1_size = -(-disk_size // (cluster_size * (cluster_size // 8)))
    order = (LARGE_REFCOUNT_ORDER
             if refcounts and max(refcounts) > MAX_REFCOUNT
             else REFCOUNT_ORDER)
    head = _Head(cluster_size, l1_size, len(tables), len(refcounts), order)
    parts = [
        _header(disk_size, cluster_size, codec, head),
        _big_endian(_l1(head, tables), cluster_size),
        *(_big_endian(_move(table, head.size, shared), cluster_size)
          for _, table in tables),
    ]
    # The tables take as much memory as their bytes.
    tables.clear()
    parts += [
        _big_endian(array.array('Q', (
            head.blocks + number * cluster_size
            for number in range(head.block_count))), cluster_size),
        _big_endian(array.array(
            'I' if order == LARGE_REFCOUNT_ORDER else 'H',
            [1] * (head.size // cluster_size)) + array.array(
                'I' if order == LARGE_REFCOUNT_ORDER else 'H', refcounts),
            cluster_size),
    ]
    return b''.join(parts)


def check_header(first_bytes: bytes, disk_size: int, cluster_size: int,
                 codec: codecs.Codec) -> None:
    """Refuse a head that is not as :func:`build_head` makes it.

    For whoever did not build it: a qcow2 header can name other files, which
    a reader would open.

    :param first_bytes: at least :data:`HEADER_SIZE` of them.
    :raises Corrupted: it is another.
    """
    if len(first_bytes) < HEADER_SIZE:
        raise errors.Corrupted('image head', 'it is too short')
    fields = _HEADER.unpack_from(first_bytes)
    (magic, version, backing_offset, backing_size, bits, size, crypt,
     l1_size, l1, table, table_clusters, snapshots, snapshots_offset,
     incompatible, compatible, autoclear, order, length) = fields
    compression, padding, extension, extension_size = _TAIL.unpack_from(
        first_bytes, _HEADER.size)
    wanted_type = codec.qcow2_compression or codecs.QCOW2_ZLIB
    wanted_l1 = -(-disk_size // (cluster_size * (cluster_size // 8)))
    for good, reason in (
            (magic == MAGIC, 'it is no qcow2 image'),
            (version == VERSION, 'it has another version'),
            (backing_offset == backing_size == 0, 'it has a backing file'),
            (bits < 64 and 1 << bits == cluster_size,
             'it has another cluster size'),
            (size == disk_size, 'it has another disk size'),
            (crypt == 0, 'it is encrypted'),
            (snapshots == snapshots_offset == 0, 'it has inner snapshots'),
            (incompatible == _incompatible(codec) and compatible == 0
             and autoclear == 0, 'it has other features'),
            (length == HEADER_LENGTH, 'its header has another length'),
            (compression == wanted_type and not any(padding),
             'it has another compression type'),
            (extension == extension_size == 0, 'it has header extensions'),
            (order in (REFCOUNT_ORDER, LARGE_REFCOUNT_ORDER),
             'its refcounts have another width'),
            (l1_size == wanted_l1 and l1 == cluster_size,
             'its L1 table is elsewhere, or has another size'),
            (table % cluster_size == 0 and table > l1 and table_clusters > 0,
             'its refcount table is elsewhere'),
            (not any(first_bytes[HEADER_SIZE:cluster_size]),
             'there is something behind its header')):
        if not good:
            raise errors.Corrupted('image head', reason)


# Private

class _Head:
    """How large everything is, and where."""

    def __init__(self, cluster_size: int, l1_size: int, table_count: int,
                 data_count: int, order: int) -> None:
        self.l1_size = l1_size
        self.order = order
        self.l1 = cluster_size
        self.tables = self.l1 + _round(l1_size * 8, cluster_size)
        self.refcount_table = self.tables + table_count * cluster_size
        fixed = self.refcount_table // cluster_size
        in_block = cluster_size * 8 >> order
        # Refcounts count themselves: grow until they fit.
        self.block_count = self.table_count = 0
        while True:
            total = (fixed + self.table_count + self.block_count
                     + data_count)
            blocks = -(-total // in_block)
            tables = _round(blocks * 8, cluster_size) // cluster_size
            if blocks <= self.block_count and tables <= self.table_count:
                break
            self.block_count = max(blocks, self.block_count)
            self.table_count = max(tables, self.table_count)
        self.blocks = self.refcount_table + self.table_count * cluster_size
        self.size = self.blocks + self.block_count * cluster_size


_Tables: typing.TypeAlias = 'list[tuple[int, array.array[int]]]'


def _place(disk_size: int, cluster_size: int, packs: typing.Sequence[int],
           clusters: typing.Iterable[tuple[int, int, int, int, bool]]
           ) -> tuple[_Tables, 'array.array[int]', set[int]]:
    """Fill L2 tables, and count references to the packs' host clusters.

    Offsets are those the packs would have without a head. Adding its size
    later changes no other bit of an entry, as it is a multiple of 512.

    :returns: pairs of number and L2 table, for those that are not empty;
        the refcounts; the offsets of raw clusters that several guest
        clusters share.
    """
    bits = cluster_size.bit_length() - 1
    in_table = cluster_size // 8
    nsect_shift = 62 - (bits - 8)
    limit = -(-disk_size // cluster_size)
    starts = [0]
    for size in packs:
        starts.append(starts[-1] + size)
    refcounts = array.array('I', bytes(4 * (starts[-1] >> bits)))
    tables: _Tables = []
    shared: set[int] = set()
    table_end = last = -1
    table = array.array('Q')
    for guest, pack, offset, length, compressed in clusters:
        start = starts[pack] + offset
        end = start + length
        if (guest <= last or guest >= limit or pack < 0 or offset < 0
                or length <= 0 or end > starts[pack + 1]):
            raise _bad(guest, pack, offset, length)
        last = guest
        if guest >= table_end:
            number = guest // in_table
            table_end = (number + 1) * in_table
            table = array.array('Q', bytes(cluster_size))
            tables.append((number, table))
        host = start >> bits
        if compressed:
            if length >= cluster_size:
                raise _bad(guest, pack, offset, length)
            sectors = ((start & 511) + length + 511 >> 9) - 1
            table[guest % in_table] = (
                COMPRESSED | sectors << nsect_shift | start)
            # It is smaller than a cluster: it touches two at most.
            final = end - 1 >> bits
            if final != host:
                refcounts[final] += 1
        else:
            if start % cluster_size or length != cluster_size:
                raise _bad(guest, pack, offset, length)
            table[guest % in_table] = COPIED | start
            if refcounts[host]:
                shared.add(start)
        refcounts[host] += 1
    return tables, refcounts, shared


def _bad(guest: int, pack: int, offset: int, length: int
         ) -> errors.InvalidValue:
    return errors.InvalidValue(
        'placement', (guest, pack, offset, length),
        'it is out of order, or not within the disk, the pack or the '
        'cluster grid')


def _move(table: 'array.array[int]', size: int, shared: set[int]
          ) -> 'array.array[int]':
    """Give a table for data that begin behind a head of this size."""
    if shared:
        # Not to be written to: unlike all others, not marked as copied. Not
        # before they are moved, as an entry of nothing would be a zero
        # cluster.
        return array.array('Q', [
            entry and (entry + size if entry ^ COPIED not in shared
                       else (entry ^ COPIED) + size) for entry in table])
    return array.array('Q', [entry and entry + size for entry in table])


def _l1(head: _Head, tables: _Tables) -> 'array.array[int]':
    l1 = array.array('Q', bytes(8 * head.l1_size))
    for position, (number, table) in enumerate(tables):
        size = len(table) * table.itemsize
        l1[number] = COPIED | head.tables + position * size
    return l1


def _header(disk_size: int, cluster_size: int, codec: codecs.Codec,
            head: _Head) -> bytes:
    fields = _HEADER.pack(
        MAGIC, VERSION, 0, 0, cluster_size.bit_length() - 1, disk_size, 0,
        head.l1_size, head.l1, head.refcount_table, head.table_count, 0, 0,
        _incompatible(codec), 0, 0, head.order, HEADER_LENGTH)
    tail = _TAIL.pack(
        codec.qcow2_compression or codecs.QCOW2_ZLIB, bytes(7), 0, 0)
    return (fields + tail).ljust(cluster_size, b'\0')


def _incompatible(codec: codecs.Codec) -> int:
    """Tell the features a reader must know; zlib is qcow2's default."""
    return (COMPRESSION_TYPE if codec.qcow2_compression == codecs.QCOW2_ZSTD
            else 0)


def _big_endian(values: 'array.array[int]', cluster_size: int) -> bytes:
    """Give whole clusters of big-endian integers; ``values`` is lost."""
    if sys.byteorder == 'little':
        values.byteswap()
    data = values.tobytes()
    return data.ljust(_round(len(data), cluster_size), b'\0')


def _round(size: int, cluster_size: int) -> int:
    return -(-size // cluster_size) * cluster_size
