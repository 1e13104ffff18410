# SPDX-License-Identifier: Apache-2.0
"""Whether all that a snapshot needs is in the store, and undamaged.

Without the data: each object that the manifest names is there with its size
and etag, map and indexes are what was committed, and agree with each other.
With the data: also each pack is what was uploaded, and each of its clusters
what was captured, whether this disk has it or not.

Damage is collected, not raised. A cluster that is damaged in one place is
*lost* only if no other pack of the snapshot has the same content, for a
restore reads it from there then.
"""

import array
import collections
import dataclasses
import itertools
import operator
import typing
from collections.abc import Callable, Iterable, Iterator

from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import committed
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import envelope
from ironic_snapshot_core import errors
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import pack as packs
from ironic_snapshot_core import parallel
from ironic_snapshot_core.store import base
from ironic_snapshot_core.units import MiB

#: Requests at a time.
WORKERS = 8

#: What is read of a pack in one request, and kept in memory for each worker.
MAX_READ = 4 * MiB

# Digests that are looked for at a time; each takes about 300 bytes.
_BATCH = 50_000

# What tells that an object is damaged, and not that the store is out of
# order.
_DAMAGE = (errors.ObjectMissing, errors.ObjectMismatch,
           errors.ObjectTooLarge, errors.Corrupted)

# What is wrong with a slot; 0 for nothing.
_DAMAGED = 1
_NOT_LISTED = 2

#: Clusters of a disk: number of the first, and how many from there on.
Run: typing.TypeAlias = tuple[int, int]


