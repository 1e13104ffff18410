# SPDX-License-Identifier: Apache-2.0
"""How many threads and how large a pack the memory allows.

A ramdisk lives in the memory it works in, so a capture keeps to a stated
bound, all in bytes::

    memory = OVERHEAD + clusters * GATHERED_PER_CLUSTER + ranges * PER_RANGE
           + shared * SHARED_PER_CLUSTER + spare * SPARE_PER_CLUSTER
           + the largest of loading, capturing and encoding

    loading   = index_bytes * LOADING_PER_BYTE
    capturing = 2 * reads * read_size
              + workers * codec_memory
              + (uploads + 1) * (pack_size + cluster_size)
    encoding  = clusters * ENCODING_PER_CLUSTER

    clusters: those that hold data, whatever the size of the disk
    shared: those in the packs of the parent that are built upon
    spare: those in packs that may hold second copies
    index_bytes: the largest index of the parent, as it is stored
    ranges: of data, where the file systems say so; at most 4 million
    reads = workers + 8: one at each worker, others read ahead or collected;
    each takes its buffer, and what is made of it as much again
    uploads + 1: rooms for packs, one at each uploader and one that is being
    filled; each has the size of a pack, rounded up to whole clusters, and
    one cluster more

With 2 workers and 256 KiB clusters that is 260 MiB and, beyond those, 48
bytes for each cluster with data and 43 for each of the parent's: less than 400
MiB for 350 GB of data in a disk and in its parent. It is fitted again when the
disk was looked at and the parent is known.

A restore keeps to another::

    memory = OVERHEAD + indexes * INDEXED_PER_BYTE
           + clusters * RESTORED_PER_CLUSTER + ENDS * cluster_size
           + the largest of loading, comparing and writing

    loading   = largest_index * LOADING_PER_BYTE
    comparing = (workers + read_ahead) * read_size
    writing   = fetches * (range + read_size + 3 * cluster_size)
              + read_size

    indexes: all that the snapshot needs, as they are stored
    clusters: of the disk, zero or not
    comparing: also reading back what was written
    fetches = 2 * workers, at most 8: each has what came from the store, at
    most 4 MiB and one cluster, the cluster that is decompressed, and a
    buffer of neighbours that are written together

With 2 workers and 256 KiB clusters that is 56 MiB, and 40 bytes for each
cluster of the disk and of those it was built upon.
"""

import dataclasses
import os
import pathlib

import zstandard

from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import errors
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import snapshot_reader
from ironic_snapshot_core import units
from ipa_snapshot_hardware import reader

PROC = pathlib.Path('/proc')

# Large enough for a disk to stream, small enough to balance the workers, and
# to be still in a processor's cache when a worker gets it: with twice as much,
# digests take a sixth longer.
READ_SIZE = 2 * units.MiB
# Kept between the reader and the collector beside what the workers hold: one
# read ahead, one collected, and more so that a worker need not wait while the
# other has the harder clusters.
_READ_AHEAD = 8
_LEAST_READ_AHEAD = 2
# An automatic budget leaves the rest of the memory to the agent ...
_SHARE_OF_AVAILABLE = 2
# ... and, but for what large disks need, does not grow without bounds.
_AUTOMATIC_LIMIT = 1 * units.GiB
# More do not help: a disk and a network are slower than that.
_MOST_WORKERS = 16
# One request fills while the other waits for the store's answer.
_UPLOADS = 2
# Smaller packs would be slowed down by Swift when they are joined.
_SMALLEST_PACK = 1 * units.MiB
# Digest, slot, offset and a table that is at most 5/6 full: 32 + 4 + 4 + 24/5
# bytes, and what there is for each pack; measured 46. Where a run of clusters
# begins counts as part of a range, or instead of a cluster of zeroes.
GATHERED_PER_CLUSTER = 48
# The digests once more, as index; the map and the head take less.
ENCODING_PER_CLUSTER = 56
# Digest, offset, a place in the table, whether it is used, and what there is
# for each pack: 32 + 4 + 24/5 + 1 bytes.
SHARED_PER_CLUSTER = 43
# Digest and offset, and whether there is a second copy of it and of one other.
SPARE_PER_CLUSTER = 40
# An index as stored, unpacked, and cut into its packs; measured 3.4.
LOADING_PER_BYTE = 4
# Start and end, for the second look first cluster and count, and a run of
# clusters: 16 + 8 + 8 bytes, and what growing arrays take.
PER_RANGE = 34
# An index in memory: digests and offsets, and a list of what is wanted of
# it. It is stored nearly as digests alone, for these do not compress.
INDEXED_PER_BYTE = 2
# An extent of the map and its place, if each cluster is one; where it is in
# its attempt; whether it is wanted, twice; and a range to read back, if every
# other one is: 16 + 4 + 8 + 2 + 8 bytes.
RESTORED_PER_CLUSTER = 40
# Clusters at the ends of a disk, known byte by byte: two at each guard and
# where the second GPT was, each read and as it will be.
ENDS = 12
# More at a time do not help: a store answers each in its turn.
MOST_FETCHES = 8
# What zlib documents for the largest window and memory level.
_ZLIB_CONTEXT = 256 * units.KiB
# Stacks of the threads, connections, fragmentation of the heap; measured.
OVERHEAD = 24 * units.MiB


