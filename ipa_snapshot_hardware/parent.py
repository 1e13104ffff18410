# SPDX-License-Identifier: Apache-2.0
"""The snapshot that a capture builds upon: what need not be stored again.

Of the parent's packs those that are chosen are *shared*: their contents are
numbered from 0, pack after pack, and whatever the disk has of them is only
referred to::

    numbers   0 .. 511 | 512 .. 900 | 901 ..
    pack      A, 1     | A, 3       | B, 1
    slots     0 .. 511 | 700 .. 1088| 0 ..

Nothing is believed for being named by the conductor: each document must have
the digest that the one before it says, and make sense.
"""

import array
import bisect
import contextlib
import dataclasses
import functools
import itertools
import logging
import operator
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import committed
from ironic_snapshot_core import errors
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import pack as packing
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import arguments
from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware import request
from ipa_snapshot_hardware import reuse

LOG = logging.getLogger(__name__)

#: The store's answers that say that the parent cannot be had, not that the
#: store is out of order.
_UNUSABLE = (
    errors.InvalidValue,
    errors.InvalidName,
    errors.UnsupportedVersion,
    errors.UnsupportedFeature,
    errors.ObjectMissing,
    errors.ObjectTooLarge,
    errors.ObjectMismatch,
    errors.AccessDenied,
    errors.NotSupported,
)

