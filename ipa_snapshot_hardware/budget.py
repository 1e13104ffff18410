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
    reads = workers + 4: one at each worker, others read ahead or collected;
    each takes its buffer, and what is made of it as much again
    uploads + 1: rooms for packs, one at each uploader and one that is being
    filled; each has the size of a pack, rounded up to whole clusters, and
    one cluster more

With 2 workers and 256 KiB clusters that is 270 MiB and, beyond those, 52
bytes for each cluster with data and 43 for each of the parent's: less than 400
MiB for 350 GB of data in a disk and in its parent. It is fitted again when the
disk was looked at and the parent is known.
"""

import dataclasses
import os
import pathlib

import zstandard

from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import errors
from ironic_snapshot_core import units
from ipa_snapshot_hardware import reader

PROC = pathlib.Path('/proc')

# Large enough for a disk to stream, small enough to balance the workers.
READ_SIZE = 4 * units.MiB
# Kept between the reader and the collector beside what the workers hold: one
# read ahead, one collected, and more so that a worker need not wait while the
# other has the harder clusters.
_READ_AHEAD = 4
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
# Digest, cluster, slot, offset and a table that is at most 5/6 full: 32 + 4 +
# 4 + 4 + 24/5 bytes, and what there is for each pack; measured 50.
GATHERED_PER_CLUSTER = 52
# The digests once more, as index; the map and the head take less.
ENCODING_PER_CLUSTER = 56
# Digest, offset, a place in the table, whether it is used, and what there is
# for each pack: 32 + 4 + 24/5 + 1 bytes.
SHARED_PER_CLUSTER = 43
# Digest and offset, and whether there is a second copy of it and of one other.
SPARE_PER_CLUSTER = 40
# An index as stored, unpacked, and cut into its packs; measured 3.4.
LOADING_PER_BYTE = 4
# Start and end, and for the second look first cluster and count.
PER_RANGE = 26
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
    limit = _AUTOMATIC_LIMIT + clusters * (
        GATHERED_PER_CLUSTER + ENCODING_PER_CLUSTER + SHARED_PER_CLUSTER
    )
    for line in (proc / 'meminfo').read_text().splitlines():
        key, _, value = line.partition(':')
        if key == 'MemAvailable':
            available = int(value.split()[0]) * units.KiB
            limit = min(limit, available // _SHARE_OF_AVAILABLE)
    return limit
