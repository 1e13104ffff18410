# SPDX-License-Identifier: Apache-2.0
"""What the disk of a snapshot is made of.

A map has extents of guest clusters that are in consecutive slots of one
attempt::

    guest clusters   0 1 2 3 4 5 6 7 8 9
    attempt 0        0 1 2     3 4           slots
    attempt 1                      0 1
                           ^ ^         ^     zero

Whatever no extent covers reads as zero.
"""

import array
import bisect
import collections.abc
import dataclasses
import itertools
import operator
import struct
import typing
import uuid

from ironic_snapshot_core import envelope
from ironic_snapshot_core import errors
from ironic_snapshot_core import geometry
from ironic_snapshot_core import index
from ironic_snapshot_core import layout

MAGIC = b'ISMP'
VERSION = 1

#: A lineage that lives for years starts anew long before.
MAX_ATTEMPTS = 10_000

_MAX_SLOT = 2 ** 32 - 1

# disk size, cluster size, attempts, extents
_HEADER = struct.Struct('<QIII')


@dataclasses.dataclass(frozen=True, slots=True)
class MapExtent:
    """A run of guest clusters.

    :param attempt_number: ordinal in the map's attempts, from 0.
    :param first_slot: of the first cluster; the others follow.
    """

    start_cluster: int
    count: int
    attempt_number: int
    first_slot: int


class Extents(collections.abc.Sequence[MapExtent]):
    """Extents in four arrays; the objects are made when looked at."""

    def __init__(self, extents: typing.Iterable[MapExtent] = ()) -> None:
        self.starts = array.array(envelope.U32)
        self.counts = array.array(envelope.U32)
        self.attempts = array.array(envelope.U32)
        self.slots = array.array(envelope.U32)
        for extent in extents:
            self.append(extent.start_cluster, extent.count,
                        extent.attempt_number, extent.first_slot)

    def append(self, start: int, count: int, attempt: int,
               slot: int) -> None:
        try:
            self.starts.append(start)
            self.counts.append(count)
            self.attempts.append(attempt)
            self.slots.append(slot)
        except OverflowError:
            raise errors.InvalidValue(
                'map extent', (start, count, attempt, slot),
                'a number is out of range') from None

    def __len__(self) -> int:
        return len(self.slots)

    @typing.overload
    def __getitem__(self, key: int) -> MapExtent: ...

    @typing.overload
    def __getitem__(self, key: slice) -> 'list[MapExtent]': ...

    def __getitem__(self, key: int | slice) -> 'MapExtent | list[MapExtent]':
        if isinstance(key, slice):
            return [self[each] for each in range(*key.indices(len(self)))]
        return MapExtent(self.starts[key], self.counts[key],
                         self.attempts[key], self.slots[key])

    def __iter__(self) -> typing.Iterator[MapExtent]:
        return itertools.starmap(MapExtent, self.rows())

    def rows(self) -> typing.Iterator[tuple[int, int, int, int]]:
        """Give the extents' numbers without making the objects."""
        return zip(self.starts, self.counts, self.attempts, self.slots,
                   strict=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, collections.abc.Sequence):
            return NotImplemented
        return len(self) == len(other) and all(
            map(operator.eq, self, other))


