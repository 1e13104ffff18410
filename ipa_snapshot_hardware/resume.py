# SPDX-License-Identifier: Apache-2.0
"""Going on with an attempt that was interrupted.

While a capture runs, it writes checkpoints. One that begins looks for those
of its own attempt, and goes on behind them when they fit: the same disk, the
same clusters, the same compression, the packs still there. If they do not,
it starts afresh: the same attempt's packs are written over, from the first.
"""

import dataclasses
import functools
import logging
from collections.abc import Iterator
from collections.abc import Sequence

import blake3

from ironic_snapshot_core import checkpoint as formats
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import errors
from ironic_snapshot_core import extent
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core import units
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import packer
from ipa_snapshot_hardware import parent as parents
from ipa_snapshot_hardware import request

LOG = logging.getLogger(__name__)

# Seldom enough to cost nothing, often enough to lose little; with shorter
# slices, as often as them.
INTERVAL_S = 60

# Packs that are looked at before going on; all of them are at the end.
_PACKS_CHECKED = 16


@dataclasses.dataclass(frozen=True)
class Plan:
    """What two runs of one capture must have in common.

    :param disk_size: in bytes.
    :param extents: digest of what is to be read, and of what it builds upon.
    """

    wanted: request.CaptureRequest
    disk_size: int
    extents: bytes

    @property
    def clusters(self) -> int:
        return -(-self.disk_size // self.wanted.cluster_size)


@dataclasses.dataclass(frozen=True, slots=True)
class Found:
    """Checkpoints to go on behind.

    :param last: digest of the last of them.
    """

    checkpoints: tuple[formats.Checkpoint, ...] = ()
    last: bytes = formats.NONE_BEFORE

    @property
    def next_cluster(self) -> int:
        """The first cluster that is not stored yet."""
        return self.checkpoints[-1].next_cluster if self.checkpoints else 0

    @property
    def unreadable(self) -> list[tuple[int, int]]:
        """Runs that could not be read: (start, end) in bytes."""
        merged: list[tuple[int, int]] = []
        for each in self.checkpoints:
            for run in each.unreadable:
                start, end = run.start, run.start + run.length
                if merged and merged[-1][1] == start:
                    start, _ = merged.pop()
                merged.append((start, end))
        return merged


def digest_of(extents: extent.DataExtents, basis: str = '') -> bytes:
    """Give the digest of what is to be read of a disk.

    :param basis: says what the capture builds upon.
    """
    hasher = blake3.blake3(basis.encode())
    for start, end in extents:
        hasher.update(b'%d-%d\n' % (start, end))
    return hasher.digest()


def find(
    store: stores.Store, plan: Plan, shared: parents.Shared
) -> Found:
    """Find the checkpoints to go on behind; none: start afresh.

    :param shared: what the capture builds upon.
    :raises StoreError: the store cannot be asked.
    """
    found = Found()
    try:
        for data, each in _read(store, plan, shared):
            found = Found((*found.checkpoints, each), formats.digest(data))
        _check_packs(store, plan.wanted.prefix, found.checkpoints)
    except errors.NotSupported:
        # A grant for storing alone.
        return Found()
    except (
        errors.Corrupted,
        errors.UnsupportedVersion,
        errors.UnsupportedFeature,
        errors.ObjectTooLarge,
    ) as error:
        LOG.warning('Starting the capture afresh: %s', error)
        return Found()
    if found.checkpoints:
        LOG.info(
            'Going on at cluster %d of %d, behind %d checkpoints',
            found.next_cluster,
            plan.clusters,
            len(found.checkpoints),
        )
    return found


def restore(
    found: Found,
    content: contents.Content,
    shared: parents.Shared,
    packs: packer.Packer,
) -> None:
    """Take in what is stored."""
    slots = 0
    for each in found.checkpoints:
        first = slots
        slots += len(each.index)
        content.restore(
            _numbered(each, shared),
            b''.join(pack.digests for pack in each.index.packs),
        )
        index_packs = []
        for pack in each.index.packs:
            index_packs.append(
                dataclasses.replace(
                    pack, digests=content.digests(first, len(pack))
                )
            )
            first += len(pack)
        packs.restore(
            packer.Mark(
                packs=int(each.index.packs[-1].name[-6:]),
                next_cluster=each.next_cluster,
                data_clusters=content.data_clusters,
                slots=slots,
            ),
            index_packs,
            each.packs,
        )


class Writer:
    """Writes checkpoints, one at a time, in the order of their numbers.

    :param found: those that are there already.
    """

    def __init__(
        self,
        store: stores.Store,
        plan: Plan,
        clock: clocks.Clock,
        threads: executor.Executor,
        content: contents.Content,
        shared: parents.Shared,
        packs: packer.Packer,
        found: Found,
    ) -> None:
        self._store = store
        self._plan = plan
        self._clock = clock
        self._threads = threads
        self._content = content
        self._shared = shared
        self._packs = packs
        self._before = found.last
        self._count = len(found.checkpoints)
        self._mark = packs.stored_mark()
        self._last = clock.monotonic()
        self._interval_s = min(INTERVAL_S, plan.wanted.slice_seconds)
        self._writing = False

    @property
    def count(self) -> int:
        """Checkpoints there are."""
        return self._count

    def write_sometimes(self, unreadable: Sequence[tuple[int, int]]) -> None:
        """Write a checkpoint if it is time to, and there is something new.

        :param unreadable: (start, end) of all there is so far.
        """
        now = self._clock.monotonic()
        if self._writing or now - self._last < self._interval_s:
            return
        mark = self._packs.stored_mark()
        if mark == self._mark or self._count == layout.MAX_CHECKPOINTS:
            return
        self._last = now
        self._writing = True
        data = formats.encode(self._make(mark, unreadable))
        self._mark = mark
        self._count += 1
        self._before = formats.digest(data)
        name = layout.checkpoint_name(self._count)
        self._threads.send(functools.partial(self._put, name, data))

    # Private

    def _put(self, name: str, data: bytes) -> None:
        self._store.put(self._plan.wanted.prefix + name, data)
        self._writing = False

    def _make(
        self, mark: packer.Mark, unreadable: Sequence[tuple[int, int]]
    ) -> formats.Checkpoint:
        wanted = self._plan.wanted
        size = wanted.cluster_size
        index_packs, records = self._packs.stored_packs(
            self._mark.packs, mark.packs
        )
        builder = cluster_map.MapBuilder(self._plan.disk_size, size)
        new = self._content.between(
            self._mark.data_clusters, mark.data_clusters
        )
        for place in self._shared.places(new, wanted.snapshot):
            builder.add(*place)
        first = self._mark.next_cluster * size
        end = mark.next_cluster * size
        return formats.Checkpoint(
            number=self._count + 1,
            before=self._before,
            extents=self._plan.extents,
            first_cluster=self._mark.next_cluster,
            next_cluster=mark.next_cluster,
            packs=tuple(records),
            index=indexes.Index(
                attempt=wanted.snapshot,
                cluster_size=size,
                codec=wanted.codec.id,
                digest=wanted.digest.id,
                packs=tuple(index_packs),
            ),
            map=builder.build(),
            unreadable=tuple(
                manifest.Unreadable(
                    max(start, first), min(stop, end) - max(start, first)
                )
                for start, stop in unreadable
                if max(start, first) < min(stop, end)
            ),
        )


# Private


def _read(
    store: stores.Store, plan: Plan, shared: parents.Shared
) -> Iterator[tuple[bytes, formats.Checkpoint]]:
    wanted = plan.wanted
    limit = units.MiB + plan.clusters * 96
    before = formats.NONE_BEFORE
    cluster = slots = packs = 0
    number = 1
    while True:
        name = wanted.prefix + layout.checkpoint_name(number)
        try:
            data = store.get(name, limit)
        except errors.ObjectMissing:
            return
        found = formats.decode(data, wanted.snapshot, plan.clusters)
        if found.before != before:
            if number == 1:
                raise errors.Corrupted(name, 'it is not the first')
            # Left by an earlier run that had gone on differently.
            return
        packs += len(found.packs)
        slots += len(found.index)
        names = [pack.name for pack in found.packs]
        for good, reason in (
            (found.number == number, 'it has another number'),
            (found.extents == plan.extents, 'other parts are to be read'),
            (found.map.disk_size == plan.disk_size, 'the disk is another'),
            (
                (
                    found.index.cluster_size,
                    found.index.codec,
                    found.index.digest,
                )
                == (wanted.cluster_size, wanted.codec.id, wanted.digest.id),
                'it was asked for something else',
            ),
            (found.first_cluster == cluster, 'clusters are missing'),
            (
                names
                == [
                    layout.pack_name(each)
                    for each in range(packs - len(names) + 1, packs + 1)
                ],
                'packs are missing',
            ),
            (
                _leads_somewhere(found, slots, shared),
                'its map leads nowhere',
            ),
        ):
            if not good:
                raise errors.Corrupted(name, reason)
        yield data, found
        cluster = found.next_cluster
        before = formats.digest(data)
        number += 1


def _leads_somewhere(
    found: formats.Checkpoint, slots: int, shared: parents.Shared
) -> bool:
    """Tell whether the map refers to what is there."""
    attempts = found.map.attempts
    for _, count, number, slot in found.map.extents.rows():
        if attempts[number] == found.attempt:
            if slot + count > slots:
                return False
        elif not _is_shared(shared, attempts[number], slot, count):
            return False
    return True


def _is_shared(
    shared: parents.Shared, attempt: str, slot: int, count: int
) -> bool:
    end = slot + count
    while slot < end:
        place = shared.number_of(attempt, slot)
        if place is None:
            return False
        slot += place[1]
    return True


def _numbered(
    found: formats.Checkpoint, shared: parents.Shared
) -> Iterator[tuple[int, int]]:
    """Give (cluster, number of its content) of a checkpoint."""
    attempts = found.map.attempts
    for cluster, count, number, slot in found.map.extents.rows():
        end = cluster + count
        while cluster < end:
            if attempts[number] == found.attempt:
                first, length = shared.size + slot, count
            else:
                place = shared.number_of(attempts[number], slot)
                if place is None:
                    raise AssertionError('not shared, yet it was')
                first, length = place
            length = min(length, end - cluster)
            yield from zip(
                range(cluster, cluster + length),
                range(first, first + length),
                strict=True,
            )
            cluster, slot = cluster + length, slot + length


def _check_packs(
    store: stores.Store,
    prefix: str,
    found: Sequence[formats.Checkpoint],
) -> None:
    records = [pack for each in found for pack in each.packs]
    for pack in records[-_PACKS_CHECKED:]:
        try:
            info = store.stat(prefix + pack.name)
        except errors.ObjectMissing:
            raise errors.Corrupted(prefix + pack.name, 'it is gone') from None
        if (info.size, info.etag) != (pack.size, pack.etag):
            raise errors.Corrupted(prefix + pack.name, 'it is another')
