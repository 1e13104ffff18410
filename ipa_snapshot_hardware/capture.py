# SPDX-License-Identifier: Apache-2.0
"""A capture: from a disk to the objects of an attempt.

::

    disk -> what is in use? -> clusters -> zero? -> digest -> known?
         -> compress -> pack -> PUT, and a checkpoint now and then
    then a second look at some clusters
    then map, head, index and the report, last

Nothing of it makes a snapshot: that is for the conductor, who checks every
object the report names. A capture that fails leaves packs behind that no
one refers to.

The objects depend on the disk and the request alone, not on the number of
threads or on which of them is faster (but for a level of compression that is
chosen on the way). An attempt that was interrupted goes on behind what it
has stored.
"""

import dataclasses
import logging
from collections.abc import Iterable

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware import documents
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import level as levels
from ipa_snapshot_hardware import packer
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import reader
from ipa_snapshot_hardware import request
from ipa_snapshot_hardware import resume
from ipa_snapshot_hardware import sample
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.survey import survey as surveys

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Captured:
    """A capture that is stored: its report, and where that can be found.

    :param state: of its progress, at the end.
    """

    report: manifest.CaptureReport
    record: manifest.ObjectRecord
    state: progress.State


@dataclasses.dataclass(slots=True)
class _Piece:
    """A cluster that is not zero, on its way to a pack.

    ``data`` is None when the content was known before it was compressed.
    """

    cluster: int
    digest: bytes
    data: bytes | memoryview | None
    compressed: bool


@dataclasses.dataclass(slots=True)
class _Encoded:
    """What became of a batch of clusters; its pieces may lie in it."""

    batch: reader.Batch
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
    counters: progress.Progress | None = None,
) -> Captured:
    """Capture a disk, or go on with an attempt that was interrupted.

    :param disk: what to capture; only read.
    :param store: where to; retries are its business.
    :param allowed: threads and memory.
    :param stop: set it to cancel.
    :param software: versions, for the report.
    :param counters: to be looked at from another thread meanwhile.
    :raises DiskReadError: when a sector cannot be read.
    :raises DiskChanged: when the disk was written to meanwhile.
    :raises StoreError: when an object could not be stored.
    :raises InvalidValue: when the memory is too small for what is in use.
    :raises Cancelled: when it was stopped.
    """
    counters = counters or progress.Progress(clock)
    found = _find_report(disk, store, wanted)
    if found is not None:
        LOG.info('Snapshot %s was captured before', wanted.snapshot)
        report, record = found
        totals = report.totals
        counters.begin(progress.DOCUMENTS)
        counters.expect(totals.read_bytes)
        counters.resume(
            totals.read_bytes,
            totals.data_bytes,
            totals.stored_bytes,
            len(report.packs),
        )
        return Captured(report, record, counters.state())
    return _Capture(
        disk, store, wanted, allowed, clock, stop, counters
    ).run(software)


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
        'progress': captured.state.to_dict(),
    }


# Private