@dataclasses.dataclass(frozen=True, slots=True)
class Finding:
    """An object that is not as it was committed.

    :param object: its name in the store.
    :param reason: a clause without a full stop.
    :param clusters: of the disk, that cannot be read from it.
    :param lost: those of them that cannot be read from anywhere.
    """

    object: str
    reason: str
    clusters: tuple[Run, ...] = ()
    lost: tuple[Run, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Findings:
    """What was found out about a snapshot.

    :param snapshot: its id.
    :param objects: how many were looked at.
    :param findings: in the order of the objects' names.
    """

    snapshot: str
    objects: int
    findings: tuple[Finding, ...]

    @property
    def sound(self) -> bool:
        """Whether nothing at all is damaged."""
        return not self.findings

    @property
    def restorable(self) -> bool:
        """Whether all of the disk can be read, as far as was looked."""
        return not any(each.lost for each in self.findings)


def size(found: Iterable[manifests.Manifest]) -> int:
    """Tell how many bytes the packs of snapshots have, each counted once."""
    return sum({pack.name: pack.size for manifest in found
                for pack in committed.packs(manifest)}.values())


class Verifier:
    """Verifies snapshots; what several share is looked at once.

    In memory it takes about 37 bytes for each cluster of the attempts that a
    snapshot needs, 16 for each extent of its map, and for each worker
    :data:`MAX_READ` and two clusters. Where there is damage, it takes
    another 8 for each cluster that is damaged, and some 20 MiB.

    :param data: read the packs, too.
    :param workers: None: :data:`WORKERS` of them.
    :param done: told, by any thread, of bytes of packs that were read; may
        raise to give up.
    """

    def __init__(self, store: base.Store, *, data: bool,
                 workers: parallel.Workers | None = None,
                 done: Callable[[int], None] | None = None) -> None:
        self._store = store
        self._data = data
        self._workers = workers or parallel.Workers(WORKERS)
        self._done = done
        # Of the snapshots before.
        self._flaws: dict[base.Segment, _Flaw | None] = {}
        self._damage: dict[str, _Damage | None] = {}

    def verify(self, manifest: manifests.Manifest) -> Findings:
        """Verify a snapshot.

        :raises SnapshotMissing: it was deleted meanwhile.
        :raises StoreError: the store does not answer, or says no.
        :raises UnsupportedVersion: a newer release wrote map or index.
        :raises UnsupportedFeature: likewise.
        """
        found = _Snapshot(manifest)
        expected = [*committed.documents(manifest.lineage, manifest),
                    *committed.packs(manifest)]
        self._workers.map(lambda each: self._look(found, each), expected)
        self._look_at_image(found)
        self._read_documents(found)
        if self._data:
            self._read_head(found)
            self._workers.map(
                lambda each: self._read_pack(found, *each), found.packs())
        findings = tuple(found.findings())
        if findings:
            self._require(manifest)
        return Findings(manifest.id, len(expected) + 1, findings)

    # Private

    def _require(self, manifest: manifests.Manifest) -> None:
        """See that what lacks something is still a snapshot."""
        try:
            self._store.stat(
                layout.manifest_name(manifest.lineage, manifest.id))
        except errors.ObjectMissing:
            raise errors.SnapshotMissing(manifest.id) from None

    def _look(self, found: '_Snapshot', segment: base.Segment) -> None:
        """See whether an object is there."""
        # Whatever the image has of it.
        key = base.Segment(segment.name, segment.size, segment.etag)
        if key not in self._flaws:
            self._flaws[key] = self._flaw(key)
        if flaw := self._flaws[key]:
            found.flaws[segment.name] = flaw

    def _flaw(self, segment: base.Segment) -> '_Flaw | None':
        try:
            info = self._store.stat(segment.name)
        except _DAMAGE as e:
            return _Flaw(_reason(e), gone=True)
        reason = committed.flaw(info, segment)
        if reason is None:
            return None
        another = (info.size, info.etag) != (segment.size, segment.etag)
        return _Flaw(reason, gone=another and not self._data)

    def _look_at_image(self, found: '_Snapshot') -> None:
        image = found.manifest.image
        try:
            info = self._store.stat(image.name)
        except _DAMAGE as e:
            found.flaws[image.name] = _Flaw(_reason(e))
            return
        for good, reason in (
                (info.kind == base.IMAGE, 'it is no image'),
                (info.size == image.size,
                 f'{info.size} bytes instead of {image.size}'),
                (not info.expires, 'it has an expiry date')):
            if not good:
                found.flaws[image.name] = _Flaw(reason)

    def _read_documents(self, found: '_Snapshot') -> None:
        """Read map and indexes."""
        documents = committed.DocumentReader(self._store, found.manifest)

        def read_index(record: manifests.AttemptRecord) -> None:
            try:
                found.attempts[record.id] = documents.read_attempt(record)
            except _DAMAGE as e:
                found.flaws[found.index_name(record.id)] = _Flaw(_reason(e))

        try:
            found.map = documents.read_map()
        except _DAMAGE as e:
            found.flaws[found.map_name] = _Flaw(_reason(e))
        self._workers.map(read_index, found.manifest.attempts)

    def _read_head(self, found: '_Snapshot') -> None:
        head = found.manifest.head
        if head.name not in found.flaws:
            try:
                committed.read(self._store, head.name, head.size, head.digest)
            except _DAMAGE as e:
                found.flaws[head.name] = _Flaw(_reason(e))

    def _read_pack(self, found: '_Snapshot', attempt: committed.Attempt,
                   number: int) -> None:
        """Read all clusters of a pack."""
        name = attempt.pack_name(number)
        if name not in self._damage:
            self._damage[name] = _PackReader(
                self._store, found.manifest, name, attempt.packs[number],
                attempt.index.packs[number], self._done).read()
        if damage := self._damage[name]:
            found.damage[name] = damage


# Private

class _Flaw(typing.NamedTuple):
    """What is wrong with an object.

    :param gone: there is nothing in it to be relied upon.
    """

    reason: str
    gone: bool = False


class _Damage(typing.NamedTuple):
    """What is wrong inside a pack.

    :param positions: of the damaged clusters.
    :param reason: for the first; or for the pack when all of them are good.
    """

    positions: 'array.array[int]'
    reason: str


class _PackReader:
    """Reads the clusters of a pack.

    :param record: what the manifest tells of it.
    :param index: what is in it.
    """

    def __init__(self, store: base.Store, manifest: manifests.Manifest,
                 name: str, record: manifests.PackRecord,
                 index: indexes.IndexPack,
                 done: Callable[[int], None] | None) -> None:
        self._store = store
        self._name = name
        self._record = record
        self._index = index
        self._done = done
        self._cluster_size = manifest.cluster_size
        self._codec = codecs.get_codec(manifest.codec)
        self._digest = digests.get_digest(manifest.digest)
        self._hash = store.new_hash()

    def read(self) -> _Damage | None:
        """Read all of it.

        :returns: None when it is good.
        """
        damage = self._read()
        if damage:
            # Perhaps only what arrived is damaged.
            self._done = None
            damage = self._read()
        return damage

    # Private

    def _read(self) -> _Damage | None:
        positions = array.array(envelope.U32)
        reason = ''
        self._hash = self._store.new_hash()
        for first, end in self._pieces():
            for position, why in self._read_piece(first, end):
                positions.append(position)
                reason = reason or why
        if len(positions) > 1:
            reason += f', and {len(positions) - 1} more'
        reason = reason or self._read_rest()
        return _Damage(positions, reason) if reason else None

    def _pieces(self) -> Iterator[tuple[int, int]]:
        """Give runs of clusters that are read at once: (first, end)."""
        offsets = self._index.offsets
        first = 0
        for end in range(1, len(offsets)):
            if end + 1 == len(offsets) or (
                    offsets[end + 1] - offsets[first] > MAX_READ):
                yield first, end
                first = end

    def _read_piece(self, first: int, end: int
                    ) -> Iterator[tuple[int, str]]:
        """Give what is wrong: (position, reason)."""
        offsets = self._index.offsets
        start = offsets[first]
        try:
            data = memoryview(self._get(start, offsets[end]))
        except errors.ObjectMissing as e:
            yield from ((each, _reason(e)) for each in range(first, end))
            return
        except _DAMAGE:
            # Not all of it need be: each cluster is tried.
            data = None
        for position in range(first, end):
            begin, stop = offsets[position], offsets[position + 1]
            try:
                blob = (self._store.get_range(self._name, begin, stop - begin)
                        if data is None
                        else bytes(data[begin - start:stop - start]))
                packs.read_cluster(self._index.entry(position), blob,
                                   self._codec, self._digest,
                                   self._cluster_size)
            except _DAMAGE as e:
                yield position, f'cluster at byte {begin}: {_reason(e)}'

    def _read_rest(self) -> str:
        """Tell what is wrong with a pack whose clusters are all good."""
        start, size = self._index.offsets[-1], self._record.size
        try:
            for offset in range(start, size, MAX_READ):
                self._get(offset, min(offset + MAX_READ, size))
        except _DAMAGE as e:
            return _reason(e)
        if self._hash.hexdigest() != self._record.etag:
            return 'its content is not what was uploaded'
        return ''

    def _get(self, start: int, end: int) -> bytes:
        data = self._store.get_range(self._name, start, end - start)
        self._hash.update(data)
        if self._done is not None:
            self._done(len(data))
        return data


class _Snapshot:
    """What is known of a snapshot, and what follows from it.

    :ivar flaws: of objects.
    :ivar damage: inside packs.
    :ivar map: None: it cannot be had.
    :ivar attempts: whose indexes can be had.
    """

    def __init__(self, manifest: manifests.Manifest) -> None:
        self.manifest = manifest
        self.flaws: dict[str, _Flaw] = {}
        self.damage: dict[str, _Damage] = {}
        self.map: cluster_map.ClusterMap | None = None
        self.attempts: dict[str, committed.Attempt] = {}
        self._prefixes = {
            each.id: layout.attempt_prefix(each.lineage, each.id)
            for each in manifest.attempts}

    @property
    def map_name(self) -> str:
        return layout.attempt_prefix(
            self.manifest.lineage, self.manifest.id) + layout.MAP

    def index_name(self, attempt: str) -> str:
        return self._prefixes[attempt] + layout.INDEX

    def packs(self) -> Iterator[tuple[committed.Attempt, int]]:
        """Give those that can be read: (attempt, ordinal in its index)."""
        for attempt in self.attempts.values():
            for number in sorted(attempt.packs):
                if not self._gone(attempt.pack_name(number)):
                    yield attempt, number

    def findings(self) -> Iterator[Finding]:
        """Tell what is wrong, and what of the disk that concerns."""
        marks = {id: self._marks(each) for id, each in self.attempts.items()}
        held = self._held(marks)
        lost = self._lost(held, marks)
        reasons = {name: flaw.reason for name, flaw in self.flaws.items()}
        for name, damage in self.damage.items():
            reasons.setdefault(name, damage.reason)
        if self.map_name in held:
            reasons.setdefault(self.map_name, 'it refers to what is not there')
        for name in sorted(reasons):
            yield Finding(
                name, reasons[name],
                _runs(held[name].clusters) if name in held else (),
                _runs(lost[name]) if name in lost else ())

    # Private

    def _gone(self, name: str) -> bool:
        return name in self.flaws and self.flaws[name].gone

    def _marks(self, attempt: committed.Attempt) -> bytearray:
        """Tell of each slot what is wrong with it."""
        marks = bytearray(len(attempt.index))
        for number in range(len(attempt.index.packs)):
            slots = attempt.index.slots_of(number)
            name = attempt.pack_name(number)
            if number not in attempt.packs:
                marks[slots.start:slots.stop] = bytes([
                    _NOT_LISTED]) * len(slots)
            elif self._gone(name):
                marks[slots.start:slots.stop] = bytes([
                    _DAMAGED]) * len(slots)
            elif name in self.damage:
                for position in self.damage[name].positions:
                    marks[slots[position]] = _DAMAGED
        return marks

    def _held(self, marks: typing.Mapping[str, bytearray]
              ) -> 'dict[str, _Part]':
        """Tell what of the disk should be in each damaged object."""
        parts: dict[str, _Part] = collections.defaultdict(_Part)
        if self.map is None:
            parts[self.map_name].clusters.extend(range(
                -(-self.manifest.disk.size // self.manifest.cluster_size)))
            return parts
        for first, count, ordinal, slot in self.map.extents.rows():
            clusters = range(first, first + count)
            id = self.map.attempts[ordinal]
            if id not in self.attempts:
                parts[self.index_name(id)].clusters.extend(clusters)
                continue
            wrong = marks[id][slot:slot + count]
            if len(wrong) < count:
                parts[self.map_name].clusters.extend(clusters)
                continue
            attempt = self.attempts[id]
            for each in itertools.compress(range(count), wrong):
                if wrong[each] == _NOT_LISTED:
                    parts[self.map_name].clusters.append(clusters[each])
                    continue
                number = attempt.index.lookup(slot + each).pack
                part = parts[attempt.pack_name(number)]
                part.attempt = attempt
                part.clusters.append(clusters[each])
                part.slots.append(slot + each)
        return parts

    def _lost(self, held: 'typing.Mapping[str, _Part]',
              marks: typing.Mapping[str, bytearray]
              ) -> 'dict[str, array.array[int]]':
        """Tell which of the clusters are nowhere else."""
        lost = {name: part.clusters for name, part in held.items()
                if part.attempt is None}
        wanted = ((name, cluster, part.attempt.index.lookup(slot).digest)
                  for name, part in held.items() if part.attempt is not None
                  for cluster, slot in zip(
                      part.clusters, part.slots, strict=True))
        while batch := list(itertools.islice(wanted, _BATCH)):
            copies = self._copies({digest for _, _, digest in batch}, marks)
            for name, cluster, digest in batch:
                if digest not in copies:
                    lost.setdefault(
                        name, array.array(envelope.U32)).append(cluster)
        return lost

    def _copies(self, wanted: set[bytes],
                marks: typing.Mapping[str, bytearray]) -> set[bytes]:
        """Tell which contents are in a good slot of any pack."""
        found: set[bytes] = set()
        for id, attempt in self.attempts.items():
            for number in attempt.packs:
                slots = attempt.index.slots_of(number)
                good = map(operator.not_, marks[id][slots.start:slots.stop])
                found.update(wanted.intersection(itertools.compress(
                    attempt.digests(slots.start, len(slots)), good)))
        return found


class _Part:
    """What of the disk should be in an object.

    :ivar attempt: whose pack it is; None when it is none.
    :ivar clusters: of the disk.
    :ivar slots: of the attempt, in which these are.
    """

    def __init__(self) -> None:
        self.attempt: committed.Attempt | None = None
        self.clusters = array.array(envelope.U32)
        self.slots = array.array(envelope.U32)


def _runs(clusters: Iterable[int]) -> tuple[Run, ...]:
    """Join clusters in the order of the disk."""
    found: list[Run] = []
    for cluster in clusters:
        if found and sum(found[-1]) == cluster:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        else:
            found.append((cluster, 1))
    return tuple(found)


def _reason(error: errors.Error) -> str:
    """Give the clause of an error that tells of damage."""
    if isinstance(error, errors.ObjectMissing):
        return 'it is missing'
    return str(typing.cast(typing.Any, error).reason)
