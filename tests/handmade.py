# SPDX-License-Identifier: Apache-2.0
"""Snapshots made by hand, by the format: what a capture does, in short.

    history = History(store)
    first = history.capture(disk)
    second = history.capture(changed, parent=first)
"""

import dataclasses
import typing
import uuid

from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core import pack as packs
from ironic_snapshot_core import qcow2
from ironic_snapshot_core.store import base
from ironic_snapshot_core.units import KiB

C = 64 * KiB
DIGEST = digests.DEFAULT_DIGEST
LINEAGE = layout.Lineage('bbbbbbbb-0000-4000-8000-000000000002',
                         'cccccccc-0000-4000-8000-000000000003')

#: An attempt, and a slot of it.
Place: typing.TypeAlias = 'tuple[Attempt, int]'


@dataclasses.dataclass(frozen=True)
class Attempt:
    """What one has stored.

    :param packs: all of its own.
    """

    record: manifest.AttemptRecord
    index: indexes.Index
    packs: tuple[manifest.PackRecord, ...]

    @property
    def prefix(self) -> str:
        return layout.attempt_prefix(self.record.lineage, self.record.id)

    def name(self, number: int) -> str:
        """Name the object of a pack, from 0."""
        return self.prefix + self.packs[number].name

    def pack_of(self, slot: int) -> int:
        return self.index.lookup(slot).pack

    def trimmed(self, number: int, slots: typing.Iterable[int],
                generations: int = 2) -> manifest.PackRecord:
        """Give the record of a pack of which some slots are used."""
        found = [self.index.lookup(slot) for slot in slots]
        size = self.index.cluster_size
        start = min(each.offset for each in found) // size * size
        end = -(-max(each.offset + each.length for each in found)
                // size) * size
        return dataclasses.replace(
            self.packs[number], start=start, length=end - start,
            live_bytes=sum(each.length for each in found),
            generations=generations)


def lay_out(contents: typing.Sequence[bytes], cluster_size: int = C,
            codec: codecs.Codec | None = None
            ) -> tuple[bytes, list[packs.PackEntry]]:
    """Make a pack as the format says: raw clusters first."""
    codec = codec or codecs.get_codec('zstd')
    blobs = [(codec.compress(each), each) for each in contents]
    raw = [(each, each) for blob, each in blobs if blob is None]
    compressed = [(blob, each) for blob, each in blobs if blob is not None]
    entries = [
        packs.PackEntry(DIGEST.digest(each), len(blob), blob is not each)
        for blob, each in raw + compressed]
    data = b''.join(blob for blob, _ in raw + compressed)
    return data + bytes(-len(data) % cluster_size), entries


def put(store: base.Store, name: str, data: bytes) -> manifest.ObjectRecord:
    info = store.put(name, data)
    return manifest.ObjectRecord(
        len(data), info.etag, DIGEST.digest(data).hex())


def store_attempt(store: base.Store, id: str,
                  contents: typing.Iterable[typing.Sequence[bytes]],
                  lineage: layout.Lineage = LINEAGE,
                  cluster_size: int = C, codec: str = 'zstd') -> Attempt:
    """Store packs, and an index of them.

    :param contents: for each pack the clusters in it.
    """
    prefix = layout.attempt_prefix(lineage, id)
    records, found = [], []
    for number, clusters in enumerate(contents, 1):
        data, entries = lay_out(
            clusters, cluster_size, codecs.get_codec(codec))
        name = layout.pack_name(number)
        info = store.put(prefix + name, data)
        records.append(manifest.PackRecord.new(
            id, name, len(data), info.etag, len(entries),
            sum(each.length for each in entries)))
        found.append(indexes.IndexPack.of(name, entries))
    index = indexes.Index(id, cluster_size, codec, DIGEST.id, tuple(found))
    record = put(store, prefix + layout.INDEX, indexes.encode(index))
    return Attempt(manifest.AttemptRecord(id, lineage, record), index,
                   tuple(records))


def store_snapshot(store: base.Store, id: str, disk_size: int,
                   places: typing.Mapping[int, Place],
                   records: typing.Sequence[manifest.PackRecord],
                   attempts: typing.Sequence[Attempt],
                   parent: str | None = None,
                   lineage: layout.Lineage = LINEAGE,
                   cluster_size: int = C, codec: str = 'zstd'
                   ) -> manifest.Manifest:
    """Store map, head, image and manifest.

    :param places: of the clusters of the disk that are not zero.
    :param records: packs in the order of the image.
    :param attempts: of these packs, in the manifest's order.
    """
    prefix = layout.attempt_prefix(lineage, id)
    builder = cluster_map.MapBuilder(disk_size, cluster_size)
    in_image = [each for each in records if not each.spare]
    numbers = {(each.attempt, each.name): number
               for number, each in enumerate(in_image)}
    placed = []
    for cluster, (attempt, slot) in sorted(
            places.items(), key=lambda item: item[0]):
        builder.add(cluster, attempt.record.id, slot)
        found = attempt.index.lookup(slot)
        number = numbers[
            attempt.record.id, attempt.index.packs[found.pack].name]
        placed.append(qcow2.Placement(
            cluster, number, found.offset - in_image[number].start,
            found.length, found.compressed))
    head = qcow2.build_head(
        disk_size, cluster_size, codecs.get_codec(codec),
        [each.length for each in in_image], placed)
    head_record = put(store, prefix + layout.HEAD, head)
    prefixes = {each.record.id: each.prefix for each in attempts}
    image = store.join(layout.image_name(lineage, id), [
        base.Segment(prefix + layout.HEAD, len(head), head_record.etag),
        *(base.Segment(prefixes[each.attempt] + each.name, each.size,
                       each.etag, each.start, each.length)
          for each in in_image)])
    report = manifest.CaptureReport(
        snapshot=id,
        disk=manifest.Disk(disk_size, 512, 512, '', '', '', '', 'disk'),
        cluster_size=cluster_size, codec=codec, codec_level=None,
        digest=DIGEST.id, parent=parent,
        full_reason=None if parent else 'asked for',
        packs=tuple(records),
        attempts=tuple(each.record for each in attempts),
        map=put(store, prefix + layout.MAP,
                cluster_map.encode(builder.build())),
        head=manifest.HeadRecord(
            prefix + layout.HEAD, **dataclasses.asdict(head_record)),
        totals=manifest.Totals(disk_size, 0, 0, 0, 0, 0, len(places), 0),
        regions=(), unreadable=(), timings={}, software={})
    made = manifest.Manifest.from_report(
        report, name=f'snapshot {id[:2]}', description='', lineage=lineage,
        sequence=1, node=manifest.NodeRecord(lineage.node, None, None),
        project=None, consistency='offline',
        started_at='2026-01-31T12:00:00Z', created_at='2026-01-31T12:00:00Z',
        image=manifest.ImageRecord(image.name, image.size))
    store.put(layout.manifest_name(lineage, id), made.to_bytes(None))
    return made


class History:
    """Snapshots one after the other, each made of all those before.

    :param clusters: in a pack.
    """

    def __init__(self, store: base.Store, cluster_size: int = C,
                 codec: str = 'zstd', clusters: int = 8) -> None:
        self.store = store
        self.attempts: dict[str, Attempt] = {}
        self._cluster_size = cluster_size
        self._codec = codec
        self._clusters = clusters

    def capture(self, disk: bytes,
                parent: manifest.Manifest | None = None,
                again: typing.Collection[tuple[str, str]] = (),
                lineage: layout.Lineage = LINEAGE) -> manifest.Manifest:
        """Take a snapshot.

        :param again: packs (attempt, name) whose clusters are stored a
            second time; these become spares.
        """
        id = str(uuid.uuid4())
        known = self._known(parent, again)
        wanted = self._digests(disk)
        new: dict[bytes, bytes] = {
            digest: data for digest, data in wanted.values()
            if digest not in known}
        bodies = list(new.values())
        contents = [bodies[start:start + self._clusters]
                    for start in range(0, len(bodies), self._clusters)]
        if contents:
            own = store_attempt(self.store, id, contents, lineage,
                                self._cluster_size, self._codec)
            self.attempts[id] = own
            for slot in range(len(own.index)):
                known[own.index.lookup(slot).digest] = own, slot
        places = {cluster: known[digest]
                  for cluster, (digest, _) in wanted.items()}
        records = self._records(parent, again, places)
        attempts = [each for key, each in self.attempts.items()
                    if key in {record.attempt for record in records}]
        return store_snapshot(
            self.store, id, len(disk), places, records, attempts,
            parent.id if parent else None, lineage, self._cluster_size,
            self._codec)

    # Private

    def _digests(self, disk: bytes) -> dict[int, tuple[bytes, bytes]]:
        """Give digest and bytes of each cluster that is not zero."""
        size = self._cluster_size
        clusters = (disk[start:start + size].ljust(size, b'\0')
                    for start in range(0, len(disk), size))
        return {number: (DIGEST.digest(data), data)
                for number, data in enumerate(clusters) if any(data)}

    def _known(self, parent: manifest.Manifest | None,
               again: typing.Collection[tuple[str, str]]
               ) -> dict[bytes, Place]:
        known: dict[bytes, Place] = {}
        for record in parent.packs if parent else ():
            if record.spare or (record.attempt, record.name) in again:
                continue
            attempt = self.attempts[record.attempt]
            for slot in attempt.index.slots_of(_number(record)):
                known[attempt.index.lookup(slot).digest] = attempt, slot
        return known

    def _records(self, parent: manifest.Manifest | None,
                 again: typing.Collection[tuple[str, str]],
                 places: typing.Mapping[int, Place]
                 ) -> list[manifest.PackRecord]:
        used: dict[tuple[str, int], set[int]] = {}
        for attempt, slot in places.values():
            used.setdefault((attempt.record.id, attempt.pack_of(slot)),
                            set()).add(slot)
        found = []
        older = {(record.attempt, _number(record)): record
                 for record in (parent.packs if parent else ())}
        for (id, number), record in older.items():
            attempt = self.attempts[id]
            generations = record.generations + 1
            if slots := used.pop((id, number), None):
                found.append(attempt.trimmed(number, slots, generations))
            elif record.spare or (id, record.name) in again:
                found.append(dataclasses.replace(
                    attempt.packs[number], start=0, length=0, live_bytes=0,
                    generations=generations))
        # What is left is new.
        found += [self.attempts[id].packs[number]
                  for id, number in sorted(used)]
        return found


def _number(record: manifest.PackRecord) -> int:
    """Give the ordinal of a pack in its attempt, from 0."""
    return layout.parse_pack_name(record.name) - 1
