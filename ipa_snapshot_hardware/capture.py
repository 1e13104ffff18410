# SPDX-License-Identifier: Apache-2.0
"""A capture: from a disk to the objects of an attempt.

::

    disk -> clusters -> zero? -> digest -> known? -> compress -> pack -> PUT
                                                       then index, map, head
                                                       and the report, last

Nothing of it makes a snapshot: that is for the conductor, who checks every
object the report names. A capture that fails leaves packs behind that no
one refers to.

The objects depend on the disk and the request alone, not on the number of
threads or on which of them is faster.
"""

import dataclasses
import logging
from collections.abc import Sequence

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware import documents
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import packer
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import reader
from ipa_snapshot_hardware import request
from ipa_snapshot_hardware import sample
from ipa_snapshot_hardware.disk import base

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Captured:
    """A capture that is stored: its report, and where that can be found."""

    report: manifest.CaptureReport
    record: manifest.ObjectRecord


@dataclasses.dataclass(slots=True)
class _Piece:
    """A cluster that is not zero, on its way to a pack.

    ``data`` is None when the content was known before it was compressed.
    """

    cluster: int
    digest: bytes
    data: bytes | None
    compressed: bool


@dataclasses.dataclass(slots=True)
class _Encoded:
    """What became of a batch of clusters; sizes are bytes of the disk."""

    size: int
    data_size: int
    pieces: list[_Piece]


def capture(
    disk: base.Disk,
    store: stores.Store,
    wanted: request.CaptureRequest,
    *,
    allowed: budget.Budget,
    clock: clocks.Clock,
    stop: executor.Stop,
    software: dict[str, str],
) -> Captured:
    """Capture a disk.

    :param disk: what to capture; only read.
    :param store: where to; retries are its business.
    :param allowed: threads and memory.
    :param stop: set it to cancel.
    :param software: versions, for the report.
    :raises DiskReadError: when a sector cannot be read.
    :raises DiskChanged: when the disk was written to meanwhile.
    :raises StoreError: when an object could not be stored.
    :raises Cancelled: when it was stopped.
    """
    return _Capture(disk, store, wanted, allowed, clock, stop).run(software)


def summarise(captured: Captured) -> dict[str, object]:
    """Make the result of the step: small, for it goes into a database."""
    totals = captured.report.totals
    return {
        'protocol': request.PROTOCOL,
        'snapshot': captured.report.snapshot,
        'more': False,
        'report': dataclasses.asdict(captured.record),
        'totals': {
            'virtual_bytes': totals.virtual_bytes,
            'read_bytes': totals.read_bytes,
            'data_bytes': totals.data_bytes,
            'stored_bytes': totals.stored_bytes,
            'packs': len(captured.report.packs),
        },
        'seconds': round(captured.report.timings['total'], 1),
    }


# Private


