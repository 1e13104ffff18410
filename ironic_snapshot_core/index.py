# SPDX-License-Identifier: Apache-2.0
"""What one attempt stored: for each of its packs, the clusters in it.

A cluster's **slot** is its ordinal over all packs of the attempt in order.
Only an attempt's *new* clusters are here; a snapshot's map tells which slots
of which attempts make up the disk.

In memory a cluster takes 4 bytes for its offset and the digest's 32; there
is no object for each.
"""

import array
import bisect
import dataclasses
import functools
import itertools
import operator
import struct
import typing
import uuid

from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import envelope
from ironic_snapshot_core import errors
from ironic_snapshot_core import geometry
from ironic_snapshot_core import layout
from ironic_snapshot_core import pack as packs

MAGIC = b'ISIX'
VERSION = 1

#: 16 TiB in clusters of 256 KiB. Callers who know the disk give less.
MAX_CLUSTERS = 2 ** 26

# attempt, cluster size, codec id, digest id, packs, clusters
_HEADER = struct.Struct('<16sI16s16sII')


class Slot(typing.NamedTuple):
    """Where a cluster is.

    :param pack: ordinal of the pack in the attempt, from 0.
    :param offset: in the pack, in bytes.
    :param length: in the pack, in bytes.
    :param digest: of the plaintext.
    """

    pack: int
    offset: int
    length: int
    compressed: bool
    digest: bytes


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class IndexPack:
    """The clusters of one pack.

    :param name: inside the attempt.
    :param raw_count: clusters that are not compressed; they come first.
    :param offsets: of each cluster in the pack, and of the end of the last.
    :param digests: of all of them, one after the other.
    """

    name: str
    raw_count: int
    offsets: 'array.array[int]'
    digests: bytes | memoryview

    @classmethod
    def of(cls, name: str, entries: typing.Sequence[packs.PackEntry],
           digests: memoryview | None = None) -> 'IndexPack':
        """Take a pack's entries, in pack order.

        :param digests: of the entries, if they are in memory already.
        :raises InvalidValue: no pack can have them.
        """
        if not entries:
            raise errors.InvalidValue('pack', name, 'it has no cluster')
        compressed = [entry.compressed for entry in entries]
        raw_count = compressed.count(False)
        if True in compressed[:raw_count]:
            raise errors.InvalidValue(
                'pack', name, 'raw clusters do not come first')
        # A list, as its length is known: an array grows by more than it needs.
        ends = list(itertools.accumulate(
            [entry.length for entry in entries], initial=0))
        if digests is None:
            digests = memoryview(
                b''.join(entry.digest for entry in entries))
        return cls(
            name, raw_count, array.array(envelope.U32, ends), digests)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def entry(self, position: int) -> packs.PackEntry:
        """Give an entry by its position in the pack, from 0."""
        size = len(self.digests) // len(self)
        return packs.PackEntry(
            bytes(self.digests[position * size:(position + 1) * size]),
            self.offsets[position + 1] - self.offsets[position],
            position >= self.raw_count)

    @property
    def entries(self) -> typing.Iterator[packs.PackEntry]:
        """All entries in pack order, made on the way."""
        return (self.entry(position) for position in range(len(self)))


@dataclasses.dataclass(frozen=True)
class Index:
    """The index of an attempt.

    :param attempt: UUID.
    :param cluster_size: in bytes.
    :param codec: id.
    :param digest: id.
    :param packs: in the order of their numbers.
    """

    attempt: str
    cluster_size: int
    codec: str
    digest: str
    packs: tuple[IndexPack, ...]

    def __post_init__(self) -> None:
        layout.validate_uuid(self.attempt)
        geometry.validate_cluster_size(self.cluster_size)
        codecs.validate_id(self.codec)
        size = digests.get_digest(self.digest).size
        last = 0
        for pack in self.packs:
            number = layout.parse_pack_name(pack.name)
            if number <= last:
                raise errors.InvalidValue(
                    'pack', pack.name, 'the packs are out of order')
            last = number
            _check_pack(pack, self.cluster_size, size)

    def __len__(self) -> int:
        """Number of clusters."""
        return self._first_slots[-1]

    def lookup(self, slot: int) -> Slot:
        """Tell where a cluster is.

        :raises Corrupted: there is no such slot: the map that names it does
            not belong to this index.
        """
        if not 0 <= slot < len(self):
            raise errors.Corrupted(
                f'index of attempt {self.attempt}',
                f'it has {len(self)} slots, but slot {slot} is referred to')
        number = bisect.bisect_right(self._first_slots, slot) - 1
        pack = self.packs[number]
        position = slot - self._first_slots[number]
        size = self._digest_size
        offset = pack.offsets[position]
        return Slot(
            number, offset, pack.offsets[position + 1] - offset,
            position >= pack.raw_count,
            bytes(pack.digests[position * size:(position + 1) * size]))

    def slots_of(self, pack: int) -> range:
        """Give the slots of a pack by its ordinal in the attempt."""
        return range(self._first_slots[pack], self._first_slots[pack + 1])

    # Private

    @functools.cached_property
    def _first_slots(self) -> list[int]:
        """The first slot of each pack, and the number of all."""
        return list(itertools.accumulate(
            (len(pack) for pack in self.packs), initial=0))

    @functools.cached_property
    def _digest_size(self) -> int:
        return digests.get_digest(self.digest).size


