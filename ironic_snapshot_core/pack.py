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
import typing

from ironic_snapshot_core import buffers
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

    :param data: parts of the room that it was built in, each a multiple of
        the cluster size.
    :param order: for each position in the pack, as which cluster it had
        been added, counted from 0.
    :param entries: in pack order.
    """

    data: buffers.Buffers
    order: tuple[int, ...]
    entries: tuple[PackEntry, ...]


def room_needed(cluster_size: int, target_size: int) -> int:
    """Tell how much room a pack is built in, in bytes."""
    return _pack_size(target_size, cluster_size) + cluster_size


def _pack_size(size: int, cluster_size: int) -> int:
    """Tell the size of a pack from that of all that is in it."""
    return -(-max(size, MIN_SIZE) // cluster_size) * cluster_size


class PackBuilder:
    """Collects clusters until there are enough for a pack.

    Each is copied once, to where it stays. How many raw ones there will be
    is not known before the end, so they grow from the end of the room
    towards the beginning::

        room | blob blob blob ->      <- raw raw |
        pack = raw raw, blob blob blob, zeroes

    :param cluster_size: in bytes.
    :param target_size: in bytes; the pack is full from there on.
    :param room: :func:`room_needed` bytes to build it in. Used again and
        again it is best, because getting new memory takes ten times longer
        than copying. None: new memory.
    """

    def __init__(self, cluster_size: int, target_size: int = TARGET_SIZE,
                 room: memoryview | None = None) -> None:
        if not cluster_size <= target_size <= MAX_SIZE:
            raise errors.InvalidValue(
                'pack size', target_size,
                f'it is not in {cluster_size}..{MAX_SIZE}')
        needed = room_needed(cluster_size, target_size)
        if room is None:
            room = memoryview(bytearray(needed))
        if len(room) < needed:
            raise errors.InvalidValue(
                'room for a pack', len(room), f'it takes {needed} bytes')
        self._cluster_size = cluster_size
        self._target_size = target_size
        self._room = room
        # (as which it was added, entry)
        self._raw: list[tuple[int, PackEntry]] = []
        self._compressed: list[tuple[int, PackEntry]] = []
        # The free part of the room.
        self._start, self._end = 0, len(room)

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
        item = len(self), PackEntry(digest, length, compressed)
        if compressed:
            start = self._start
            self._start += length
            self._compressed.append(item)
        else:
            self._end -= length
            start = self._end
            self._raw.append(item)
        buffers.copy(self._room, start, blob_or_raw)

    def build(self) -> BuiltPack:
        """Make the pack; nothing more is added then.

        :raises InvalidValue: there are no clusters.
        """
        items = [*reversed(self._raw), *self._compressed]
        if not items:
            raise errors.InvalidValue('pack', '(empty)', 'it has no cluster')
        size = _pack_size(self._size, self._cluster_size)
        start = self._start
        end = start + size - self._size
        self._room[start:end] = bytes(end - start)
        room = self._room.toreadonly()
        return BuiltPack(
            buffers.Buffers((room[self._end:], room[:end])),
            tuple(number for number, _ in items),
            tuple(entry for _, entry in items))

    # Private

    @property
    def _size(self) -> int:
        return len(self._room) - self._end + self._start


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