class _Capture:
    """One capture; :meth:`run` tells the story."""

    def __init__(
        self,
        disk: base.Disk,
        store: stores.Store,
        wanted: request.CaptureRequest,
        allowed: budget.Budget,
        clock: clocks.Clock,
        stop: executor.Stop,
    ) -> None:
        self._disk = disk
        self._store = store
        self._wanted = wanted
        self._allowed = allowed
        self._stop = stop
        clusters = reader.count_clusters(disk.size, wanted.cluster_size)
        self._content = contents.Content(clusters, wanted.digest.size)
        self._sample = sample.Sample(
            wanted.snapshot, clusters, wanted.cluster_size, wanted.digest
        )
        self._counters = progress.Progress(disk.size, clock)
        self._times = _Times(clock)

    def run(self, software: dict[str, str]) -> Captured:
        self._check_store()
        source = reader.ClusterReader(
            self._disk, self._wanted.cluster_size, self._allowed.read_size
        )
        packs, index = self._store_clusters(source)
        self._look_again(source)
        index_record = self._put(layout.INDEX, indexes.encode(index))
        map_record = self._put(layout.MAP, self._build_map())
        head_record = self._put(layout.HEAD, self._build_head(packs, index))
        self._times.end('documents')
        report = manifest.CaptureReport(
            snapshot=self._wanted.snapshot,
            disk=documents.describe(self._disk),
            cluster_size=self._wanted.cluster_size,
            codec=self._wanted.codec.id,
            codec_level=self._wanted.codec.level,
            digest=self._wanted.digest.id,
            packs=packs,
            index=index_record,
            map=map_record,
            head=head_record,
            totals=self._totals(),
            timings=self._times.finish(),
            software=software,
        )
        record = self._put(layout.REPORT, report.to_bytes())
        LOG.info('Captured %s: %s', self._disk.name, self._counters.state())
        return Captured(report, record)

    # Private

    def _check_store(self) -> None:
        """Find out now, not after hours, that the store is closed to us."""
        try:
            self._store.stat(self._wanted.prefix + layout.REPORT)
        except errors.ObjectMissing:
            return
        # The agent was restarted, or the conductor did not hear of the end.
        # The same disk gives the same objects; another must replace them.
        LOG.info('Snapshot %s was captured before', self._wanted.snapshot)

    def _store_clusters(
        self, source: reader.ClusterReader
    ) -> tuple[tuple[manifest.PackRecord, ...], indexes.Index]:
        """Read every cluster; store those that are not zero, each once."""
        encoder = _Encoder(self._wanted, self._content)
        with executor.Executor(
            workers=self._allowed.workers,
            reads=self._allowed.reads,
            uploads=self._allowed.uploads,
            stop=self._stop,
        ) as threads:
            packs = packer.Packer(
                attempt=self._wanted.snapshot,
                prefix=self._wanted.prefix,
                cluster_size=self._wanted.cluster_size,
                pack_size=self._allowed.pack_size,
                store=self._store,
                threads=threads,
                content=self._content,
                counters=self._counters,
            )
            for encoded in threads.map(source.batches(), encoder.encode):
                for piece in encoded.pieces:
                    self._take(piece, packs)
                self._counters.add_read(encoded.size, encoded.data_size)
                self._counters.log_sometimes()
            packs.finish()
        self._times.end('clusters')
        return packs.records, indexes.Index(
            attempt=self._wanted.snapshot,
            cluster_size=self._wanted.cluster_size,
            codec=self._wanted.codec.id,
            digest=self._wanted.digest.id,
            packs=packs.index_packs,
        )

    def _take(self, piece: _Piece, packs: packer.Packer) -> None:
        self._sample.note(piece.cluster, piece.digest)
        data, piece.data = piece.data, None
        if self._content.add(piece.cluster, piece.digest):
            if data is None:
                raise AssertionError('new, yet known before')
            packs.add(data, piece.digest, piece.compressed)

    def _look_again(self, source: reader.ClusterReader) -> None:
        """Find out whether the disk was left alone."""
        self._sample.verify(source, self._disk.name, self._stop)
        self._disk.check_unchanged()
        self._times.end('sample')

    def _build_map(self) -> bytes:
        return documents.build_map(
            self._content,
            self._disk.size,
            self._wanted.cluster_size,
            self._wanted.snapshot,
        )

    def _build_head(
        self, packs: Sequence[manifest.PackRecord], index: indexes.Index
    ) -> bytes:
        return documents.build_head(
            self._content, index, self._disk.size, self._wanted.codec, packs
        )

    def _put(self, name: str, data: bytes) -> manifest.ObjectRecord:
        self._stop.check()
        return documents.store_document(
            self._store, self._wanted.prefix + name, data
        )

    def _totals(self) -> manifest.Totals:
        state = self._counters.state()
        return manifest.Totals(
            virtual_bytes=self._disk.size,
            read_bytes=state.read,
            zero_bytes=state.read - state.data,
            data_bytes=state.data,
            stored_bytes=state.stored,
            clusters=self._content.data_clusters,
            new_clusters=self._content.distinct_clusters,
        )


class _Times:
    """Seconds, by phase."""

    def __init__(self, clock: clocks.Clock) -> None:
        self._clock = clock
        self._started = self._last = clock.monotonic()
        self._phases: dict[str, float] = {}

    def end(self, phase: str) -> None:
        now = self._clock.monotonic()
        self._phases[phase] = round(now - self._last, 3)
        self._last = now

    def finish(self) -> dict[str, float]:
        total = self._clock.monotonic() - self._started
        return self._phases | {'total': round(total, 3)}


class _Encoder:
    """What a worker does; several do at a time."""

    def __init__(
        self, wanted: request.CaptureRequest, content: contents.Content
    ) -> None:
        self._zeroes = bytes(wanted.cluster_size)
        self._digest = wanted.digest.digest
        self._compress = wanted.codec.compress
        self._content = content

    def encode(self, batch: reader.Batch) -> _Encoded:
        """Turn clusters into pieces, letting go of each on the way."""
        count = len(batch.clusters)
        pieces = []
        data_size = 0
        batch.clusters.reverse()
        for number in range(count):
            data = batch.clusters.pop()
            if data != self._zeroes:
                data_size += min(len(data), batch.size - number * len(data))
                pieces.append(
                    self._encode_cluster(batch.first + number, data)
                )
        return _Encoded(batch.size, data_size, pieces)

    def _encode_cluster(self, cluster: int, data: bytes) -> _Piece:
        digest = self._digest(data)
        if self._content.is_known(digest):
            return _Piece(cluster, digest, None, False)
        blob = self._compress(data)
        if blob is None:
            return _Piece(cluster, digest, data, False)
        return _Piece(cluster, digest, blob, True)
