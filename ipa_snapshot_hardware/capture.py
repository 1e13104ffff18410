# SPDX-License-Identifier: Apache-2.0
"""A capture: from a disk to the objects of an attempt.

::

    parent -> what is stored already, and which of it is built upon
    disk -> what is in use? -> clusters -> zero? -> digest -> known?
         -> compress -> pack -> PUT, and a checkpoint now and then
    then a second look at some clusters
    then map, head, index and the report, last

Without a parent, nothing is known in the beginning: that is all there is to a
full capture. A parent that turns out to be of no use is no error, either.

Nothing of it makes a snapshot: that is for the conductor, who checks every
object the report names. A capture that fails leaves packs behind that no
one refers to.

The objects depend on the disk and the request alone, not on the number of
threads or on which of them is faster (but for a level of compression that is
chosen on the way). An attempt that was interrupted goes on behind what it
has stored.
"""

import bisect
import dataclasses
import functools
import logging
from collections.abc import Callable
from collections.abc import Iterable
from collections.abc import Iterator

from ironic_snapshot_core import buffers
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import extent
from ironic_snapshot_core import figures
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import arguments
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware import documents
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import guard
from ipa_snapshot_hardware import level as levels
from ipa_snapshot_hardware import packer
from ipa_snapshot_hardware import parent as parents
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import reader
from ipa_snapshot_hardware import request
from ipa_snapshot_hardware import resume
from ipa_snapshot_hardware import sample
from ipa_snapshot_hardware import takeover
from ipa_snapshot_hardware import timing
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.hints import sources
from ipa_snapshot_hardware.survey import os_release
from ipa_snapshot_hardware.survey import survey as surveys

LOG = logging.getLogger(__name__)

#: Of which nothing is known.
UNKNOWN_SYSTEM = manifest.SystemRecord()

# Of the clusters that a hint takes over one in so many is read all the same.
_HINT_PARTS = 100


@dataclasses.dataclass(frozen=True, slots=True)
class Captured:
    """A capture that is stored: its report, and where that can be found.

    :param state: of its progress, at the end.
    """

    report: manifest.CaptureReport
    record: manifest.ObjectRecord
    state: progress.CaptureState


@dataclasses.dataclass(slots=True)
class _Run:
    """Clusters whose contents older attempts have stored.

    :param numbers: of the contents.
    """

    clusters: list[int]
    numbers: list[int]


