# SPDX-License-Identifier: Apache-2.0
"""The objects of a snapshot, as they were committed.

Nothing is believed for being there: map and indexes must have the size and
digest that the manifest says, and be about what they should be.
"""

import dataclasses
import struct
import typing

from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import errors
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core.store import base


def packs(manifest: manifests.Manifest) -> list[base.Segment]:
    """Give the packs in the manifest's order, and what the image has of each.

    Of a spare that is nothing.
    """
    prefixes = {each.id: layout.attempt_prefix(each.lineage, each.id)
                for each in manifest.attempts}
    return [base.Segment(prefixes[pack.attempt] + pack.name, pack.size,
                         pack.etag, pack.start, pack.length)
            for pack in manifest.packs]


def image_segments(manifest: manifests.Manifest) -> list[base.Segment]:
    """Give what the image of a snapshot is joined of, in its order."""
    head = manifest.head
    return [base.Segment(head.name, head.size, head.etag),
            *(pack for pack in packs(manifest) if pack.used)]


def documents(lineage: layout.Lineage,
              record: manifests.CaptureReport | manifests.Manifest
              ) -> list[base.Segment]:
    """Give what a snapshot needs beside packs: head, map and indexes.

    :param lineage: of the snapshot.
    """
    own = layout.attempt_prefix(lineage, record.id)
    head = record.head
    return [
        base.Segment(head.name, head.size, head.etag),
        *(base.Segment(name, found.size, found.etag) for name, found in [
            (own + layout.MAP, record.map),
            *((layout.attempt_prefix(attempt.lineage, attempt.id)
               + layout.INDEX, attempt.index)
              for attempt in record.attempts)])]


def flaw(found: base.ObjectInfo, expected: base.Segment) -> str | None:
    """Tell what is wrong with a plain object, without reading it.

    :returns: a clause without a full stop; None when nothing is.
    """
    if found.size != expected.size:
        return f'{found.size} bytes instead of {expected.size}'
    if found.etag != expected.etag:
        return 'its content is not what was uploaded'
    if found.kind != base.PLAIN:
        return 'it is not a plain object'
    if found.expires:
        return 'it has an expiry date'
    return None


def read(store: base.Store, name: str, size: int, digest: str) -> bytes:
    """Read an object that another document names.

    :param size: in bytes, as it must be.
    :param digest: BLAKE3-256, in hex, likewise.
    :raises Corrupted: it is another.
    :raises StoreError: it cannot be had.
    """
    data = store.get(name, size)
    if digests.identify(data) != (size, digest):
        raise errors.Corrupted(name, 'it is not what was committed')
    return data


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt:
    """What a snapshot needs of an attempt.

    :param prefix: of the names of its objects.
    :param packs: those that the manifest lists, by their ordinal in the
        index.
    """

    prefix: str
    index: indexes.Index
    packs: typing.Mapping[int, manifests.PackRecord]

    def pack_name(self, number: int) -> str:
        """Name the object of a pack by its ordinal in the index."""
        return self.prefix + self.index.packs[number].name

    def lookup(self, slot: int) -> indexes.Slot:
        """Tell where a cluster is.

        :raises Corrupted: nowhere that the manifest tells of.
        """
        found = self.index.lookup(slot)
        self.require(found.pack)
        return found

    def digests(self, first: int, count: int) -> typing.Iterator[bytes]:
        """Give the digests of clusters that follow each other.

        :param first: slot of the first.
        :raises Corrupted: one is nowhere that the manifest tells of.
        """
        end = first + count
        while first < end:
            number = self.lookup(first).pack
            slots = self.index.slots_of(number)
            stop = min(end, slots.stop)
            found = self.index.packs[number].digests
            size = len(found) // len(slots)
            for digest, in struct.iter_unpack(
                    f'{size}s', found[(first - slots.start) * size:
                                      (stop - slots.start) * size]):
                yield digest
            first = stop

    def require(self, number: int) -> None:
        """Refuse a pack that the map refers to and the manifest omits.

        :param number: its ordinal in the index.
        :raises Corrupted: it is one.
        """
        if number not in self.packs:
            raise errors.Corrupted(
                'map', f'it refers to {self.pack_name(number)}, which the '
                'manifest does not list')


class DocumentReader:
    """Reads map and indexes of a snapshot.

    :param manifest: of a committed snapshot.
    """

    def __init__(self, store: base.Store,
                 manifest: manifests.Manifest) -> None:
        self._store = store
        self._manifest = manifest
        self._packs: dict[str, list[manifests.PackRecord]] = {}
        for each in manifest.packs:
            self._packs.setdefault(each.attempt, []).append(each)

    def read_map(self) -> cluster_map.ClusterMap:
        """Read the map of the disk.

        :raises Corrupted: it is not what was committed, or refers to an
            attempt that the manifest does not list.
        :raises StoreError: it cannot be had.
        """
        manifest = self._manifest
        name = layout.attempt_prefix(
            manifest.lineage, manifest.id) + layout.MAP
        size = manifest.cluster_size
        found = cluster_map.decode(
            read(self._store, name, manifest.map.size, manifest.map.digest),
            max_clusters=-(-manifest.disk.size // size))
        if (found.disk_size, found.cluster_size) != (
                manifest.disk.size, size):
            raise errors.Corrupted(name, 'it is about another disk')
        listed = {each.id for each in manifest.attempts}
        for attempt in found.attempts:
            if attempt not in listed:
                raise errors.Corrupted(
                    name, f'it refers to attempt {attempt}, which the '
                    'manifest does not list')
        return found

    def read_attempt(self, record: manifests.AttemptRecord) -> Attempt:
        """Read the index of an attempt.

        :param record: one of the manifest's.
        :raises Corrupted: it is not what was committed, or tells of other
            packs than the manifest.
        :raises StoreError: it cannot be had.
        """
        manifest = self._manifest
        prefix = layout.attempt_prefix(record.lineage, record.id)
        name = prefix + layout.INDEX
        data = read(
            self._store, name, record.index.size, record.index.digest)
        # It may be of a disk that was larger then; but it holds a digest for
        # each cluster, which nothing makes smaller.
        index = indexes.decode(data, max_clusters=len(data))
        if (index.attempt, index.cluster_size, index.codec,
                index.digest) != (record.id, manifest.cluster_size,
                                  manifest.codec, manifest.digest):
            raise errors.Corrupted(name, 'it is about another attempt')
        ordinals = {pack.name: number
                    for number, pack in enumerate(index.packs)}
        packs = {}
        for each in self._packs[record.id]:
            number = ordinals.get(each.name, -1)
            if (number < 0 or len(index.packs[number]) != each.clusters
                    or index.packs[number].offsets[-1] > each.size):
                raise errors.Corrupted(
                    name, f'{each.name} in it is not that of the manifest')
            packs[number] = each
        return Attempt(prefix, index, packs)