def encode(index: Index) -> bytes:
    """Turn an index into bytes."""
    header = _HEADER.pack(
        uuid.UUID(index.attempt).bytes, index.cluster_size,
        index.codec.encode(), index.digest.encode(),
        len(index.packs), len(index))
    numbers = array.array(envelope.U32, (
        layout.parse_pack_name(pack.name) for pack in index.packs))
    counts = array.array(envelope.U32, map(len, index.packs))
    raw_counts = array.array(
        envelope.U32, (pack.raw_count for pack in index.packs))
    lengths = array.array(envelope.U32)
    for pack in index.packs:
        lengths.extend(array.array(envelope.U32, map(
            operator.sub, pack.offsets[1:], pack.offsets[:-1])))
    payload: list[bytes | memoryview] = [
        envelope.column(each)
        for each in (numbers, counts, raw_counts, lengths)]
    payload += [pack.digests for pack in index.packs]
    return envelope.wrap(MAGIC, VERSION, header, payload)


def decode(data: bytes, max_clusters: int = MAX_CLUSTERS) -> Index:
    """Turn bytes back into an index.

    :param max_clusters: more are refused before memory is taken for them.
    :raises Corrupted: any bit is not as it was written, or it makes no
        sense.
    :raises UnsupportedVersion: a newer release wrote it.
    :raises UnsupportedFeature: likewise.
    """
    reader = envelope.Reader(data, MAGIC, VERSION, 'index')
    attempt, cluster_size, codec, digest, pack_count, count = \
        reader.unpack(_HEADER)
    if count > max_clusters or pack_count > min(count, layout.MAX_PACKS):
        raise reader.corrupted(
            f'it has {count} clusters in {pack_count} packs, at most '
            f'{max_clusters} clusters are allowed')
    digest_id = _text(reader, digest)
    size = digests.get_digest(digest_id).size
    reader.open(pack_count * 12 + count * (4 + size))
    numbers = reader.column(envelope.U32, pack_count)
    counts = reader.column(envelope.U32, pack_count)
    raw_counts = reader.column(envelope.U32, pack_count)
    if sum(counts) != count:
        raise reader.corrupted('its packs do not have as many clusters as it')
    lengths = reader.column(envelope.U32, count)
    found = []
    start = 0
    try:
        for number, in_pack, raw_count in zip(
                numbers, counts, raw_counts, strict=True):
            ends = list(itertools.accumulate(
                lengths[start:start + in_pack], initial=0))
            found.append(IndexPack(
                layout.pack_name(number), raw_count,
                array.array(envelope.U32, ends),
                reader.take(in_pack * size)))
            start += in_pack
        return Index(str(uuid.UUID(bytes=typing.cast(bytes, attempt))),
                     cluster_size, _text(reader, codec), digest_id,
                     tuple(found))
    except OverflowError:
        raise reader.corrupted('a pack is too large') from None
    except (errors.InvalidValue, errors.InvalidName) as e:
        raise reader.corrupted(str(e).rstrip('.')) from e


# Private

def _text(reader: envelope.Reader, value: typing.Any) -> str:
    try:
        return typing.cast(bytes, value).rstrip(b'\0').decode('ascii')
    except UnicodeDecodeError:
        raise reader.corrupted('an id is no text') from None


def _check_pack(pack: IndexPack, cluster_size: int,
                digest_size: int) -> None:
    """Refuse what no pack can have.

    :raises InvalidValue: it is that.
    """
    offsets = pack.offsets
    count = len(offsets) - 1
    good = (count >= 1
            and 0 <= pack.raw_count <= count
            and len(pack.digests) == count * digest_size
            and offsets[0] == 0
            and offsets[-1] <= packs.MAX_SIZE
            and offsets[pack.raw_count] == pack.raw_count * cluster_size)
    if good:
        lengths = array.array('q', map(
            operator.sub, offsets[1:], offsets[:-1]))
        raw, rest = lengths[:pack.raw_count], lengths[pack.raw_count:]
        good = ((not raw or min(raw) == max(raw) == cluster_size)
                and (not rest or 0 < min(rest) <= max(rest) < cluster_size))
    if not good:
        raise errors.InvalidValue(
            'pack', pack.name, 'its clusters do not fit together')