@dataclasses.dataclass(frozen=True, slots=True)
class Budget:
    """What a capture may use.

    ``memory`` is the bound that follows, ``limit`` what it was to be kept
    under; both in bytes.
    """

    workers: int
    uploads: int
    read_ahead: int
    read_size: int
    pack_size: int
    memory: int
    limit: int

    @property
    def reads(self) -> int:
        """Reads in flight."""
        return self.workers + self.read_ahead


def plan(
    *,
    disk_size: int,
    cluster_size: int,
    pack_size: int,
    codec: codecs.Codec,
    workers: int = 0,
    memory_limit: int = 0,
    proc: pathlib.Path = PROC,
) -> Budget:
    """Fit a capture into the memory there is, before the disk is looked at.

    Reading ahead is given up first, then uploads, then workers, then the
    size of packs.

    :param disk_size: in bytes; nothing is known yet of what is in use.
    :param pack_size: wanted size of a pack in bytes.
    :param workers: the most workers wanted; 0: one for each processor.
    :param memory_limit: the most memory to use, in bytes; 0: half of what
        is available, and at most 1 GiB beside what the clusters take.
    :raises InvalidValue: when not even one worker fits.
    """
    clusters = reader.count_clusters(disk_size, cluster_size)
    limit = memory_limit or _automatic_limit(clusters, proc)
    workers = min(workers or len(os.sched_getaffinity(0)), _MOST_WORKERS)
    wanted = Budget(
        workers, _UPLOADS, _READ_AHEAD, READ_SIZE, pack_size, 0, limit
    )
    return fit(wanted, cluster_size=cluster_size, codec=codec)


def fit(
    allowed: Budget,
    *,
    cluster_size: int,
    codec: codecs.Codec,
    clusters: int = 0,
    ranges: int = 0,
    shared: int = 0,
    spare: int = 0,
    index_bytes: int = 0,
) -> Budget:
    """Fit it again, now that it is known what there is to read.

    :param codec: the one that takes most memory, if it may change.
    :param clusters: with data.
    :param ranges: of data.
    :param shared: clusters in the packs that are built upon.
    :param spare: clusters in the packs that may be spares.
    :param index_bytes: of the parent's largest index.
    :raises InvalidValue: when not even one worker fits.
    """
    workers, uploads = allowed.workers, allowed.uploads
    read_ahead = allowed.read_ahead
    pack_size, limit = allowed.pack_size, allowed.limit
    codec_memory = _codec_memory(codec, cluster_size)
    while True:
        capturing = (
            2 * (workers + read_ahead) * allowed.read_size
            + workers * codec_memory
            + (uploads + 1) * (pack_size + cluster_size)
        )
        memory = (
            OVERHEAD
            + clusters * GATHERED_PER_CLUSTER
            + ranges * PER_RANGE
            + shared * SHARED_PER_CLUSTER
            + spare * SPARE_PER_CLUSTER
            + max(
                index_bytes * LOADING_PER_BYTE,
                capturing,
                clusters * ENCODING_PER_CLUSTER,
            )
        )
        if memory <= limit:
            return Budget(
                workers,
                uploads,
                read_ahead,
                allowed.read_size,
                pack_size,
                memory,
                limit,
            )
        if read_ahead > _LEAST_READ_AHEAD:
            read_ahead -= 1
        elif uploads > 1:
            uploads -= 1
        elif workers > 1:
            workers -= 1
        elif pack_size // 2 >= max(_SMALLEST_PACK, cluster_size):
            pack_size //= 2
        else:
            raise errors.InvalidValue(
                what='memory_limit',
                value=limit,
                reason=f'a capture of this disk takes at least {memory} '
                'bytes; give the ramdisk more memory or use larger clusters',
            )


