# SPDX-License-Identifier: Apache-2.0
"""A restore: from the objects of a snapshot to a disk.

::

    is it the disk? -> what will its ends be?
    compare   disk -> clusters -> zero? -> digest -> as in the snapshot?
    write     guards invalid, flush; then each cluster that differs:
              store -> blob -> decompress -> digest? -> disk; flush
    verify    what was written -> digest?
    finish    guards, LBA 0 last; flush, and read back

Until it begins to write, an error leaves the disk as it was. From then on no
firmware boots from it before all is done: an error says so, and running the
restore again goes on, for what is right already does not differ. So nothing
needs to be remembered.

No byte is written that was not checked by its digest, and none outside the
disk or behind the end of the snapshot but the second GPT.
"""

import collections
import contextlib
import dataclasses
import logging
import mmap
import re
from collections.abc import Iterable
from collections.abc import Iterator

from ironic_snapshot_core import buffers
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import errors
from ironic_snapshot_core import extent
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import snapshot_reader
from ironic_snapshot_core.store import base as stores
from ironic_snapshot_core.store import limit
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import compare
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import fetch
from ipa_snapshot_hardware import frame
from ipa_snapshot_hardware import guard
from ipa_snapshot_hardware import match
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import restore_request
from ipa_snapshot_hardware import timing
from ipa_snapshot_hardware.disk import target as targets

LOG = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, slots=True)
class Totals:
    """How much there was to do, and how much was done.

    :param virtual_bytes: of the snapshot's disk.
    :param compared_bytes: of the target, read to find what differs.
    :param differing_clusters: that were not as they should be.
    :param differing_bytes: of the disk in these.
    :param written_bytes: to the target, guards and all.
    :param zeroed_bytes: of those, in clusters that are zero.
    :param fetched_bytes: from the store.
    """

    virtual_bytes: int
    compared_bytes: int
    differing_clusters: int
    differing_bytes: int
    written_bytes: int
    zeroed_bytes: int
    fetched_bytes: int


@dataclasses.dataclass(frozen=True, slots=True)
class Restored:
    """A restore that is done.

    :param grown: bytes by which the target is larger than the snapshot's
        disk.
    :param shrunk: bytes by which it is smaller.
    :param repaired: a text for each cluster that was read from a second
        copy.
    :param degraded: whether parts of the disk could not be read when it was
        captured; they are zero.
    :param timings: seconds, by phase.
    :param state: of its progress, at the end.
    """

    snapshot: str
    totals: Totals
    grown: int
    shrunk: int
    repaired: tuple[str, ...]
    degraded: bool
    timings: dict[str, float]
    state: progress.RestoreState

    @property
    def touched(self) -> bool:
        """Whether anything was written."""
        return self.state.touched


def restore(
    store: stores.Store,
    manifest: manifests.Manifest,
    target: targets.Target,
    wanted: restore_request.RestoreRequest,
    *,
    allowed: budget.RestoreBudget,
    clock: clocks.Clock,
    stop: executor.Stop,
    counters: progress.RestoreProgress | None = None,
) -> Restored:
    """Make a disk what it was when a snapshot was taken.

    :param store: where from; retries are its business.
    :param manifest: of the snapshot.
    :param target: what to write.
    :param allowed: threads and memory.
    :param stop: set it to cancel.
    :param counters: to be looked at from another thread meanwhile.
    :raises TargetMismatch: it is not the disk that is meant.
    :raises DiskUnsuitable: it is too small, or has other sectors.
    :raises Corrupted: map, indexes or what the ends of the disk need are
        damaged.
    :raises StoreError: these cannot be had.
    :raises Cancelled: when it was stopped.
    :raises RestoreInterrupted: whatever went wrong after the first write.
    """
    counters = counters or progress.RestoreProgress(clock)
    return _Restore(
        store, manifest, target, wanted, allowed, clock, stop, counters
    ).run()


# Private

# What a cluster is in the list of those to write: as it should be, ...
_SAME, _DATA, _ZERO = range(3)
# ... and runs of them.
_DIFFERENT_RUNS = re.compile(b'[\1\2]+')
_ZERO_RUNS = re.compile(b'\2+')


@dataclasses.dataclass(frozen=True, slots=True)
class _ZeroRun:
    """Bytes of the disk that are to be zero."""

    offset: int
    length: int


