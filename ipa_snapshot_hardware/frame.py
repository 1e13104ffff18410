# SPDX-License-Identifier: Apache-2.0
"""The ends of a disk to be restored, byte by byte, before it is written.

Everything between them is a matter of whole clusters, which are known by
their digests. Of the clusters that reach into a guard, or that the end of a
smaller target cuts, the bytes are taken from the snapshot at once::

    clusters  |--------|--------|--   --|--------|--------|-----|
    guards    |##|                                          |###|
    edges        |-----|                         |--------|-|

On a target of another size the GPT is moved to its end; where it was before
there are zeroes then, lest somebody takes it for one.
"""

import dataclasses

from ironic_snapshot_core import errors
from ironic_snapshot_core import gpt
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import snapshot_reader
from ipa_snapshot_hardware import guard
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.disk import partition_table


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of the target as they will be.

    :param offset: in bytes.
    """

    offset: int
    data: bytes

    @property
    def end(self) -> int:
        return self.offset + len(self.data)


@dataclasses.dataclass(frozen=True, slots=True)
class Frame:
    """What is known of a target byte by byte.

    :param guards: at the start and at the end.
    :param edges: the rest of the clusters, in the order of the disk.
    :param clusters: of the snapshot's disk that are in these.
    """

    guards: tuple[Piece, Piece]
    edges: tuple[Piece, ...]
    clusters: frozenset[int]


def build(
    reader: snapshot_reader.SnapshotReader,
    described: manifests.Disk,
    target: base.Disk,
) -> Frame:
    """Find out what the ends of a target will be.

    In memory it takes two clusters for each guard, and two more when the
    target has another size.

    :param described: the disk of the snapshot.
    :raises DiskUnsuitable: the target is too small, or the partition table
        cannot be moved to its size.
    :raises Corrupted: a cluster that is needed is damaged.
    :raises StoreError: it cannot be had.
    """
    return _Builder(reader, described, target).build()


# Private


class _Builder:
    def __init__(
        self,
        reader: snapshot_reader.SnapshotReader,
        described: manifests.Disk,
        target: base.Disk,
    ) -> None:
        self._reader = reader
        self._target = target
        self._sector = target.logical_sector_size
        self._cluster_size = reader.cluster_size
        self._old, self._new = described.size, target.size
        #: Of both disks.
        self._common = min(self._old, self._new)
        self._clusters: dict[int, bytes] = {}
        # Where the second GPT was; empty when it may stay there.
        self._left = range(0)

    def build(self) -> Frame:
        first_end = min(guard.size_at_start(self._sector), self._new)
        last_start = self._new - guard.size_at_end(self._sector)
        moved = self._move_table()
        if moved is not None:
            first_end = max(first_end, len(moved.primary))
            last_start = min(last_start, moved.backup_offset)
        last_start = max(last_start, first_end)
        if self._new < self._old:
            self._check_fits()
        first = bytearray(self._content(0, first_end))
        last = bytearray(self._content(last_start, self._new))
        if moved is not None:
            first[: len(moved.primary)] = moved.primary
            at = moved.backup_offset - last_start
            last[at : at + len(moved.backup)] = moved.backup
        numbers = self._numbers(first_end, last_start)
        guards = (
            Piece(0, bytes(first)),
            Piece(last_start, bytes(last)),
        )
        return Frame(
            guards,
            tuple(self._edges(numbers, first_end, last_start)),
            frozenset(numbers),
        )

    def _move_table(self) -> gpt.Relocated | None:
        """Fit the partition table to the target's size, if it has another."""
        if self._old == self._new:
            return None
        start = self._content(0, min(2 * self._sector, self._common))
        kind = partition_table.detect(start, self._sector)
        if kind == 'dos' and self._new < self._old:
            self._refuse_below(partition_table.dos_end(start, self._sector))
        if kind != 'gpt':
            return None
        try:
            primary = self._content(0, gpt.size_needed(start, self._sector))
            moved = gpt.relocate(primary, self._old, self._new, self._sector)
        except errors.Corrupted as error:
            raise errors.DiskUnsuitable(
                self._target.name,
                f'it has {self._new} bytes instead of {self._old}, and the '
                'partition table of the snapshot cannot be moved to its end: '
                f'{error.reason}; choose a disk of the same size',
            ) from None
        except errors.InvalidValue as error:
            raise self._too_small(error.reason) from None
        header = gpt.backup_header(
            primary[self._sector : 2 * self._sector], self._sector
        )
        if self._content(header, header + len(gpt.SIGNATURE)) == gpt.SIGNATURE:
            entries = len(moved.backup) - self._sector
            self._left = range(
                max(
                    header - entries,
                    gpt.last_used(primary, self._sector),
                    len(primary),
                ),
                header + self._sector,
            )
        return moved

    def _check_fits(self) -> None:
        """Refuse a target that ends before the data does."""
        size = self._cluster_size
        first = self._new // size
        digests = self._reader.digests(first, -(-self._old // size) - first)
        for number, digest in enumerate(digests, first):
            if digest is None:
                continue
            start = number * size
            data = bytearray(self._reader.read_cluster(number))
            self._clear_left(start, data)
            if used := data.rstrip(b'\0'):
                self._refuse_below(start + len(used))

    def _refuse_below(self, needed: int) -> None:
        if needed > self._new:
            raise self._too_small(
                f'what is in use ends at byte {needed} at least'
            )

    def _too_small(self, reason: str) -> errors.DiskUnsuitable:
        return errors.DiskUnsuitable(
            self._target.name,
            f'it has {self._new} bytes, which is too small: {reason}; choose '
            'a larger disk',
        )

    def _numbers(self, first_end: int, last_start: int) -> list[int]:
        """Give the clusters that are not a matter of digests."""
        size = self._cluster_size
        found: set[int] = set()
        for start, end in (
            (0, first_end),
            (last_start, self._new),
            (self._left.start, self._left.stop),
            # A cluster that is not all on both disks.
            (self._common // size * size, self._common),
        ):
            end = min(end, self._common)
            if start < end:
                found.update(range(start // size, -(-end // size)))
        return sorted(found)

    def _edges(
        self, numbers: list[int], first_end: int, last_start: int
    ) -> list[Piece]:
        """Give what of some clusters lies between the guards."""
        size = self._cluster_size
        found = []
        for number in numbers:
            start = max(number * size, first_end)
            end = min((number + 1) * size, self._common, last_start)
            if start < end:
                found.append(Piece(start, self._content(start, end)))
        return found

    def _content(self, start: int, end: int) -> bytes:
        """Give bytes of the snapshot; zeroes behind its end."""
        size = self._cluster_size
        found = bytearray(max(end - start, 0))
        for number in range(start // size, -(-min(end, self._old) // size)):
            if number not in self._clusters:
                self._clusters[number] = self._reader.read_cluster(number)
            at = max(start, number * size)
            stop = min(end, (number + 1) * size)
            found[at - start : stop - start] = self._clusters[number][
                at - number * size : stop - number * size
            ]
        self._clear_left(start, found)
        return bytes(found)

    def _clear_left(self, start: int, data: bytearray) -> None:
        """Clear what is left of the second GPT from bytes at an offset."""
        begin = max(self._left.start - start, 0)
        end = min(self._left.stop - start, len(data))
        if begin < end:
            data[begin:end] = bytes(end - begin)