class ClusterMap:
    """What the disk of a snapshot is made of.

    :param disk_size: in bytes; the last cluster may be a part of one.
    :param cluster_size: in bytes.
    :param attempts: UUIDs; extents refer to them by ordinal.
    :param extents: in guest order, without overlap.
    :raises InvalidValue: they make no sense.
    """

    def __init__(self, disk_size: int, cluster_size: int,
                 attempts: typing.Sequence[str],
                 extents: typing.Iterable[MapExtent]) -> None:
        self.disk_size = disk_size
        self.cluster_size = geometry.validate_cluster_size(cluster_size)
        self.attempts = tuple(attempts)
        self.extents = (extents if isinstance(extents, Extents)
                        else Extents(extents))
        self._check()

    @property
    def cluster_count(self) -> int:
        """Number of clusters of the disk, zero or not."""
        return -(-self.disk_size // self.cluster_size)

    @property
    def data_count(self) -> int:
        """Number of clusters that are in packs."""
        return sum(self.extents.counts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, ClusterMap):
            return NotImplemented
        return ((self.disk_size, self.cluster_size, self.attempts)
                == (other.disk_size, other.cluster_size, other.attempts)
                and self.extents == other.extents)

    def __repr__(self) -> str:
        return (f'ClusterMap({self.disk_size}, {self.cluster_size}, '
                f'{len(self.attempts)} attempts, '
                f'{len(self.extents)} extents)')

    def clusters(self) -> typing.Iterator[tuple[int, int, int]]:
        """Give (guest cluster, attempt number, slot) in guest order."""
        for start, count, attempt, slot in self.extents.rows():
            yield from zip(range(start, start + count),
                           itertools.repeat(attempt, count),
                           range(slot, slot + count), strict=True)

    def find(self, cluster: int) -> tuple[int, int] | None:
        """Give (attempt number, slot) of a guest cluster, None for zero."""
        number = bisect.bisect_right(self.extents.starts, cluster) - 1
        if number < 0:
            return None
        extent = self.extents[number]
        if cluster >= extent.start_cluster + extent.count:
            return None
        return (extent.attempt_number,
                extent.first_slot + cluster - extent.start_cluster)

    # Private

    def _check(self) -> None:
        geometry.validate_disk_size(self.disk_size)
        if (len(self.attempts) > MAX_ATTEMPTS
                or len(set(self.attempts)) != len(self.attempts)):
            raise errors.InvalidValue(
                'attempts', len(self.attempts),
                'there are too many, or one is there twice')
        for attempt in self.attempts:
            layout.validate_uuid(attempt)
        extents = self.extents
        ends = list(map(operator.add, extents.starts, extents.counts))
        if not ends:
            return
        good = (min(extents.counts) > 0
                and ends[-1] <= self.cluster_count
                and all(map(operator.le, ends, extents.starts[1:]))
                and max(extents.attempts) < len(self.attempts)
                and max(map(operator.add, extents.slots, extents.counts))
                <= _MAX_SLOT)
        if not good:
            raise errors.InvalidValue(
                'map', self, 'its extents overlap, are out of order, or '
                'reach beyond the disk')


class MapBuilder:
    """Collects clusters in guest order and merges neighbours.

    :param disk_size: in bytes.
    :param cluster_size: in bytes.
    """

    def __init__(self, disk_size: int, cluster_size: int) -> None:
        self._disk_size = disk_size
        self._cluster_size = cluster_size
        self._attempts: dict[str, int] = {}
        self._extents = Extents()
        self._last: tuple[int, int, int, int] | None = None

    def add(self, cluster: int, attempt: str, slot: int,
            count: int = 1) -> None:
        """Add clusters that lie behind all those added before.

        :param cluster: number of the first.
        :param attempt: UUID of the attempt that stored them.
        :param slot: of the first; the others follow.
        """
        number = self._attempts.setdefault(attempt, len(self._attempts))
        if self._last is not None:
            start, length, last_number, first_slot = self._last
            if (start + length == cluster and last_number == number
                    and first_slot + length == slot):
                self._last = start, length + count, number, first_slot
                return
            self._extents.append(*self._last)
        self._last = cluster, count, number, slot

    def build(self) -> ClusterMap:
        """Make the map.

        :raises InvalidValue: the clusters were out of order, or are not on
            the disk.
        """
        if self._last is not None:
            self._extents.append(*self._last)
            self._last = None
        return ClusterMap(self._disk_size, self._cluster_size,
                          tuple(self._attempts), self._extents)


def encode(map_: ClusterMap) -> bytes:
    """Turn a map into bytes."""
    extents = map_.extents
    header = _HEADER.pack(map_.disk_size, map_.cluster_size,
                          len(map_.attempts), len(extents))
    payload = [uuid.UUID(attempt).bytes for attempt in map_.attempts]
    ends = itertools.chain([0], map(
        operator.add, extents.starts, extents.counts))
    gaps = array.array(envelope.U32, map(operator.sub, extents.starts, ends))
    # Most slots follow those of the extent before.
    expected = itertools.chain([0], map(
        operator.add, extents.slots, extents.counts))
    jumps = array.array(envelope.U32, (
        (slot - before) & _MAX_SLOT
        for slot, before in zip(extents.slots, expected, strict=False)))
    payload += [envelope.column(each) for each in (
        gaps, extents.counts, extents.attempts, jumps)]
    return envelope.wrap(MAGIC, VERSION, header, payload)


def decode(data: bytes, max_clusters: int = index.MAX_CLUSTERS
           ) -> ClusterMap:
    """Turn bytes back into a map.

    :param max_clusters: of the disk; more are refused before memory is
        taken for them.
    :raises Corrupted: any bit is not as it was written, or it makes no
        sense.
    :raises UnsupportedVersion: a newer release wrote it.
    :raises UnsupportedFeature: likewise.
    """
    reader = envelope.Reader(data, MAGIC, VERSION, 'map')
    disk_size, cluster_size, attempt_count, count = reader.unpack(_HEADER)
    if (cluster_size < geometry.MIN_CLUSTER_SIZE
            or -(-disk_size // cluster_size) > max_clusters
            or count > -(-disk_size // cluster_size)
            or attempt_count > MAX_ATTEMPTS):
        raise reader.corrupted(
            f'a disk of {disk_size} bytes in {cluster_size} bytes each, '
            f'{count} extents and {attempt_count} attempts is too much')
    reader.open(attempt_count * 16 + count * 16)
    attempts = [str(uuid.UUID(bytes=reader.take(16)))
                for _ in range(attempt_count)]
    gaps, counts, numbers, jumps = (
        reader.column(envelope.U32, count) for _ in range(4))
    extents = Extents()
    extents.counts, extents.attempts = counts, numbers
    # start = sum of all gaps and counts before, and of its own gap
    ends = list(itertools.accumulate(map(operator.add, gaps, counts)))
    ends_of_slots = itertools.accumulate(map(operator.add, jumps, counts))
    try:
        extents.starts = array.array(
            envelope.U32, map(operator.sub, ends, counts))
        extents.slots = array.array(envelope.U32, (
            (end - length) & _MAX_SLOT
            for end, length in zip(ends_of_slots, counts, strict=True)))
        return ClusterMap(disk_size, cluster_size, attempts, extents)
    except OverflowError:
        raise reader.corrupted('a number is out of range') from None
    except (errors.InvalidValue, errors.InvalidName) as e:
        raise reader.corrupted(str(e).rstrip('.')) from e