@dataclasses.dataclass(slots=True)
class _Piece:
    """Another cluster that is not zero, on its way to a pack.

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
    pieces: list[_Piece | _Run]


def capture(
    disk: base.Disk,
    store: stores.Store,
    wanted: request.CaptureRequest,
    *,
    allowed: budget.Budget,
    clock: clocks.Clock,
    stop: executor.Stop,
    software: dict[str, str],
    system: manifest.SystemRecord = UNKNOWN_SYSTEM,
    counters: progress.CaptureProgress | None = None,
    readable: Callable[[str], bool] = lambda prefix: True,
) -> Captured:
    """Capture a disk, or go on with an attempt that was interrupted.

    :param disk: what to capture; only read.
    :param store: where to; retries are its business.
    :param allowed: threads and memory.
    :param stop: set it to cancel.
    :param software: versions, for the report.
    :param system: what is known of it without looking at the disk.
    :param counters: to be looked at from another thread meanwhile.
    :param readable: whether the store lets us read below a prefix.
    :raises DiskReadError: when a sector cannot be read.
    :raises RestoreUnfinished: when the disk is half restored.
    :raises DiskChanged: when the disk was written to meanwhile.
    :raises StoreError: when an object could not be stored.
    :raises InvalidValue: when the memory is too small for what is in use, or
        not all of the parent is readable.
    :raises Cancelled: when it was stopped.
    """
    counters = counters or progress.CaptureProgress(clock)
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
            len(figures.own_packs(report)),
        )
        return Captured(report, record, counters.state())
    return _Capture(
        disk, store, wanted, allowed, clock, stop, counters, readable
    ).run(software, system)


def summarise(captured: Captured) -> dict[str, object]:
    """Make the result of the step: small, for it goes into a database."""
    report = captured.report
    totals = report.totals
    reason = report.full_reason
    return {
        'protocol': arguments.PROTOCOL,
        'snapshot': report.snapshot,
        'more': False,
        'parent': report.parent,
        'full_reason': None if reason is None else reason[:_REASON_LIMIT],
        'report': dataclasses.asdict(captured.record),
        'totals': {
            'virtual_bytes': totals.virtual_bytes,
            'read_bytes': totals.read_bytes,
            'data_bytes': totals.data_bytes,
            'stored_bytes': totals.stored_bytes,
            'shared_bytes': figures.shared_bytes(report),
            'new_clusters': totals.new_clusters,
            'packs': len(figures.own_packs(report)),
        },
        'seconds': round(report.timings['total'], 1),
        'progress': captured.state.to_dict(),
    }


# Private

# In the result of the step; the report has all of it.
_REASON_LIMIT = 200


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
    parent = wanted.parent and wanted.parent.snapshot
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
    ) or report.parent not in (None, parent):
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
        counters: progress.CaptureProgress,
        readable: Callable[[str], bool],
    ) -> None:
        self._disk = disk
        self._store = store
        self._wanted = wanted
        self._allowed = allowed
        self._clock = clock
        self._stop = stop
        self._counters = counters
        self._readable = readable
        self._times = timing.Times(clock)
        self._checkpoints = 0
        self._parent: parents.Parent | None = None
        self._full_reason = wanted.full_reason
        self._pack_size = allowed.pack_size
        self._shared = parents.NOTHING
        self._taken = takeover.TakenOver()

    def run(
        self, software: dict[str, str], system: manifest.SystemRecord
    ) -> Captured:
        guard.check_finished(self._disk)
        self._survey()
        system = os_release.describe(
            self._disk, self._surveyed.regions, self._watch, system
        )
        self._build_upon()
        # Of all blocks, no program is asked which are worth reading.
        self._hints = (
            []
            if self._wanted.all_blocks
            else sources.find(
                self._disk, self._surveyed.regions, self._watch
            )
        )
        self._take_over()
        plan = self._plan = resume.Plan(
            self._wanted,
            self._disk.size,
            resume.digest_of(self._surveyed.extents, self._basis()),
        )
        found = resume.find(self._store, plan, self._shared)
        source = self._reader(self._to_read, found.unreadable)
        self._counters.expect(
            sum(source.size_of(*run) for run in source.runs())
        )
        self._times.end(progress.SURVEY)
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
        packs = self._older_packs() + packs
        map_record = self._put(layout.MAP, self._build_map())
        head_record = self._put_head(self._build_head(packs, index))
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
            parent=None if self._parent is None else self._parent.id,
            full_reason=self._full_reason,
            packs=packs,
            attempts=self._attempts(packs, index),
            map=map_record,
            head=head_record,
            totals=self._totals(),
            regions=self._surveyed.regions,
            unreadable=unreadable,
            timings=self._times.finish(progress.DOCUMENTS),
            software=software,
            hints=tuple(
                record for hint in self._hints for record in hint.records()
            ),
            checkpoints=self._checkpoints,
            system=None if system == UNKNOWN_SYSTEM else system,
        )
        record = self._put(layout.REPORT, report.to_bytes())
        state = self._counters.state()
        LOG.info('Captured %s: %s', self._disk.name, state)
        return Captured(report, record, state)

    # Private

    def _survey(self) -> None:
        """Find out what there is to read."""
        self._counters.begin(progress.SURVEY)
        self._surveyed = surveys.survey(
            self._disk,
            all_blocks=self._wanted.all_blocks,
            skip_gaps=self._wanted.skip_gaps,
            watch=self._watch,
        )
        self._to_read = self._surveyed.extents
        self._clusters = sum(
            count
            for _, count in self._to_read.clusters(self._wanted.cluster_size)
        )

    def _build_upon(self) -> None:
        """Find out what is stored already, and whether memory will do."""
        allowed = self._allowed
        alone = self._fit(allowed)
        # Not what is wanted: packs that have to be small for the memory's
        # sake are not to be stored again for being small.
        self._pack_size = alone.pack_size
        try:
            if self._wanted.parent:
                parent = parents.find(
                    self._store,
                    self._wanted,
                    self._wanted.parent,
                    self._pack_size,
                    self._readable,
                )
                self._allowed = self._fit(allowed, parent)
                content = self._new_content(parent.shared_clusters)
                self._shared = parent.load(self._store, content)
                self._parent, self._content = parent, content
                return
        except errors.ParentUnsuitable as error:
            self._full_reason = (
                f'snapshot {error.snapshot} cannot be its parent: '
                f'{error.reason}'
            )
            LOG.warning(
                'Snapshot %s is a full one, for %s cannot be its parent: %s',
                self._wanted.snapshot,
                error.snapshot,
                error.reason,
            )
        self._allowed = alone
        self._content = self._new_content(0)

    def _fit(
        self,
        allowed: budget.Budget,
        parent: parents.Parent | None = None,
        ranges: int = 0,
    ) -> budget.Budget:
        """Fit the budget to what is known now.

        :param ranges: beside those of data.
        :raises ParentUnsuitable: it fits without the parent only, perhaps.
        :raises InvalidValue: without a parent it does not fit, either.
        """
        wanted = self._wanted
        fit = functools.partial(
            budget.fit,
            allowed,
            cluster_size=wanted.cluster_size,
            codec=(
                codecs.get_codec(wanted.codec.id, levels.LEVELS[-1])
                if wanted.adaptive_level
                else wanted.codec
            ),
            clusters=self._clusters,
            ranges=len(self._surveyed.extents) + ranges,
        )
        if parent is None:
            return fit()
        try:
            return fit(
                shared=parent.shared_clusters,
                spare=parent.spare_clusters,
                index_bytes=parent.index_bytes,
            )
        except errors.InvalidValue:
            raise errors.ParentUnsuitable(
                parent.id,
                'the memory is too small for what it has stored in '
                f'{parent.shared_clusters} clusters',
            ) from None

    def _new_content(self, shared: int) -> contents.Content:
        return contents.Content(
            self._clusters, self._wanted.digest.size, shared
        )

    def _basis(self) -> str:
        """Say what decides on what is stored, beside the disk."""
        wanted = self._wanted
        if self._parent is None or wanted.parent is None:
            return ''
        return (
            f'{wanted.parent.digest} {self._pack_size} {wanted.redundancy}\n'
        )

    def _take_over(self) -> None:
        """Find out what need not be read, because a hint knows it."""
        parent = self._parent
        if parent is None:
            return
        if parent.manifest.lineage == self._wanted.lineage:
            described = documents.describe(self._disk)
            unchanged = takeover.ask(self._hints, described, parent)
            if len(unchanged):
                self._use_hints(parent, unchanged)
        # It is of no other use.
        parent.forget_map()

    def _use_hints(
        self, parent: parents.Parent, unchanged: extent.DataExtents
    ) -> None:
        extents = self._surveyed.extents
        size = self._wanted.cluster_size
        taken = takeover.find(
            self._disk, extents, unchanged, parent.map, self._shared
        )
        left = taken.without(extents, size)
        try:
            self._allowed = self._fit(
                self._allowed,
                parent,
                2 * len(unchanged) + 2 * len(taken) + len(left),
            )
        except errors.ParentUnsuitable:
            LOG.warning('Hints are not used: the memory is too small for them')
            return
        if self._is_true(taken):
            self._taken, self._to_read = taken, left
            LOG.info(
                'Hints spare reading %d of %d bytes',
                extents.size - left.size,
                extents.size,
            )

    def _is_true(self, taken: takeover.TakenOver) -> bool:
        """Read a few of the clusters that are not to be read."""
        chosen = {each for each in self._second_look() if each in taken}
        runs = [(first, count) for first, count, _ in taken.runs()]
        chosen.update(
            sample.choose(
                f'{self._wanted.snapshot} hint',
                runs,
                self._wanted.cluster_size,
                most=min(
                    sample.RANDOM_CLUSTERS,
                    -(-sum(count for _, count in runs) // _HINT_PARTS),
                ),
            )
        )

        def expected(cluster: int) -> bytes | None:
            number = taken.find(cluster)
            return None if number is None else self._content.digest(number)

        try:
            sample.verify(
                sorted(chosen),
                self._reader(self._surveyed.extents),
                self._wanted.digest,
                expected,
                self._disk.name,
                self._stop,
            )
        except (errors.DiskChanged, errors.DiskReadError) as error:
            LOG.warning(
                'A hint was wrong, so everything is read: %s', error
            )
            return False
        return True

    def _watch(self) -> None:
        """Go on with the survey, unless the capture is to stop."""
        self._stop.check()
        self._counters.add_moved(1)

    def _reader(
        self,
        extents: extent.DataExtents,
        unreadable: Iterable[tuple[int, int]] = (),
    ) -> reader.ClusterReader:
        return reader.ClusterReader(
            self._disk,
            extents,
            self._wanted.cluster_size,
            self._allowed.read_size,
            self._wanted.allow_bad_sectors,
            tuple(unreadable),
        )

    def _store_clusters(
        self, source: reader.ClusterReader, found: resume.Found
    ) -> tuple[tuple[manifest.PackRecord, ...], indexes.Index]:
        """Read every cluster with data; store what is not known, once."""
        encoder = _Encoder(
            self._wanted, self._content, self._allowed.read_size
        )
        level = levels.Controller(self._clock)
        # What two reads become: one is collected, the other is worked on.
        buffers.keep_freed(2 * self._allowed.read_size)
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
                self._shared,
                packs,
                found,
            )
            adder = _Adder(
                self._content, packs, self._taken.runs(found.next_cluster)
            )
            self._counters.begin(progress.CLUSTERS)
            for encoded in threads.map(
                source.batches(found.next_cluster), encoder.encode
            ):
                adder.add(encoded.pieces)
                encoded.batch.release()
                self._counters.add_read(encoded.batch.size, encoded.data_size)
                self._counters.log_sometimes()
                writer.write_sometimes(source.unreadable)
                if self._wanted.adaptive_level:
                    encoder.set_level(level.observe(threads.waits))
            adder.take_over(self._plan.clusters)
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
        resume.restore(found, self._content, self._shared, packs)
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

    def _second_look(self) -> list[int]:
        """Choose what will be read a second time."""
        size = self._wanted.cluster_size
        return sample.choose(
            self._wanted.snapshot,
            self._surveyed.extents.clusters(size),
            size,
            [region.start for region in self._surveyed.regions],
        )

    def _look_again(self, unreadable: Iterable[manifest.Unreadable]) -> None:
        """Find out whether the disk was left alone."""
        self._counters.begin(progress.SAMPLE)
        size = self._wanted.cluster_size
        lost: set[int] = set()
        for run in unreadable:
            lost.update(
                range(run.start // size, -(-(run.start + run.length) // size))
            )
        sample.verify(
            [each for each in self._second_look() if each not in lost],
            self._reader(self._surveyed.extents),
            self._wanted.digest,
            self._content.digest_of,
            self._disk.name,
            self._stop,
        )
        self._disk.check_unchanged()
        self._times.end(progress.SAMPLE)

    def _older_packs(self) -> tuple[manifest.PackRecord, ...]:
        """Give what the disk has of older packs, in the parent's order."""
        if self._parent is None:
            return ()
        records = self._shared.records(
            self._content, self._wanted.cluster_size
        )
        return tuple(
            records[pack.attempt, pack.name]
            for pack in self._parent.manifest.packs
            if (pack.attempt, pack.name) in records
        )

    def _attempts(
        self, packs: Iterable[manifest.PackRecord], index: indexes.Index
    ) -> tuple[manifest.AttemptRecord, ...]:
        """Give those that wrote the packs; store the index of our own."""
        needed = {pack.attempt for pack in packs}
        older = self._parent.manifest.attempts if self._parent else ()
        found = [each for each in older if each.id in needed]
        if index.packs:
            found.append(
                manifest.AttemptRecord(
                    self._wanted.snapshot,
                    self._wanted.lineage,
                    self._put(layout.INDEX, indexes.encode(index)),
                )
            )
        return tuple(found)

    def _build_map(self) -> bytes:
        return documents.build_map(
            self._content,
            self._disk.size,
            self._wanted.cluster_size,
            self._wanted.snapshot,
            self._shared,
        )

    def _build_head(
        self, packs: tuple[manifest.PackRecord, ...], index: indexes.Index
    ) -> bytes:
        return documents.build_head(
            self._content,
            index,
            self._disk.size,
            self._wanted.codec,
            packs,
            self._shared,
        )

    def _put_head(self, data: bytes) -> manifest.HeadRecord:
        """Store the head, unless the parent has the very same."""
        if self._parent is not None:
            head = self._parent.manifest.head
            if digests.identify(data) == (head.size, head.digest):
                return head
        return manifest.HeadRecord(
            name=self._wanted.prefix + layout.HEAD,
            **dataclasses.asdict(self._put(layout.HEAD, data)),
        )

    def _put(self, name: str, data: bytes) -> manifest.ObjectRecord:
        self._stop.check()
        return documents.store_document(
            self._store, self._wanted.prefix + name, data
        )

    def _totals(self) -> manifest.Totals:
        state = self._counters.state()
        data = self._data_size()
        return manifest.Totals(
            virtual_bytes=self._disk.size,
            used_bytes=self._surveyed.extents.size,
            read_bytes=state.read,
            zero_bytes=self._disk.size - data,
            data_bytes=data,
            stored_bytes=state.stored,
            clusters=self._content.data_clusters,
            new_clusters=self._content.new_clusters,
        )


