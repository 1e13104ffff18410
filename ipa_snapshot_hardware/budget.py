# SPDX-License-Identifier: Apache-2.0
"""How many threads and how large a pack the memory allows.

A ramdisk lives in the memory it works in, so a capture keeps to a stated
bound, all in bytes::

    memory = OVERHEAD + clusters * GATHERED_PER_CLUSTER
           + the larger of capturing and encoding

    capturing = (workers + 3) * read_size + reads * cluster_size
              + workers * codec_memory
              + (uploads + 1) * (pack_size + cluster_size)
    encoding  = clusters * ENCODING_PER_CLUSTER

    reads = workers + 2: one at each worker, one read ahead, one collected;
    the reader's own buffer makes it workers + 3
    uploads + 1: a pack at each uploader, or about to be, and the clusters
    that are gathered for the next
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
# Kept between the reader and the collector beside what the workers hold.
_READ_AHEAD = 2
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
# Numbers, slots, digests (twice: to find equal ones, and by pack), offsets and
# a table that is at least 3/8 full; measured 86 bytes and calculated 91.
GATHERED_PER_CLUSTER = 96
# The same once more, as index, then as map, then as head; measured 77 bytes
# for the index, which is the largest.
ENCODING_PER_CLUSTER = 96
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
    read_size: int
    pack_size: int
    memory: int
    limit: int

    @property
    def reads(self) -> int:
        """Reads in flight."""
        return self.workers + _READ_AHEAD


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
    """Fit a capture into the memory there is.

    Uploads are given up first, then workers, then the size of packs.

    :param pack_size: wanted size of a pack in bytes.
    :param workers: the most workers wanted; 0: one for each processor.
    :param memory_limit: the most memory to use, in bytes; 0: half of what
        is available, and at most 1 GiB beside what the clusters take.
    :raises InvalidValue: when not even one worker fits.
    """
    clusters = reader.count_clusters(disk_size, cluster_size)
    limit = memory_limit or _automatic_limit(clusters, proc)
    codec_memory = _codec_memory(codec, cluster_size)
    workers = min(workers or len(os.sched_getaffinity(0)), _MOST_WORKERS)
    uploads = _UPLOADS
    while True:
        memory = _bound(
            workers, uploads, pack_size, cluster_size, clusters, codec_memory
        )
        if memory <= limit:
            return Budget(
                workers, uploads, READ_SIZE, pack_size, memory, limit
            )
        if uploads > 1:
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


def _bound(
    workers: int,
    uploads: int,
    pack_size: int,
    cluster_size: int,
    clusters: int,
    codec_memory: int,
) -> int:
    reads = workers + _READ_AHEAD
    capturing = (
        (reads + 1) * READ_SIZE
        + reads * cluster_size
        + workers * codec_memory
        + (uploads + 1) * (pack_size + cluster_size)
    )
    encoding = clusters * ENCODING_PER_CLUSTER
    gathered = clusters * GATHERED_PER_CLUSTER
    return OVERHEAD + gathered + max(capturing, encoding)


def _automatic_limit(clusters: int, proc: pathlib.Path) -> int:
    limit = _AUTOMATIC_LIMIT + clusters * (
        GATHERED_PER_CLUSTER + ENCODING_PER_CLUSTER
    )
    for line in (proc / 'meminfo').read_text().splitlines():
        key, _, value = line.partition(':')
        if key == 'MemAvailable':
            available = int(value.split()[0]) * units.KiB
            limit = min(limit, available // _SHARE_OF_AVAILABLE)
    return limit