def _find_report(
    disk: base.Disk, store: stores.Store, wanted: request.CaptureRequest
) -> tuple[manifest.CaptureReport, manifest.ObjectRecord] | None:
    """Find the report, if this very capture was completed before.

    And find out now, not after hours, that the store is closed to us.
    """
    name = wanted.prefix + layout.REPORT
    try:
        info = store.stat(name)
        data = store.get(name, document.MAX_SIZE)
        report = manifest.CaptureReport.from_bytes(data)
    except (errors.ObjectMissing, errors.NotSupported):
        return None
    except errors.Error as error:
        if isinstance(error, errors.StoreError):
            raise
        LOG.warning('Capturing again: %s', error)
        return None
    expected = (
        wanted.snapshot,
        documents.describe(disk),
        wanted.cluster_size,
        wanted.codec.id,
        wanted.digest.id,
    )
    if expected != (
        report.snapshot,
        report.disk,
        report.cluster_size,
        report.codec,
        report.digest,
    ):
        LOG.warning('Capturing again: the report is of another capture')
        return None
    return report, documents.record(data, info.etag)


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
        counters: progress.Progress,
    ) -> None:
        self._disk = disk
        self._store = store
        self._wanted = wanted
        self._allowed = allowed
        self._clock = clock
        self._stop = stop
        self._counters = counters
        self._times = _Times(clock)
        self._checkpoints = 0

    def run(self, software: dict[str, str]) -> Captured:
        self._survey()
        found = resume.find(self._store, self._plan)
        self._content = contents.Content(
            self._clusters, self._wanted.digest.size
        )
        source = self._reader(found.unreadable)
        packs, index = self._store_clusters(source, found)
        unreadable = tuple(
            manifest.Unreadable(start, end - start)
            for start, end in source.unreadable
        )
        if unreadable:
            LOG.warning(
                '%s: %d bytes in %d runs cannot be read; the snapshot has '
                'zeroes there, and is degraded',
                self._disk.name,
                sum(run.length for run in unreadable),
                len(unreadable),
            )
        self._look_again(unreadable)
        self._counters.begin(progress.DOCUMENTS)
        records = {
            layout.MAP: self._put(layout.MAP, self._build_map()),
            layout.HEAD: self._put(
                layout.HEAD, self._build_head(packs, index)
            ),
            layout.INDEX: self._put(layout.INDEX, indexes.encode(index)),
        }
        self._times.end(progress.DOCUMENTS)
        report = manifest.CaptureReport(
            snapshot=self._wanted.snapshot,
            disk=documents.describe(self._disk),
            cluster_size=self._wanted.cluster_size,
            codec=self._wanted.codec.id,
            codec_level=(
                None
                if self._wanted.adaptive_level
                else self._wanted.codec.level
            ),
            digest=self._wanted.digest.id,
            packs=packs,
            index=records[layout.INDEX],
            map=records[layout.MAP],
            head=records[layout.HEAD],
            totals=self._totals(),
            regions=self._surveyed.regions,
            unreadable=unreadable,
            timings=self._times.finish(),
            software=software,
            checkpoints=self._checkpoints,
        )
        record = self._put(layout.REPORT, report.to_bytes())
        state = self._counters.state()
        LOG.info('Captured %s: %s', self._disk.name, state)
        return Captured(report, record, state)

    # Private

    def _survey(self) -> None:
        """Find out what there is to read, and whether memory will do."""
        self._counters.begin(progress.SURVEY)
        wanted = self._wanted
        self._surveyed = surveys.survey(
            self._disk,
            all_blocks=wanted.all_blocks,
            skip_gaps=wanted.skip_gaps,
            watch=self._watch,
        )
        extents = self._surveyed.extents
        self._plan = resume.Plan(
            wanted, self._disk.size, resume.digest_of(extents)
        )
        source = self._reader()
        self._clusters = sum(count for _, count in source.runs())
        self._allowed = budget.fit(
            self._allowed,
            cluster_size=wanted.cluster_size,
            codec=(
                codecs.get_codec(wanted.codec.id, levels.LEVELS[-1])
                if wanted.adaptive_level
                else wanted.codec
            ),
            clusters=self._clusters,
            ranges=len(extents),
        )
        self._counters.expect(
            sum(source.size_of(*run) for run in source.runs())
        )
        self._times.end(progress.SURVEY)

    def _watch(self) -> None:
        """Go on with the survey, unless the capture is to stop."""
        self._stop.check()
        self._counters.add_moved(1)

    def _reader(
        self, unreadable: Iterable[tuple[int, int]] = ()
    ) -> reader.ClusterReader:
        return reader.ClusterReader(
            self._disk,
            self._surveyed.extents,
            self._wanted.cluster_size,
            self._allowed.read_size,
            self._wanted.allow_bad_sectors,
            tuple(unreadable),
        )

    def _store_clusters(
        self, source: reader.ClusterReader, found: resume.Found
    ) -> tuple[tuple[manifest.PackRecord, ...], indexes.Index]:
        """Read every cluster with data; store what is not zero, once."""
        encoder = _Encoder(
            self._wanted, self._content, self._allowed.read_size
        )
        level = levels.Controller(self._clock)
        with executor.Executor(
            workers=self._allowed.workers,
            reads=self._allowed.reads,
            uploads=self._allowed.uploads,
            stop=self._stop,
            clock=self._clock,
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
            self._resume(source, found, packs)
            writer = resume.Writer(
                self._store,
                self._plan,
                self._clock,
                threads,
                self._content,
                packs,
                found,
            )
            self._counters.begin(progress.CLUSTERS)
            for encoded in threads.map(
                source.batches(found.next_cluster), encoder.encode
            ):
                for piece in encoded.pieces:
                    self._take(piece, packs)
                encoded.batch.release()
                self._counters.add_read(encoded.batch.size, encoded.data_size)
                self._counters.log_sometimes()
                writer.write_sometimes(source.unreadable)
                if self._wanted.adaptive_level:
                    encoder.set_level(level.observe(threads.waits))
            packs.finish(self._plan.clusters)
        self._checkpoints = writer.count
        self._times.end(progress.CLUSTERS)
        return packs.records, indexes.Index(
            attempt=self._wanted.snapshot,
            cluster_size=self._wanted.cluster_size,
            codec=self._wanted.codec.id,
            digest=self._wanted.digest.id,
            packs=packs.index_packs,
        )

    def _resume(
        self,
        source: reader.ClusterReader,
        found: resume.Found,
        packs: packer.Packer,
    ) -> None:
        """Take in what an interrupted run has stored."""
        if not found.checkpoints:
            return
        resume.restore(found, self._content, packs)
        read = 0
        for first, count in source.runs():
            if first >= found.next_cluster:
                break
            read += source.size_of(
                first, min(count, found.next_cluster - first)
            )
        sizes = [pack.size for each in found.checkpoints
                 for pack in each.packs]
        self._counters.resume(
            read, self._data_size(), sum(sizes), len(sizes)
        )

    def _data_size(self) -> int:
        """Bytes of the disk in clusters that are not zero."""
        size = self._wanted.cluster_size
        last = self._plan.clusters - 1
        sticks_out = self._plan.clusters * size - self._disk.size
        return self._content.data_clusters * size - (
            sticks_out if self._content.digest_of(last) else 0
        )

    def _take(self, piece: _Piece, packs: packer.Packer) -> None:
        data, piece.data = piece.data, None
        if self._content.add(piece.cluster, piece.digest):
            if data is None:
                raise AssertionError('new, yet known before')
            packs.add(piece.cluster, data, piece.digest, piece.compressed)

    def _look_again(self, unreadable: Iterable[manifest.Unreadable]) -> None:
        """Find out whether the disk was left alone."""
        self._counters.begin(progress.SAMPLE)
        size = self._wanted.cluster_size
        source = self._reader()
        lost: set[int] = set()
        for run in unreadable:
            lost.update(
                range(run.start // size, -(-(run.start + run.length) // size))
            )
        chosen = sample.choose(
            self._wanted.snapshot,
            source.runs(),
            size,
            [region.start for region in self._surveyed.regions],
        )
        sample.verify(
            [cluster for cluster in chosen if cluster not in lost],
            source,
            self._wanted.digest,
            self._content.digest_of,
            self._disk.name,
            self._stop,
        )
        self._disk.check_unchanged()
        self._times.end(progress.SAMPLE)

    def _build_map(self) -> bytes:
        return documents.build_map(
            self._content,
            self._disk.size,
            self._wanted.cluster_size,
            self._wanted.snapshot,
        )

    def _build_head(
        self, packs: tuple[manifest.PackRecord, ...], index: indexes.Index
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
            used_bytes=self._surveyed.extents.size,
            read_bytes=state.read,
            zero_bytes=self._disk.size - state.data,
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
        self,
        wanted: request.CaptureRequest,
        content: contents.Content,
        read_size: int,
    ) -> None:
        # Comparing a bytearray with a memoryview is a memcmp; with bytes,
        # or two memoryviews, it is fifty times slower.
        self._zero_cluster = bytearray(wanted.cluster_size)
        self._zero_batch = bytearray(read_size)
        self._digest = wanted.digest.digest
        self._codec = wanted.codec
        self._content = content
        if wanted.adaptive_level:
            self.set_level(levels.LEVELS.start)

    def set_level(self, level: int) -> None:
        """Compress at this level from now on."""
        if level != self._codec.level:
            LOG.info('Compressing at level %d', level)
            self._codec = codecs.get_codec(self._codec.id, level)

    def encode(self, batch: reader.Batch) -> _Encoded:
        """Turn clusters into pieces."""
        if self._zero_batch == batch.view:
            return _Encoded(batch, 0, [])
        size = len(self._zero_cluster)
        pieces = []
        for position, cluster in enumerate(batch.numbers):
            data = batch.view[position * size : (position + 1) * size]
            if self._zero_cluster != data:
                pieces.append(self._encode_cluster(cluster, data))
        data_size = len(pieces) * size
        if pieces and pieces[-1].cluster == batch.numbers[-1]:
            # The last cluster of a disk may stick out.
            data_size -= len(batch.view) - batch.size
        return _Encoded(batch, data_size, pieces)

    def _encode_cluster(self, cluster: int, data: memoryview) -> _Piece:
        digest = self._digest(data)
        if self._content.is_known(digest):
            return _Piece(cluster, digest, None, False)
        blob = self._codec.compress(data)
        if blob is None:
            return _Piece(cluster, digest, data, False)
        return _Piece(cluster, digest, blob, True)