_Key = tuple[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class ParentPack:
    """A pack of the parent.

    :param index: what is in it.
    :param first_slot: of the attempt, that is in it.
    :param first: number of its first content, if it is shared.
    """

    record: manifests.PackRecord
    index: indexes.IndexPack
    first_slot: int
    first: int


class Shared:
    """The packs that are shared, and those that may be spares.

    :param packs: in the order of their numbers.
    :param spares: not numbered; with digests of their own.
    """

    def __init__(
        self,
        packs: Iterable[ParentPack] = (),
        spares: Iterable[ParentPack] = (),
    ) -> None:
        self.packs = tuple(packs)
        self.spares = tuple(spares)
        self._firsts = [pack.first for pack in self.packs]
        # Of each attempt in the order of slots.
        self._slots: dict[str, list[ParentPack]] = {}
        for pack in self.packs:
            self._slots.setdefault(pack.record.attempt, []).append(pack)

    @property
    def size(self) -> int:
        """How many contents are numbered."""
        if not self.packs:
            return 0
        return self.packs[-1].first + len(self.packs[-1].index)

    def pack_of(self, number: int) -> ParentPack:
        """Give the pack that a content is in."""
        return self.packs[bisect.bisect_right(self._firsts, number) - 1]

    def number_of(self, attempt: str, slot: int) -> tuple[int, int] | None:
        """Find a slot among the contents.

        :returns: its number, and how many from there on follow in the same
            pack, it included; None when it is in no shared pack.
        """
        packs = self._slots.get(attempt, ())
        at = bisect.bisect_right(packs, slot, key=_first_slot) - 1
        if at < 0:
            return None
        pack = packs[at]
        position = slot - pack.first_slot
        if position >= len(pack.index):
            return None
        return pack.first + position, len(pack.index) - position

    def places(
        self, numbered: Iterable[tuple[int, int]], attempt: str
    ) -> Iterator[tuple[int, str, int, int]]:
        """Say where contents are.

        :param numbered: (cluster, number); most follow the one before.
        :param attempt: the one that stores the new ones.
        :returns: runs: (first cluster, attempt, first slot, count).
        """
        first = end = shift = 0
        name = attempt
        start = following = difference = 0
        for cluster, number in numbered:
            if (
                cluster == following
                and number - cluster == difference
                and number < end
            ):
                following += 1
                continue
            if start < following:
                slot = start + difference + shift
                yield start, name, slot, following - start
            start, following = cluster, cluster + 1
            difference = number - cluster
            if not first <= number < end:
                if number >= self.size:
                    first, end, name = self.size, 1 << 32, attempt
                    shift = -first
                else:
                    pack = self.pack_of(number)
                    first, end = pack.first, pack.first + len(pack.index)
                    name, shift = pack.record.attempt, pack.first_slot - first
        if start < following:
            yield start, name, start + difference + shift, following - start

    def records(
        self, content: contents.Content, cluster_size: int
    ) -> dict[_Key, manifests.PackRecord]:
        """Make the records of what the disk has of older packs."""
        used = content.used()
        found = {}
        for pack in self.packs:
            record = _used_record(pack, used, cluster_size)
            if record:
                found[record.attempt, record.name] = record
        doubled = bytearray(content.shared + content.new_clusters)
        # The latest first: of older copies only what they alone double.
        for pack in reversed(self.spares):
            record = _spare_record(pack, content, used, doubled)
            if record:
                found[record.attempt, record.name] = record
        return found


NOTHING = Shared()


class Parent:
    """The parent of a capture.

    :param manifest: its own.
    :param map_: of its disk.
    :param chosen: what of it is built upon.
    """

    def __init__(
        self,
        manifest: manifests.Manifest,
        map_: cluster_map.ClusterMap,
        chosen: reuse.Reuse,
    ) -> None:
        self.manifest = manifest
        self._map: cluster_map.ClusterMap | None = map_
        self._chosen = chosen
        self._wanted = chosen.shared | chosen.spares

    @property
    def id(self) -> str:
        """Of the snapshot."""
        return self.manifest.id

    @property
    def map(self) -> cluster_map.ClusterMap:
        """Of its disk."""
        if self._map is None:
            raise AssertionError('it was forgotten')
        return self._map

    def forget_map(self) -> None:
        """Give up the memory of the map."""
        self._map = None

    @functools.cached_property
    def shared_clusters(self) -> int:
        """Contents that are numbered."""
        return self._count(self._chosen.shared)

    @functools.cached_property
    def spare_clusters(self) -> int:
        """Contents of the packs that may be spares."""
        return self._count(self._chosen.spares)

    @property
    def index_bytes(self) -> int:
        """Size of the largest index that has to be loaded."""
        return max((each.index.size for each in self._attempts()), default=0)

    def load(
        self, store: stores.Store, content: contents.Content
    ) -> Shared:
        """Load what is in its packs.

        :param content: empty; takes in what is shared.
        :raises ParentUnsuitable: an index is missing or damaged.
        :raises StoreError: the store does not answer.
        """
        packs: list[ParentPack] = []
        spares: list[ParentPack] = []
        number = 0
        documents = committed.DocumentReader(store, self.manifest)
        with _told_of(self.id):
            for attempt in self._attempts():
                for record, pack, slot in self._wanted_of(
                    documents.read_attempt(attempt)
                ):
                    if (attempt.id, pack.name) not in self._chosen.shared:
                        spares.append(ParentPack(record, pack, slot, 0))
                        continue
                    content.load(pack.digests)
                    # The content has the digests now.
                    pack = dataclasses.replace(
                        pack,
                        digests=content.shared_digests(number, len(pack)),
                    )
                    packs.append(ParentPack(record, pack, slot, number))
                    number += len(pack)
        return Shared(packs, spares)

    # Private

    def _attempts(self) -> list[manifests.AttemptRecord]:
        """Those of which any pack is of use."""
        wanted = {attempt for attempt, _ in self._wanted}
        return [each for each in self.manifest.attempts if each.id in wanted]

    def _count(self, keys: Iterable[_Key]) -> int:
        keys = frozenset(keys)
        return sum(
            pack.clusters
            for pack in self.manifest.packs
            if (pack.attempt, pack.name) in keys
        )

    def _wanted_of(
        self, attempt: committed.Attempt
    ) -> Iterator[tuple[manifests.PackRecord, indexes.IndexPack, int]]:
        """Give the packs that are of use, and their first slots."""
        for number, record in sorted(
            attempt.packs.items(), key=operator.itemgetter(0)
        ):
            if (record.attempt, record.name) in self._wanted:
                yield (
                    record,
                    attempt.index.packs[number],
                    attempt.index.slots_of(number).start,
                )


def find(
    store: stores.Store,
    wanted: request.CaptureRequest,
    asked: request.ParentRequest,
    pack_size: int,
    readable: Callable[[str], bool],
) -> Parent:
    """Read what is needed of the parent to decide; not its indexes yet.

    :param pack_size: that the packs of this capture will have, in bytes.
    :param readable: whether the grant permits to read below a prefix.
    :raises ParentUnsuitable: it cannot be built upon.
    :raises InvalidValue: it could be, but the grant does not permit it.
    :raises StoreError: the store does not answer.
    """
    with _told_of(asked.snapshot):
        name = layout.manifest_name(asked.lineage, asked.snapshot)
        data = committed.read(store, name, asked.size, asked.digest)
        manifest = manifests.Manifest.from_bytes(data, None, verified=True)
    _check(manifest, wanted, asked)
    for prefix in manifest.attempt_prefixes:
        if not readable(prefix):
            raise arguments.not_permitted('GET', prefix)
    with _told_of(asked.snapshot):
        map_ = committed.DocumentReader(store, manifest).read_map()
    chosen = reuse.choose(manifest, pack_size, wanted.redundancy)
    for (attempt, name), reason in chosen.reasons.items():
        LOG.debug('Storing %s of %s again: %s', name, attempt, reason)
    return Parent(manifest, map_, chosen)


# Private


@contextlib.contextmanager
def _told_of(snapshot: str) -> Iterator[None]:
    """Make one error of all that say that a parent cannot be had."""
    try:
        yield
    except errors.Corrupted as error:
        raise errors.ParentUnsuitable(
            snapshot, f'{error.what} is damaged: {error.reason}'
        ) from error
    except _UNUSABLE as error:
        raise errors.ParentUnsuitable(
            snapshot, f'it cannot be read: {error}'.rstrip('.')
        ) from error


def _check(
    manifest: manifests.Manifest,
    wanted: request.CaptureRequest,
    asked: request.ParentRequest,
) -> None:
    for good, reason in (
        (
            (manifest.id, manifest.lineage) == (asked.snapshot, asked.lineage),
            'its manifest is of another snapshot',
        ),
        (manifest.id != wanted.snapshot, 'it is this very snapshot'),
        (
            manifest.cluster_size == wanted.cluster_size,
            f'its clusters have {manifest.cluster_size} bytes instead of '
            f'{wanted.cluster_size}',
        ),
        (
            manifest.codec == wanted.codec.id,
            f'it is compressed by {manifest.codec} instead of '
            f'{wanted.codec.id}',
        ),
        (
            manifest.digest == wanted.digest.id,
            f'its digests are {manifest.digest} instead of '
            f'{wanted.digest.id}',
        ),
    ):
        if not good:
            raise errors.ParentUnsuitable(asked.snapshot, reason)


def _first_slot(pack: ParentPack) -> int:
    return pack.first_slot


def _used_record(
    pack: ParentPack, used: bytearray, cluster_size: int
) -> manifests.PackRecord | None:
    """Cut a pack to what the disk has of it.

    Not to less than a pack has at least: Swift serves smaller parts of an
    image at one per second.
    """
    first, end = pack.first, pack.first + len(pack.index)
    start = used.find(1, first, end)
    if start < 0:
        return None
    stop = used.rfind(1, first, end) + 1
    offsets = pack.index.offsets
    begin = offsets[start - first] // cluster_size * cluster_size
    finish = -(-offsets[stop - first] // cluster_size) * cluster_size
    least = -(-packing.MIN_SIZE // cluster_size) * cluster_size
    finish = min(max(finish, begin + least), pack.record.size)
    begin = max(min(begin, finish - least), 0)
    return dataclasses.replace(
        pack.record,
        live_bytes=sum(itertools.compress(_lengths(pack), used[first:end])),
        start=begin,
        length=finish - begin,
        generations=pack.record.generations + 1,
    )


def _spare_record(
    pack: ParentPack,
    content: contents.Content,
    used: bytearray,
    doubled: bytearray,
) -> manifests.PackRecord | None:
    """Keep a pack for what it holds second copies of, if that is enough."""
    size = len(pack.index.digests) // len(pack.index)
    digests = memoryview(pack.index.digests)
    live = 0
    numbers = []
    for position, length in enumerate(_lengths(pack)):
        number = content.find(
            bytes(digests[position * size : (position + 1) * size])
        )
        if (
            number is not None
            and not doubled[number]
            and (number >= content.shared or used[number])
        ):
            live += length
            numbers.append(number)
    if 2 * live < pack.index.offsets[-1]:
        return None
    for number in numbers:
        doubled[number] = 1
    return dataclasses.replace(
        pack.record,
        live_bytes=live,
        start=0,
        length=0,
        generations=pack.record.generations + 1,
    )


def _lengths(pack: ParentPack) -> Iterator[int]:
    offsets: array.array[int] = pack.index.offsets
    return map(operator.sub, offsets[1:], offsets[:-1])
