# SPDX-License-Identifier: Apache-2.0
"""Packs: one object that holds many clusters.

::

    | raw | raw | raw |blob|blob|b|blob| zeroes |
    0     C     2C    3C                       n*C

Clusters that do not compress come first, each at a multiple of the cluster
size C, as qcow2 wants them; then the compressed ones back to back. A pack is
a part of a qcow2 image, so its size is a multiple of C.
"""

import dataclasses
import mmap
import typing

from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import errors
from ironic_snapshot_core.units import GiB, MiB

#: Large enough that an object's fixed costs do not count, small enough to
#: be kept in memory by each worker.
TARGET_SIZE = 64 * MiB

#: Swift serves smaller segments of an image at one per second.
MIN_SIZE = 1 * MiB

#: Offsets in a pack are kept in 32 bits.
MAX_SIZE = 4 * GiB - 4 * MiB


@dataclasses.dataclass(frozen=True, slots=True)
class PackEntry:
    """A cluster in a pack.

    :param digest: of the plaintext.
    :param length: in the pack, in bytes.
    """

    digest: bytes
    length: int
    compressed: bool


@dataclasses.dataclass(frozen=True, slots=True)
class BuiltPack:
    """A pack ready to be stored.

    :param data: in the buffer that was given to build it in.
    :param order: for each position in the pack, as which cluster it had
        been added, counted from 0.
    :param entries: in pack order.
    """

    data: memoryview
    order: tuple[int, ...]
    entries: tuple[PackEntry, ...]


def room_needed(cluster_size: int, target_size: int) -> int:
    """Tell how large a pack can become, in bytes."""
    size = -(-target_size // cluster_size) * cluster_size + cluster_size
    return max(size, -(-MIN_SIZE // cluster_size) * cluster_size)


class PackBuilder:
    """Collects clusters until there are enough for a pack.

    They are copied into memory of its own, and from there into the pack:
    both are large buffers that are used again and again, because getting
    new memory takes ten times longer than copying.

    :param cluster_size: in bytes.
    :param target_size: in bytes; the pack is full from there on.
    """

    def __init__(self, cluster_size: int,
                 target_size: int = TARGET_SIZE) -> None:
        if not cluster_size <= target_size <= MAX_SIZE:
            raise errors.InvalidValue(
                'pack size', target_size,
                f'it is not in {cluster_size}..{MAX_SIZE}')
        self._cluster_size = cluster_size
        self._target_size = target_size
        self._gathered = memoryview(
            mmap.mmap(-1, target_size + cluster_size))
        # (as which it was added, start in the memory above, entry)
        self._raw: list[tuple[int, int, PackEntry]] = []
        self._compressed: list[tuple[int, int, PackEntry]] = []
        self._size = 0

    def __len__(self) -> int:
        return len(self._raw) + len(self._compressed)

    @property
    def full(self) -> bool:
        return self._size >= self._target_size

    def add(self, blob_or_raw: bytes | memoryview, digest: bytes,
            compressed: bool) -> None:
        """Add a cluster to a pack that is not full.

        :param blob_or_raw: what a codec made of it, or, when that gave
            None, the whole cluster. It is copied.
        :param digest: of the plaintext.
        :raises InvalidValue: its length is impossible.
        """
        length = len(blob_or_raw)
        fits = (0 < length < self._cluster_size if compressed
                else length == self._cluster_size)
        if not fits:
            raise errors.InvalidValue(
                'length of a cluster in a pack', length,
                f'the cluster size is {self._cluster_size}')
        items = self._compressed if compressed else self._raw
        items.append((len(self), self._size,
                      PackEntry(digest, length, compressed)))
        self._gathered[self._size:self._size + length] = blob_or_raw
        self._size += length

    def build(self, room: memoryview | None = None) -> BuiltPack:
        """Make the pack, and forget the clusters.

        :param room: where to; :func:`room_needed` bytes will do. None: in
            new memory.
        :raises InvalidValue: there are no clusters.
        """
        items = self._raw + self._compressed
        if not items:
            raise errors.InvalidValue('pack', '(empty)', 'it has no cluster')
        size = max(self._size, MIN_SIZE)
        size = -(-size // self._cluster_size) * self._cluster_size
        data = memoryview(bytearray(size)) if room is None else room[:size]
        end = 0
        for _, start, entry in items:
            data[end:end + entry.length] = \
                self._gathered[start:start + entry.length]
            end += entry.length
        data[end:] = bytes(size - end)
        self._raw, self._compressed, self._size = [], [], 0
        return BuiltPack(
            data.toreadonly(),
            tuple(number for number, _, _ in items),
            tuple(entry for _, _, entry in items))


def offsets(entries: typing.Iterable[PackEntry], cluster_size: int
            ) -> list[int]:
    """Tell where in the pack each entry is.

    :raises InvalidValue: no pack has such entries.
    """
    found = []
    offset = 0
    seen_compressed = False
    for entry in entries:
        seen_compressed |= entry.compressed
        if not entry.compressed and (seen_compressed
                                     or entry.length != cluster_size):
            raise errors.InvalidValue(
                'pack entry', entry, 'raw clusters come first and are whole')
        found.append(offset)
        offset += entry.length
    return found


def read_cluster(entry: PackEntry, blob: bytes, codec: codecs.Codec,
                 digest: digests.Digest, cluster_size: int) -> bytes:
    """Turn what is in a pack back into a cluster, and verify it.

    :param blob: the entry's bytes from the pack.
    :raises Corrupted: it is not the cluster the entry tells of.
    """
    what = f'cluster {entry.digest.hex()}'
    if len(blob) != entry.length:
        raise errors.Corrupted(
            what, f'it has {len(blob)} bytes instead of {entry.length}')
    if entry.compressed:
        try:
            data = codec.decompress(blob, cluster_size)
        except errors.Corrupted as e:
            raise errors.Corrupted(what, e.reason) from None
    else:
        data = blob
    if len(data) != cluster_size:
        raise errors.Corrupted(
            what, f'it has {len(data)} bytes instead of {cluster_size}')
    if digest.digest(data) != entry.digest:
        raise errors.Corrupted(what, 'its digest does not match')
    return data
