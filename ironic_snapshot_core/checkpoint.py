# SPDX-License-Identifier: Apache-2.0
"""How far a capture got: for going on with it after an interruption.

A checkpoint tells of packs that are all stored, and of the clusters of the
disk that need nothing but these and earlier ones::

    clusters   |======= 1 =======|==== 2 ====|== 3 ==|- - - - -
    packs      |  1  2  3  4  5  |   6  7    |   8   |  9 ...

Each has what is new since the one before. It names that one by its digest,
so that checkpoints of different runs of a capture cannot be mixed.
"""

import array
import dataclasses
import itertools
import struct
import typing
import uuid

from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import envelope
from ironic_snapshot_core import errors
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest

MAGIC = b'ISCP'
VERSION = 1

#: What the first checkpoint names as the one before.
NONE_BEFORE = bytes(envelope.DIGEST_SIZE)

# attempt, number, digest of the checkpoint before, digest of the extents,
# first and next cluster, packs, unreadable runs, bytes of index and map
_HEADER = struct.Struct('<16sI32s32sQQIIQQ')


@dataclasses.dataclass(frozen=True, slots=True)
class Checkpoint:
    """A part of a capture that is stored.

    :param number: counted from 1.
    :param before: digest of the checkpoint before.
    :param extents: digest of what was to be read of the disk.
    :param first_cluster: of the disk, that it tells of.
    :param next_cluster: the first that it does not tell of.
    :param packs: that are new.
    :param index: of these packs only; it says how clusters are stored.
    :param map: of these clusters only; slots are those of the attempt, over
        all its packs so far, or of older attempts that the reader must know.
    :param unreadable: in these clusters.
    """

    number: int
    before: bytes
    extents: bytes
    first_cluster: int
    next_cluster: int
    packs: tuple[manifest.PackRecord, ...]
    index: indexes.Index
    map: cluster_map.ClusterMap
    unreadable: tuple[manifest.Unreadable, ...]

    @property
    def attempt(self) -> str:
        return self.index.attempt


def digest(data: bytes | bytearray) -> bytes:
    """Give the digest of an encoded checkpoint; the next one names it."""
    return bytes(data[-envelope.DIGEST_SIZE:])


def encode(checkpoint: Checkpoint) -> bytes:
    """Turn a checkpoint into bytes."""
    index = indexes.encode(checkpoint.index)
    map_ = cluster_map.encode(checkpoint.map)
    header = _HEADER.pack(
        uuid.UUID(checkpoint.attempt).bytes, checkpoint.number,
        checkpoint.before, checkpoint.extents, checkpoint.first_cluster,
        checkpoint.next_cluster, len(checkpoint.packs),
        len(checkpoint.unreadable), len(index), len(map_))
    columns = [
        [pack.size for pack in checkpoint.packs],
        [pack.live_bytes for pack in checkpoint.packs],
        [run.start for run in checkpoint.unreadable],
        [run.length for run in checkpoint.unreadable],
    ]
    payload = [
        *(bytes.fromhex(pack.etag) for pack in checkpoint.packs),
        *(envelope.column(array.array(envelope.U64, column))
          for column in columns),
        index, map_]
    return envelope.wrap(MAGIC, VERSION, header, payload)


def decode(data: bytes, attempt: str,
           max_clusters: int = indexes.MAX_CLUSTERS) -> Checkpoint:
    """Turn bytes back into a checkpoint.

    :param attempt: whose it must be.
    :param max_clusters: of the disk; more are refused before memory is
        taken for them.
    :raises Corrupted: any bit is not as it was written, or it makes no
        sense, or is another attempt's.
    :raises UnsupportedVersion: a newer release wrote it.
    :raises UnsupportedFeature: likewise.
    """
    reader = envelope.Reader(data, MAGIC, VERSION, 'checkpoint')
    (its_attempt, number, before, extents, first, following, pack_count,
     run_count, index_size, map_size) = reader.unpack(_HEADER)
    if (typing.cast(bytes, its_attempt) != uuid.UUID(attempt).bytes
            or pack_count > min(max_clusters, layout.MAX_PACKS)
            or run_count > manifest.MAX_UNREADABLE
            or not first < following <= max_clusters
            or index_size > 1024 + max_clusters * 64
            or map_size > 1024 + max_clusters * 32):
        raise reader.corrupted('it is of another attempt, or far too large')
    reader.open(pack_count * (16 + 16) + run_count * 16
                + index_size + map_size)
    etags = [reader.take(16).hex() for _ in range(pack_count)]
    sizes, live = (reader.column(envelope.U64, pack_count)
                   for _ in range(2))
    starts, lengths = (reader.column(envelope.U64, run_count)
                       for _ in range(2))
    index = indexes.decode(reader.take(index_size), max_clusters)
    map_ = cluster_map.decode(reader.take(map_size), max_clusters)
    try:
        packs = tuple(
            manifest.PackRecord.new(attempt, pack.name, size, etag,
                                    len(pack), live_bytes)
            for pack, size, etag, live_bytes in zip(
                index.packs, sizes, etags, live, strict=True))
        unreadable = tuple(itertools.starmap(
            manifest.Unreadable, zip(starts, lengths, strict=True)))
    except (errors.InvalidValue, errors.InvalidName, ValueError) as e:
        raise reader.corrupted(str(e).rstrip('.')) from e
    if (index.attempt != attempt
            or index.cluster_size != map_.cluster_size
            or not _within(map_, first, following)):
        raise reader.corrupted('its parts do not belong together')
    return Checkpoint(
        number, typing.cast(bytes, before), typing.cast(bytes, extents),
        first, following, packs, index, map_, unreadable)


# Private

def _within(map_: cluster_map.ClusterMap, first: int, following: int
            ) -> bool:
    extents = map_.extents
    return not len(extents) or (
        first <= extents.starts[0]
        and extents.starts[-1] + extents.counts[-1] <= following)
