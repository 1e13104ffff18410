# SPDX-License-Identifier: Apache-2.0
"""Reading the clusters of a snapshot back, each verified by its digest.

::

    map: cluster -> (attempt, slot)
    index of the attempt: slot -> (pack, offset, length, digest)
    pack -> blob -> decompress -> digest?

Nothing is believed for being there: map and indexes must be what the
manifest names, and each cluster what its index says. What part of a pack is
in the image does not matter here.
"""

import array
import bisect
import dataclasses
import itertools
import logging
import threading
import typing

from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import committed
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import envelope
from ironic_snapshot_core import errors
from ironic_snapshot_core import geometry
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import pack
from ironic_snapshot_core.store import base
from ironic_snapshot_core.units import KiB, MiB

LOG = logging.getLogger(__name__)

#: What is read of a pack in one request, and kept in memory by who reads.
MAX_READ = 4 * MiB

#: Fewer bytes that nobody wants are read along rather than skipped.
MAX_GAP = 64 * KiB


#: What is wrong with a cluster, or a pack, so that another copy is looked for.
DAMAGE = (errors.ObjectMissing, errors.ObjectMismatch, errors.Corrupted)


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

    A cluster that is damaged or missing is read from any other pack of the
    snapshot that has the same content, from spares first.

    In memory it takes about 36 bytes for each cluster of the attempts that
    its map names, also for those that are not on this disk, and 16 for each
    extent of the map. For :meth:`runs` it takes another 4 for each extent,
    and, of one attempt after the other, 4 for each slot and 4 for each of
    its clusters of the disk; where only some are wanted, 1 for each cluster
    of the disk. Only where a pack is damaged, it takes about 300 for each of
    its clusters that is elsewhere as well.

    :ivar repaired: a text for each cluster that was read from another place
        than it should have been.
    :param manifest: of a committed snapshot.
    :raises Corrupted: map or indexes are not what was committed.
    :raises StoreError: they cannot be had.
    """

    def __init__(self, store: base.Store,
                 manifest: manifests.Manifest) -> None:
        self._store = store
        self._manifest = manifest
        self.disk_size = manifest.disk.size
        self.cluster_size = manifest.cluster_size
        self.repaired: list[str] = []
        self._codec = codecs.get_codec(manifest.codec)
        self._digest = digests.get_digest(manifest.digest)
        self._documents = committed.DocumentReader(store, manifest)
        self._map = self._documents.read_map()
        records = {record.id: record for record in manifest.attempts}
        self._attempts = [self._documents.read_attempt(records[each])
                          for each in self._map.attempts]
        self._lock = threading.Lock()
        self._spare_attempts: list[committed.Attempt] | None = None
        self._copies: dict[str, dict[bytes, list[_Copy]]] = {}

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
        ordinal, number = found
        attempt = self._attempts[ordinal]
        return self._read_or_repair(
            cluster, attempt, attempt.lookup(number))

    def digests(self, first: int, count: int
                ) -> typing.Iterator[bytes | None]:
        """Give what the digests of clusters have to be, in their order.

        Of the last cluster, what lies beyond the disk counts as zero.

        :param first: number of the first cluster.
        :param count: of clusters from there on.
        :returns: None for a cluster that is zero.
        :raises Corrupted: the map refers to what is nowhere.
        :raises InvalidValue: the disk has no such clusters.
        """
        end = first + count
        geometry.between('clusters', count, 0, self._map.cluster_count)
        geometry.between(
            'cluster', first, 0, self._map.cluster_count - count)
        return self._digests(first, end)

    def runs(self, wanted: bytearray | None = None
             ) -> typing.Iterator['PlacedRun']:
        """Give all that is not zero, in the order of the packs.

        That is nearly the order of the disk, and no byte is read twice.

        :param wanted: for each cluster of the disk, zero when it is to be
            left out; None: none is. It is copied.
        :raises Corrupted: the map refers to what the manifest does not list.
        :raises InvalidValue: ``wanted`` is of another disk.
        """
        if wanted is not None and len(wanted) != self._map.cluster_count:
            raise errors.InvalidValue(
                'number of clusters', len(wanted),
                f'the disk has {self._map.cluster_count}')
        return self._runs(None if wanted is None else bytes(wanted))

    def read(self, placed: 'PlacedRun'
             ) -> typing.Iterator[tuple[int, bytes]]:
        """Read a run: give (cluster, its bytes), verified.

        A content that the disk has in several places is given for each.

        :raises Corrupted: a cluster is not what was captured.
        """
        run = placed.run
        attempt = self._attempts[run.attempt]
        first = attempt.lookup(run.first_slot)
        last = attempt.lookup(run.first_slot + run.count - 1)
        try:
            data = memoryview(self._store.get_range(
                attempt.pack_name(first.pack), first.offset,
                last.offset + last.length - first.offset))
        except DAMAGE:
            # Not all of it need be: each cluster is tried.
            data = None
        for number in range(run.first_slot, run.first_slot + run.count):
            clusters = placed.places.of(number)
            if not clusters:
                continue
            slot = attempt.lookup(number)
            start = slot.offset - first.offset
            content = self._read_or_repair(
                clusters[0], attempt, slot,
                None if data is None else data[start:start + slot.length])
            for cluster in clusters:
                yield cluster, content

    # Private

    def _digests(self, first: int, end: int
                 ) -> typing.Iterator[bytes | None]:
        extents = self._map.extents
        done = first
        for number in range(
                max(bisect.bisect_right(extents.starts, first) - 1, 0),
                len(extents)):
            start = extents.starts[number]
            if start >= end:
                break
            begin = max(start, first)
            stop = min(start + extents.counts[number], end)
            if begin >= stop:
                # The one before the first cluster that is asked for.
                continue
            yield from itertools.repeat(None, begin - done)
            yield from self._attempts[extents.attempts[number]].digests(
                extents.slots[number] + begin - start, stop - begin)
            done = stop
        yield from itertools.repeat(None, end - done)

    def _runs(self, wanted: bytes | None
              ) -> typing.Iterator['PlacedRun']:
        extents = [array.array(envelope.U32) for _ in self._attempts]
        for number, ordinal in enumerate(self._map.extents.attempts):
            extents[ordinal].append(number)
        order = {record.id: number
                 for number, record in enumerate(self._manifest.attempts)}
        for ordinal in sorted(
                range(len(self._attempts)),
                key=lambda each: order[self._attempts[each].index.attempt]):
            attempt = self._attempts[ordinal]
            places = _Places(
                self._map, extents[ordinal], len(attempt.index), wanted)
            for number in range(len(attempt.index.packs)):
                if places.any_of(attempt.index.slots_of(number)):
                    attempt.require(number)
            for run in _coalesce(attempt.index, ordinal, places):
                yield PlacedRun(run, places)

    def _read_or_repair(self, cluster: int, attempt: committed.Attempt,
                        slot: indexes.Slot,
                        blob: memoryview | None = None) -> bytes:
        """Read a cluster from where it should be, or from elsewhere.

        :param blob: what is in its place, if that was read already.
        :raises Corrupted: there is no good copy of it.
        """
        try:
            return self._read(cluster, attempt, slot, blob)
        except DAMAGE as e:
            for other, number in self._copies_of(attempt, slot):
                copy = other.lookup(number)
                try:
                    content = self._read(cluster, other, copy)
                except DAMAGE:
                    continue
                self.repaired.append(
                    f'{str(e).rstrip(".")}; cluster {cluster} of the disk '
                    f'was read from {other.pack_name(copy.pack)} instead')
                return content
            raise

    def _read(self, cluster: int, attempt: committed.Attempt,
              slot: indexes.Slot, blob: memoryview | None = None) -> bytes:
        name = attempt.pack_name(slot.pack)
        data = (self._store.get_range(name, slot.offset, slot.length)
                if blob is None else bytes(blob))
        entry = pack.PackEntry(slot.digest, slot.length, slot.compressed)
        try:
            return pack.read_cluster(
                entry, data, self._codec, self._digest, self.cluster_size)
        except errors.Corrupted as e:
            raise errors.Corrupted(
                name, f'cluster {cluster} of the disk, at byte '
                f'{slot.offset}: {e.reason}') from None

    def _copies_of(self, attempt: committed.Attempt, slot: indexes.Slot
                   ) -> typing.Sequence['_Copy']:
        """Tell where else a cluster is, in spares first."""
        name = attempt.pack_name(slot.pack)
        with self._lock:
            if self._spare_attempts is None:
                self._spare_attempts = list(self._load_spare_attempts())
            if name not in self._copies:
                self._copies[name] = self._find_copies(attempt, slot.pack)
            return self._copies[name].get(slot.digest, ())

    def _load_spare_attempts(self) -> typing.Iterator[committed.Attempt]:
        """Load the attempts of which there are only spares."""
        for record in self._manifest.attempts:
            if record.id not in self._map.attempts:
                try:
                    yield self._documents.read_attempt(record)
                except DAMAGE as e:
                    LOG.warning('Second copies cannot be found: %s', e)

    def _find_copies(self, attempt: committed.Attempt, number: int
                     ) -> dict[bytes, list['_Copy']]:
        """Tell where else the clusters of a pack are, by their digests."""
        def digests_in(which: committed.Attempt, number: int
                       ) -> typing.Iterator[bytes]:
            slots = which.index.slots_of(number)
            return which.digests(slots.start, len(slots))

        wanted = set(digests_in(attempt, number))
        others = [
            (other, each)
            for other in [*self._attempts, *(self._spare_attempts or ())]
            for each in other.packs
            if other is not attempt or each != number]
        others.sort(key=lambda pair: not pair[0].packs[pair[1]].spare)
        found: dict[bytes, list[_Copy]] = {}
        for other, each in others:
            for slot, digest in zip(
                    other.index.slots_of(each), digests_in(other, each),
                    strict=True):
                if digest in wanted:
                    found.setdefault(digest, []).append((other, slot))
        return found


#: An attempt, and a slot of it.
_Copy: typing.TypeAlias = 'tuple[committed.Attempt, int]'


class _Places:
    """Which clusters of the disk are in each slot of an attempt.

    The clusters lie in one array, sorted by slot::

        ends       1  1  4           slot 0: one, slot 1: none, slot 2: three
        clusters   7  2  3  9

    :param extents: ordinals of the map's extents that are of the attempt.
    :param slots: of the attempt.
    :param wanted: for each cluster of the disk, zero when it is left out.
    :raises Corrupted: the map refers to a slot beyond.
    """

    def __init__(self, map_: cluster_map.ClusterMap,
                 extents: 'array.array[int]', slots: int,
                 wanted: bytes | None) -> None:
        self._ends = array.array(envelope.U32, bytes(4 * (slots + 1)))
        counts = self._ends
        total = 0
        for number in extents:
            if map_.extents.slots[number] + map_.extents.counts[
                    number] > slots:
                raise errors.Corrupted(
                    'map', f'it refers to slots of {slots} that are not '
                    'there')
        for pairs in self._wanted(map_, extents, wanted):
            for _, slot in pairs:
                counts[slot] += 1
                total += 1
        # First where each begins; filling moves it to where it ends.
        begin = 0
        for slot in range(slots):
            begin, counts[slot] = begin + counts[slot], begin
        self._clusters = array.array(envelope.U32, bytes(4 * total))
        for pairs in self._wanted(map_, extents, wanted):
            for cluster, slot in pairs:
                place = counts[slot]
                self._clusters[place] = cluster
                counts[slot] = place + 1

    def of(self, slot: int) -> 'array.array[int]':
        """Give the clusters of a slot, in the order of the disk."""
        return self._clusters[
            self._ends[slot - 1] if slot else 0:self._ends[slot]]

    def any(self, slot: int) -> bool:
        """Tell whether the disk has the slot anywhere."""
        return self._ends[slot] > (self._ends[slot - 1] if slot else 0)

    def any_of(self, slots: range) -> bool:
        """Tell whether the disk has one of these slots."""
        before = self._ends[slots.start - 1] if slots.start else 0
        return self._ends[slots.stop - 1] > before

    @staticmethod
    def _wanted(map_: cluster_map.ClusterMap, extents: 'array.array[int]',
                wanted: bytes | None
                ) -> typing.Iterator[typing.Iterable[tuple[int, int]]]:
        """Give for each extent the wanted (cluster, slot)."""
        every = map_.extents
        for number in extents:
            first, count = every.starts[number], every.counts[number]
            slot = every.slots[number]
            pairs = zip(range(first, first + count),
                        range(slot, slot + count), strict=True)
            yield pairs if wanted is None else itertools.compress(
                pairs, wanted[first:first + count])


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
    for number in filter(places.any, range(len(index))):
        slot = index.lookup(number)
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