class _Restore:
    """One restore; :meth:`run` tells the story."""

    def __init__(
        self,
        store: stores.Store,
        manifest: manifests.Manifest,
        target: targets.Target,
        wanted: restore_request.RestoreRequest,
        allowed: budget.RestoreBudget,
        clock: clocks.Clock,
        stop: executor.Stop,
        counters: progress.RestoreProgress,
    ) -> None:
        pace = (
            limit.RateLimit(wanted.bandwidth_limit, clock).take
            if wanted.bandwidth_limit
            else lambda size: None
        )
        self._store = fetch.ReadStore(store, pace, counters.add_fetched)
        self._manifest = manifest
        self._target = target
        self._wanted = wanted
        self._allowed = allowed
        self._clock = clock
        self._stop = stop
        self._counters = counters
        self._times = timing.Times(clock)
        self._common = min(target.size, manifest.disk.size)
        self._compared = self._different = self._zeroed = 0
        self._room: collections.deque[mmap.mmap] = collections.deque()

    def run(self) -> Restored:
        self._counters.begin(progress.COMPARE)
        match.check(self._manifest.disk, self._target, self._wanted)
        self._reader = snapshot_reader.SnapshotReader(
            self._store, self._manifest
        )
        self._frame = frame.build(
            self._reader, self._manifest.disk, self._target
        )
        self._clusters = bytearray(
            -(-self._manifest.disk.size // self._reader.cluster_size)
        )
        self._compare_clusters()
        edges, ends = self._compare_frame()
        self._times.end(progress.COMPARE)
        if self._different or edges or ends:
            self._stop.check()
            self._counters.touch()
            try:
                self._write(edges)
            except Exception as error:
                raise errors.RestoreInterrupted(
                    self._target.name, _reason(error)
                ) from error
        timings = self._times.finish(progress.FINISH)
        state = self._counters.state()
        LOG.info(
            'Restored snapshot %s to %s: %d bytes written',
            self._manifest.id,
            self._target.name,
            state.written,
        )
        for text in self._reader.repaired:
            LOG.warning('%s', text)
        difference = self._target.size - self._manifest.disk.size
        return Restored(
            snapshot=self._manifest.id,
            totals=self._totals(edges, state),
            grown=max(difference, 0),
            shrunk=max(-difference, 0),
            repaired=tuple(self._reader.repaired),
            degraded=self._manifest.degraded,
            timings=timings,
            state=state,
        )

    # Private: comparing

    def _compare_clusters(self) -> None:
        """Find out which whole clusters are to be written."""
        extents = self._whole_clusters()
        if self._wanted.blank:
            for first, count in extents.clusters(self._reader.cluster_size):
                for cluster, digest in enumerate(
                    self._reader.digests(first, count), first
                ):
                    if digest is not None:
                        self._mark(compare.Different(cluster, zero=False))
            return
        self._counters.expect(extents.size)
        for each in self._comparison().run(extents, allow_bad_sectors=True):
            self._mark(each)
        self._compared += extents.size

    def _whole_clusters(self) -> extent.DataExtents:
        """Give what is compared by digests."""
        size = self._reader.cluster_size
        extents = extent.DataExtents()
        begin = 0
        for number in (*sorted(self._frame.clusters), self._common // size):
            extents.add(begin * size, number * size)
            begin = number + 1
        return extents

    def _mark(self, found: compare.Different) -> None:
        if self._clusters[found.cluster] == _SAME:
            self._clusters[found.cluster] = _ZERO if found.zero else _DATA
            self._different += 1

    def _compare_frame(
        self,
    ) -> tuple[list[frame.Piece], list[frame.Piece]]:
        """Give the edges and the guards that are not what they should be."""
        edges = [each for each in self._frame.edges if not self._has(each)]
        ends = [each for each in self._frame.guards if not self._has(each)]
        self._compared += sum(
            len(each.data)
            for each in (*self._frame.edges, *self._frame.guards)
        )
        return edges, ends

    def _has(self, piece: frame.Piece) -> bool:
        """Tell whether the target has these bytes."""
        found = bytearray(len(piece.data))
        try:
            self._target.read_into(piece.offset, found)
        except errors.DiskReadError:
            return False
        return found == piece.data

    def _comparison(self) -> compare.Comparison:
        return compare.Comparison(
            self._target,
            self._reader,
            digests.get_digest(self._manifest.digest),
            self._allowed,
            self._stop,
            self._count_done,
        )

    def _count_done(self, size: int) -> None:
        self._counters.add_done(size)
        self._counters.log_sometimes()

    # Private: writing

    def _write(self, edges: list[frame.Piece]) -> None:
        """Write all that differs, and make the disk bootable last."""
        first, last = self._frame.guards
        self._counters.begin(progress.WRITE)
        size = self._reader.cluster_size
        self._counters.expect(self._different * size)
        self._mark_unfinished()
        self._put(frame.Piece(last.offset, bytes(len(last.data))))
        self._target.flush()
        self._write_clusters()
        for piece in edges:
            self._stop.check()
            self._put(piece)
        self._target.flush()
        self._times.end(progress.WRITE)
        self._counters.begin(progress.VERIFY)
        self._counters.expect(self._different * size)
        self._verify_clusters()
        self._verify(edges)
        self._times.end(progress.VERIFY)
        self._counters.begin(progress.FINISH)
        self._stop.check()
        self._finish(first, last)

    def _mark_unfinished(self) -> None:
        """Make the first guard invalid."""
        first, _ = self._frame.guards
        marker = guard.marker(
            self._manifest.id, self._target.logical_sector_size
        )
        self._put(frame.Piece(0, marker.ljust(len(first.data), b'\0')))

    def _put(self, piece: frame.Piece) -> None:
        if piece.data:
            self._target.write(piece.offset, piece.data)
            self._counters.add_written(len(piece.data))

    def _write_clusters(self) -> None:
        buffers.keep_freed(2 * self._reader.cluster_size)
        self._zeroes = buffers.allocate(self._allowed.read_size)
        with executor.Executor(
            workers=self._allowed.fetches,
            reads=self._allowed.fetches + 1,
            uploads=1,
            stop=self._stop,
        ) as threads:
            for written in threads.map(self._runs(), self._write_run):
                self._count_done(written)
        self._room.clear()

    def _runs(self) -> Iterator[snapshot_reader.PlacedRun | _ZeroRun]:
        size = self._reader.cluster_size
        for found in _ZERO_RUNS.finditer(self._clusters):
            end = found.end() * size
            for offset in range(
                found.start() * size, end, self._allowed.read_size
            ):
                length = min(self._allowed.read_size, end - offset)
                self._zeroed += length
                yield _ZeroRun(offset, length)
        if _DATA in self._clusters:
            yield from self._reader.runs(self._clusters)

    def _write_run(self, run: snapshot_reader.PlacedRun | _ZeroRun) -> int:
        """Do what a worker does; several do at a time.

        :returns: bytes written.
        """
        if isinstance(run, _ZeroRun):
            with memoryview(self._zeroes) as zeroes:
                self._put_buffer(run.offset, zeroes[: run.length])
            return run.length
        written = 0
        try:
            buffer = self._room.pop()
        except IndexError:
            buffer = buffers.allocate(self._allowed.read_size)
        with memoryview(buffer) as room:
            for offset, length in self._gather(self._reader.read(run), room):
                self._put_buffer(offset, room[:length])
                written += length
        self._room.append(buffer)
        return written

    def _gather(
        self, clusters: Iterable[tuple[int, bytes]], room: memoryview
    ) -> Iterator[tuple[int, int]]:
        """Put neighbours together; give where they belong, and how many.

        :returns: (offset, length) in bytes of what is in the room now.
        """
        size = self._reader.cluster_size
        first = count = 0
        for cluster, data in clusters:
            if count and (
                cluster != first + count or (count + 1) * size > len(room)
            ):
                yield first * size, count * size
                count = 0
            if not count:
                first = cluster
            buffers.copy(room, count * size, data)
            count += 1
        if count:
            yield first * size, count * size

    def _put_buffer(self, offset: int, data: memoryview) -> None:
        self._target.write(offset, data)
        self._counters.add_written(len(data))

    # Private: reading back

    def _verify_clusters(self) -> None:
        size = self._reader.cluster_size
        extents = extent.DataExtents()
        for found in _DIFFERENT_RUNS.finditer(self._clusters):
            extents.add(found.start() * size, found.end() * size)
        with contextlib.closing(
            self._comparison().run(extents, allow_bad_sectors=False)
        ) as different:
            for each in different:
                # What was not written may be there to fill a hole.
                if self._clusters[each.cluster] != _SAME:
                    raise self._verify_failed(each.cluster * size, size)

    def _verify(self, pieces: Iterable[frame.Piece]) -> None:
        for piece in pieces:
            if not self._has(piece):
                raise self._verify_failed(piece.offset, len(piece.data))

    def _verify_failed(
        self, offset: int, length: int
    ) -> errors.RestoreVerifyFailed:
        return errors.RestoreVerifyFailed(
            self._target.name,
            f'{length} bytes at {offset} do not read back as they were '
            'written',
        )

    # Private: finishing

    def _finish(self, first: frame.Piece, last: frame.Piece) -> None:
        """Write the guards, and read them back; LBA 0 at the very last."""
        sector = self._target.logical_sector_size
        rest = frame.Piece(sector, first.data[sector:])
        boot = frame.Piece(0, first.data[:sector])
        self._put(last)
        self._put(rest)
        self._target.flush()
        self._verify((last, rest))
        try:
            self._put(boot)
            self._target.flush()
            self._verify((boot,))
        except BaseException:
            with contextlib.suppress(errors.DiskError):
                self._mark_unfinished()
                self._target.flush()
            raise

    def _totals(
        self, edges: Iterable[frame.Piece], state: progress.RestoreState
    ) -> Totals:
        size = self._reader.cluster_size
        numbers = {piece.offset // size for piece in edges}
        return Totals(
            virtual_bytes=self._manifest.disk.size,
            compared_bytes=self._compared,
            differing_clusters=self._different + len(numbers),
            differing_bytes=sum(
                min(size, self._common - number * size) for number in numbers
            )
            + self._different * size,
            written_bytes=state.written,
            zeroed_bytes=self._zeroed,
            fetched_bytes=state.fetched,
        )


def _reason(error: Exception) -> str:
    if isinstance(error, errors.Error):
        return str(error).rstrip('.')
    return f'{type(error).__name__}: {error}'.rstrip('.')