@dataclasses.dataclass(frozen=True, slots=True)
class RestoreBudget:
    """What a restore may use.

    ``memory`` is the bound that follows, ``limit`` what it was to be kept
    under; both in bytes.
    """

    workers: int
    fetches: int
    read_ahead: int
    read_size: int
    memory: int
    limit: int

    @property
    def reads(self) -> int:
        """Reads of the disk in flight."""
        return self.workers + self.read_ahead


def plan_restore(
    manifest: manifests.Manifest,
    *,
    workers: int = 0,
    memory_limit: int = 0,
    proc: pathlib.Path = PROC,
) -> RestoreBudget:
    """Fit a restore into the memory there is.

    Reading ahead is given up first, then fetching at the same time, then
    workers.

    :param workers: the most workers wanted; 0: one for each processor.
    :param memory_limit: the most memory to use, in bytes; 0: half of what
        is available, and at most 1 GiB beside what the clusters take.
    :raises InvalidValue: when not even one worker fits.
    """
    size = manifest.cluster_size
    clusters = reader.count_clusters(manifest.disk.size, size)
    indexes = [each.index.size for each in manifest.attempts]
    kept = (
        OVERHEAD
        + sum(indexes) * INDEXED_PER_BYTE
        + clusters * RESTORED_PER_CLUSTER
        + ENDS * size
    )
    limit = memory_limit or _available(_AUTOMATIC_LIMIT + kept, proc)
    workers = min(workers or len(os.sched_getaffinity(0)), _MOST_WORKERS)
    fetches = min(2 * workers, MOST_FETCHES)
    read_ahead = _READ_AHEAD
    while True:
        memory = kept + max(
            max(indexes, default=0) * LOADING_PER_BYTE,
            (workers + read_ahead) * READ_SIZE,
            fetches * (snapshot_reader.MAX_READ + READ_SIZE + 3 * size)
            + READ_SIZE,
        )
        if memory <= limit:
            return RestoreBudget(
                workers, fetches, read_ahead, READ_SIZE, memory, limit
            )
        if read_ahead > _LEAST_READ_AHEAD:
            read_ahead -= 1
        elif fetches > 1:
            fetches -= 1
        elif workers > 1:
            workers -= 1
        else:
            raise errors.InvalidValue(
                what='memory_limit',
                value=limit,
                reason=f'a restore of this snapshot takes at least {memory} '
                'bytes; give the ramdisk more memory',
            )


# Private


def _codec_memory(codec: codecs.Codec, cluster_size: int) -> int:
    """What one worker's compression takes beside its clusters."""
    if isinstance(codec, codecs.ZstdCodec):
        parameters = zstandard.ZstdCompressionParameters.from_level(
            codec.level or codecs.ZSTD_LEVEL, source_size=cluster_size
        )
        context: int = parameters.estimated_compression_context_size()
        # The result is made in a buffer for the worst case, then copied.
        return context + cluster_size
    return _ZLIB_CONTEXT + cluster_size


def _automatic_limit(clusters: int, proc: pathlib.Path) -> int:
    return _available(
        _AUTOMATIC_LIMIT
        + clusters
        * (GATHERED_PER_CLUSTER + ENCODING_PER_CLUSTER + SHARED_PER_CLUSTER),
        proc,
    )


def _available(most: int, proc: pathlib.Path) -> int:
    """Give a share of the memory that is available, and no more than that."""
    for line in (proc / 'meminfo').read_text().splitlines():
        key, _, value = line.partition(':')
        if key == 'MemAvailable':
            available = int(value.split()[0]) * units.KiB
            return min(most, available // _SHARE_OF_AVAILABLE)
    return most
