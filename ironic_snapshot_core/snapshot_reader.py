# SPDX-License-Identifier: Apache-2.0
"""Reading the clusters of a snapshot back, each verified by its digest.

::

    map: cluster -> (attempt, slot)
    index of the attempt: slot -> (pack, offset, length, digest)
    pack -> blob -> decompress -> digest?

Nothing is believed for being there: map and indexes must be what the
manifest names, and each cluster what its index says.
"""

import array
import dataclasses
import typing

from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import envelope
from ironic_snapshot_core import errors
from ironic_snapshot_core import geometry
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import pack
from ironic_snapshot_core.store import base
from ironic_snapshot_core.units import KiB, MiB

#: What is read of a pack in one request, and kept in memory by who reads.
MAX_READ = 4 * MiB

#: Fewer bytes that nobody wants are read along rather than skipped.
MAX_GAP = 64 * KiB


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    """Slots that are read in one request.

    :param attempt: ordinal of their attempt in the map.
    :param first_slot: of the first; the others follow.
    """

    attempt: int
    first_slot: int
    count: int


class SnapshotReader:
    """The disk of a snapshot, read from its packs; for any thread.

    In memory it takes about 36 bytes for each cluster of its attempts, 16
    for each extent of its map, and for :meth:`runs` another 4 for each slot
    and for each cluster of the disk that is not zero.

    :param manifest: of a committed snapshot.
    :raises Corrupted: map or index are not what was committed.
    :raises StoreError: they cannot be had.
    """

    def __init__(self, store: base.Store,
                 manifest: manifests.Manifest) -> None:
        self._store = store
        self._manifest = manifest
        self.disk_size = manifest.disk.size
        self.cluster_size = manifest.cluster_size
        self._codec = codecs.get_codec(manifest.codec)
        self._digest = digests.get_digest(manifest.digest)
        self._map = self._load_map()
        self._indexes = [
            self._load_index(attempt) for attempt in self._map.attempts]

    @property
    def data_clusters(self) -> int:
        """Clusters of the disk that are not zero."""
        return self._map.data_count

    def read_cluster(self, cluster: int) -> bytes:
        """Read one cluster; the last may reach beyond the disk.

        :raises Corrupted: it is not what was captured.
        :raises InvalidValue: the disk has no such cluster.
        """
        geometry.between(
            'cluster', cluster, 0, self._map.cluster_count - 1)
        found = self._map.find(cluster)
        if found is None:
            return bytes(self.cluster_size)
        attempt, number = found
        slot = self._indexes[attempt].lookup(number)
        name = self._pack_name(attempt, slot)
        blob = self._store.get_range(name, slot.offset, slot.length)
        return self._verify(name, cluster, slot, blob)

    def runs(self) -> typing.Iterator['PlacedRun']:
        """Give all that is not zero, in the order of the packs.

        That is nearly the order of the disk, and no byte is read twice.
        """
        for attempt, index in enumerate(self._indexes):
            places = _Places(self._map, attempt, len(index))
            for run in _coalesce(index, attempt, places):
                yield PlacedRun(run, places)

    def read(self, placed: 'PlacedRun'
             ) -> typing.Iterator[tuple[int, bytes]]:
        """Read a run: give (cluster, its bytes), verified.

        A content that the disk has in several places is given for each.

        :raises Corrupted: a cluster is not what was captured.
        """
        run = placed.run
        index = self._indexes[run.attempt]
        first = index.lookup(run.first_slot)
        last = index.lookup(run.first_slot + run.count - 1)
        name = self._pack_name(run.attempt, first)
        data = memoryview(self._store.get_range(
            name, first.offset, last.offset + last.length - first.offset))
        for number in range(run.first_slot, run.first_slot + run.count):
            clusters = placed.places.of(number)
            if not clusters:
                continue
            slot = index.lookup(number)
            start = slot.offset - first.offset
            content = self._verify(
                name, clusters[0], slot,
                bytes(data[start:start + slot.length]))
            for cluster in clusters:
                yield cluster, content

    # Private

    def _load(self, attempt: str, name: str,
              record: manifests.ObjectRecord) -> bytes:
        name = layout.attempt_prefix(self._manifest.lineage, attempt) + name
        data = self._store.get(name, record.size)
        found = digests.DEFAULT_DIGEST.digest(data).hex()
        if (len(data), found) != (record.size, record.digest):
            raise errors.Corrupted(name, 'it is not what was committed')
        return data

    def _load_map(self) -> cluster_map.ClusterMap:
        found = cluster_map.decode(
            self._load(self._manifest.id, layout.MAP, self._manifest.map),
            max_clusters=-(-self.disk_size // self.cluster_size))
        if (found.disk_size, found.cluster_size) != (
                self.disk_size, self.cluster_size):
            raise errors.Corrupted('map', 'it is about another disk')
        return found

    def _load_index(self, attempt: str) -> indexes.Index:
        if attempt != self._manifest.id:
            raise errors.UnsupportedFeature(
                f'Snapshot {self._manifest.id}',
                ['clusters of other snapshots'])
        found = indexes.decode(
            self._load(attempt, layout.INDEX, self._manifest.index),
            max_clusters=-(-self.disk_size // self.cluster_size))
        if (found.attempt, found.cluster_size, found.codec,
                found.digest) != (attempt, self.cluster_size,
                                  self._manifest.codec,
                                  self._manifest.digest):
            raise errors.Corrupted('index', 'it is about another attempt')
        return found

    def _pack_name(self, attempt: int, slot: indexes.Slot) -> str:
        index = self._indexes[attempt]
        prefix = layout.attempt_prefix(
            self._manifest.lineage, index.attempt)
        return prefix + index.packs[slot.pack].name

    def _verify(self, name: str, cluster: int, slot: indexes.Slot,
                blob: bytes) -> bytes:
        entry = pack.PackEntry(slot.digest, slot.length, slot.compressed)
        try:
            return pack.read_cluster(
                entry, blob, self._codec, self._digest, self.cluster_size)
        except errors.Corrupted as e:
            raise errors.Corrupted(
                name, f'cluster {cluster} of the disk, at byte '
                f'{slot.offset}: {e.reason}') from None


class _Places:
    """Which clusters of the disk are in each slot of an attempt.

    The clusters lie in one array, sorted by slot::

        ends       1  1  4           slot 0: one, slot 1: none, slot 2: three
        clusters   7  2  3  9

    :param slots: of the attempt.
    :raises Corrupted: the map refers to a slot beyond.
    """

    def __init__(self, map_: cluster_map.ClusterMap, attempt: int,
                 slots: int) -> None:
        self._ends = array.array(envelope.U32, bytes(4 * (slots + 1)))
        counts = self._ends
        total = 0
        for _, number, slot in self._mine(map_, attempt):
            if slot + number > slots:
                raise errors.Corrupted(
                    'map', f'it refers to slots of {slots} that are not '
                    'there')
            total += number
            for each in range(slot, slot + number):
                counts[each] += 1
        # First where each begins; filling moves it to where it ends.
        begin = 0
        for slot in range(slots):
            begin, counts[slot] = begin + counts[slot], begin
        self._clusters = array.array(envelope.U32, bytes(4 * total))
        for first, number, slot in self._mine(map_, attempt):
            for each in range(number):
                place = counts[slot + each]
                self._clusters[place] = first + each
                counts[slot + each] = place + 1

    def of(self, slot: int) -> 'array.array[int]':
        """Give the clusters of a slot, in the order of the disk."""
        return self._clusters[
            self._ends[slot - 1] if slot else 0:self._ends[slot]]

    def any(self, slot: int) -> bool:
        """Tell whether the disk has the slot anywhere."""
        return self._ends[slot] > (self._ends[slot - 1] if slot else 0)

    @staticmethod
    def _mine(map_: cluster_map.ClusterMap, attempt: int
              ) -> typing.Iterator[tuple[int, int, int]]:
        for start, count, number, slot in map_.extents.rows():
            if number == attempt:
                yield start, count, slot


@dataclasses.dataclass(frozen=True, slots=True)
class PlacedRun:
    """A run, and where its clusters belong; for :meth:`read`."""

    run: Run
    places: _Places


def _coalesce(index: indexes.Index, attempt: int, places: _Places
              ) -> typing.Iterator[Run]:
    """Join slots that are wanted and near each other in a pack."""
    first = last = -1
    pack_number = start = end = 0
    for number, slot in enumerate(index.slots()):
        if not places.any(number):
            continue
        stop = slot.offset + slot.length
        if first >= 0 and (slot.pack != pack_number
                           or slot.offset - end > MAX_GAP
                           or stop - start > MAX_READ):
            yield Run(attempt, first, last + 1 - first)
            first = -1
        if first < 0:
            first, pack_number, start = number, slot.pack, slot.offset
        last, end = number, stop
    if first >= 0:
        yield Run(attempt, first, last + 1 - first)