class _Adder:
    """Adds clusters to the content, and what is new of them to packs.

    :param taken: what is taken over, to be put in between: (first cluster,
        count, number of the first content or None for zeroes).
    """

    def __init__(
        self,
        content: contents.Content,
        packs: packer.Packer,
        taken: Iterator[tuple[int, int, int | None]],
    ) -> None:
        self._content = content
        self._packs = packs
        self._taken = taken
        self._next = next(taken, None)

    def add(self, pieces: Iterable[_Piece | _Run]) -> None:
        """Add what was read, in the order of the disk."""
        for piece in pieces:
            if isinstance(piece, _Run):
                self._add_run(piece.clusters, piece.numbers)
                continue
            if self._next:
                self.take_over(piece.cluster)
            data, piece.data = piece.data, None
            if self._content.add(piece.cluster, piece.digest):
                if data is None:
                    raise AssertionError('new, yet known before')
                self._packs.add(
                    piece.cluster, data, piece.digest, piece.compressed
                )

    def take_over(self, until: int) -> None:
        """Add what is taken over.

        :param until: the first cluster not to add.
        """
        while self._next and self._next[0] < until:
            first, count, number = self._next
            if number is not None:
                self._content.extend(
                    range(first, first + count),
                    range(number, number + count),
                )
            self._next = next(self._taken, None)

    # Private

    def _add_run(self, clusters: list[int], numbers: list[int]) -> None:
        while self._next and self._next[0] < clusters[-1]:
            at = bisect.bisect_left(clusters, self._next[0])
            self._content.extend(clusters[:at], numbers[:at])
            clusters, numbers = clusters[at:], numbers[at:]
            self.take_over(clusters[0])
        self._content.extend(clusters, numbers)


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
        view = batch.view
        if self._zero_batch == view:
            return _Encoded(batch, 0, [])
        size = len(self._zero_cluster)
        find, shared = self._content.find, self._content.shared
        pieces: list[_Piece | _Run] = []
        run = None
        count = cluster = last = 0
        for position, cluster in enumerate(batch.numbers):
            data = view[position * size : (position + 1) * size]
            if self._zero_cluster == data:
                continue
            count += 1
            last = cluster
            digest = self._digest(data)
            number = find(digest)
            if number is None:
                pieces.append(self._compress(cluster, digest, data))
                run = None
            elif number >= shared:
                # It may get another number when its pack is closed.
                pieces.append(_Piece(cluster, digest, None, False))
                run = None
            else:
                if run is None:
                    run = _Run([], [])
                    pieces.append(run)
                run.clusters.append(cluster)
                run.numbers.append(number)
        data_size = count * size
        if count and last == cluster:
            # The last cluster of a disk may stick out.
            data_size -= len(view) - batch.size
        return _Encoded(batch, data_size, pieces)

    def _compress(
        self, cluster: int, digest: bytes, data: memoryview
    ) -> _Piece:
        blob = self._codec.compress(data)
        if blob is None:
            return _Piece(cluster, digest, data, False)
        return _Piece(cluster, digest, blob, True)
