# SPDX-License-Identifier: Apache-2.0
"""Clusters into packs, packs into the store."""

import collections
import dataclasses
from collections.abc import Sequence

from ironic_snapshot_core import buffers
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core import pack
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import progress


@dataclasses.dataclass(frozen=True, slots=True)
class Mark:
    """How far a capture was when a pack was closed.

    :param packs: closed, this one included.
    :param next_cluster: the first that no closed pack is needed for.
    :param data_clusters: before it that are not zero.
    :param slots: in all closed packs.
    """

    packs: int
    next_cluster: int
    data_clusters: int
    slots: int


START = Mark(0, 0, 0, 0)


class Packer:
    """Fills packs in the order of the clusters and has them sent.

    What is in a pack depends on the clusters alone, not on when which
    upload ends.

    :param attempt: UUID of the attempt.
    :param prefix: of the names of its objects.
    :param pack_size: a pack is sent when it has reached this; in bytes.
    :param threads: where packs are sent from.
    """

    def __init__(
        self,
        *,
        attempt: str,
        prefix: str,
        cluster_size: int,
        pack_size: int,
        store: stores.Store,
        threads: executor.Executor,
        content: contents.Content,
        counters: progress.CaptureProgress,
    ) -> None:
        self._attempt = attempt
        self._prefix = prefix
        self._store = store
        self._threads = threads
        self._content = content
        self._counters = counters
        self._cluster_size = cluster_size
        self._pack_size = pack_size
        # Those that no pack is in; more are made as they are needed.
        self._rooms: collections.deque[memoryview] = collections.deque()
        self._start()
        self._index_packs: list[indexes.IndexPack] = []
        self._marks = [START]
        # By name: uploads end in any order.
        self._records: dict[str, manifest.PackRecord] = {}
        self._stored = 0

    def restore(
        self,
        mark: Mark,
        index_packs: Sequence[indexes.IndexPack],
        records: Sequence[manifest.PackRecord],
    ) -> None:
        """Take in packs that were stored before an interruption.

        :param mark: where the last of them was closed.
        """
        self._index_packs += index_packs
        self._records.update({each.name: each for each in records})
        self._marks += [mark] * len(index_packs)

    def add(
        self,
        cluster: int,
        data: bytes | memoryview,
        digest: bytes,
        compressed: bool,
    ) -> None:
        """Put a cluster into the current pack; send the pack when full.

        :param cluster: its number; it is the last that was added to the
            content.
        """
        self._builder.add(data, digest, compressed)
        if self._builder.full:
            self._send(cluster + 1)

    def finish(self, clusters: int) -> None:
        """Send what is left.

        :param clusters: of the disk.
        """
        if len(self._builder):
            self._send(clusters)

    @property
    def records(self) -> tuple[manifest.PackRecord, ...]:
        """The packs, when all are stored; in the order of their numbers."""
        return tuple(self._records[each.name] for each in self._index_packs)

    @property
    def index_packs(self) -> tuple[indexes.IndexPack, ...]:
        """What is in each of them."""
        return tuple(self._index_packs)

    def stored_mark(self) -> Mark:
        """Tell how far all packs are stored."""
        while (
            self._stored < len(self._index_packs)
            and self._index_packs[self._stored].name in self._records
        ):
            self._stored += 1
        return self._marks[self._stored]

    def stored_packs(
        self, first: int, last: int
    ) -> tuple[list[indexes.IndexPack], list[manifest.PackRecord]]:
        """Give packs that are stored, by number.

        :param first: counted from 0.
        :param last: the first not to give.
        """
        found = self._index_packs[first:last]
        return found, [self._records[each.name] for each in found]

    # Private

    def _send(self, next_cluster: int) -> None:
        first = self._marks[-1].slots
        count = len(self._builder)
        built = self._builder.build()
        self._content.place(first, built.order)
        name = layout.pack_name(len(self._index_packs) + 1)
        self._index_packs.append(
            indexes.IndexPack.of(
                name, built.entries, self._content.digests(first, count)
            )
        )
        self._marks.append(
            Mark(
                len(self._index_packs),
                next_cluster,
                self._content.data_clusters,
                first + count,
            )
        )
        room = self._room
        self._threads.send(lambda: self._store_pack(name, built, room))
        # Not before there was a place for this one: so there are never more
        # packs in memory than uploads, and one.
        self._start()

    def _start(self) -> None:
        """Start a new pack."""
        try:
            self._room = self._rooms.pop()
        except IndexError:
            size = pack.room_needed(self._cluster_size, self._pack_size)
            self._room = memoryview(buffers.allocate(size))
        self._builder = pack.PackBuilder(
            self._cluster_size, self._pack_size, self._room
        )

    def _store_pack(
        self, name: str, built: pack.BuiltPack, room: memoryview
    ) -> None:
        stored = self._store.put(self._prefix + name, built.data)
        self._records[name] = manifest.PackRecord.new(
            attempt=self._attempt,
            name=name,
            size=len(built.data),
            etag=stored.etag,
            clusters=len(built.entries),
            live_bytes=sum(entry.length for entry in built.entries),
        )
        self._counters.add_pack(len(built.data))
        self._rooms.append(room)
