# SPDX-License-Identifier: Apache-2.0
"""Clusters into packs, packs into the store."""

import mmap
import typing

from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core import pack
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import progress


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
        counters: progress.Progress,
    ) -> None:
        self._attempt = attempt
        self._prefix = prefix
        self._store = store
        self._threads = threads
        self._content = content
        self._counters = counters
        # It forgets the clusters when a pack is built, and starts anew.
        self._builder = pack.PackBuilder(cluster_size, pack_size)
        # The clusters wait in one piece of memory. As objects of their own,
        # made by many threads, they would leave each thread's part of the
        # heap as large as it ever was.
        self._slab = memoryview(mmap.mmap(-1, pack_size + cluster_size))
        self._filled = 0
        self._next_number = 0
        self._index_packs: list[indexes.IndexPack] = []
        # By name: uploads end in any order.
        self._records: dict[str, manifest.PackRecord] = {}

    def add(self, data: bytes, digest: bytes, compressed: bool) -> None:
        """Put a cluster into the current pack; send the pack when full."""
        end = self._filled + len(data)
        kept = self._slab[self._filled : end]
        kept[:] = data
        self._filled = end
        # The builder measures and joins what it is given, nothing more.
        self._builder.add(typing.cast(bytes, kept), digest, compressed)
        if self._builder.full:
            self._send()

    def finish(self) -> None:
        """Send what is left."""
        if len(self._builder):
            self._send()

    @property
    def records(self) -> tuple[manifest.PackRecord, ...]:
        """The packs, when all are stored; in the order of their numbers."""
        return tuple(
            self._records[each.name] for each in self._index_packs
        )

    @property
    def index_packs(self) -> tuple[indexes.IndexPack, ...]:
        """What is in each of them."""
        return tuple(self._index_packs)

    # Private

    def _send(self) -> None:
        # First a place, then the pack: so there are never more packs in
        # memory than uploads, and the clusters of one.
        self._threads.wait_for_place()
        count = len(self._builder)
        built = self._builder.build()
        self._filled = 0
        self._content.place(self._next_number, built.order)
        self._next_number += count
        name = layout.pack_name(len(self._index_packs) + 1)
        self._index_packs.append(indexes.IndexPack.of(name, built.entries))
        self._threads.send(lambda: self._store_pack(name, built))

    def _store_pack(self, name: str, built: pack.BuiltPack) -> None:
        self._store.put(self._prefix + name, built.data)
        self._counters.add_pack(len(built.data))
        self._records[name] = manifest.PackRecord(
            attempt=self._attempt,
            name=name,
            size=len(built.data),
            etag=built.etag,
            sha256=built.sha256,
            clusters=len(built.entries),
            live_bytes=sum(entry.length for entry in built.entries),
        )
