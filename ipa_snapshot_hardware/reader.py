# SPDX-License-Identifier: Apache-2.0
"""The clusters of a disk that hold data, read in the order of the disk."""

import collections
import functools
import itertools
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence

from ironic_snapshot_core import buffers
from ironic_snapshot_core import errors
from ironic_snapshot_core import extent
from ipa_snapshot_hardware import salvage
from ipa_snapshot_hardware.disk import base


class Batch:
    """Clusters that are read together.

    They lie in a buffer that is used again: whoever is done with all of
    them, and with every view of them, says so by :meth:`release`.

    :param numbers: of the clusters, ascending.
    :param size: bytes of the disk; what sticks out does not count.
    :param fill: reads the clusters into a buffer, one after the other, and
        gives the part of it that they lie in.
    :param pool: of buffers, each large enough.
    """

    __slots__ = ('_buffer', '_fill', '_pool', '_view', 'numbers', 'size')

    def __init__(
        self,
        numbers: Sequence[int],
        size: int,
        fill: Callable[[memoryview], memoryview],
        pool: 'Pool',
    ) -> None:
        self.numbers = numbers
        self.size = size
        self._fill = fill
        self._pool = pool
        self._buffer: memoryview | None = None
        self._view: memoryview | None = None

    @property
    def view(self) -> memoryview:
        """The clusters, one after the other; read when first asked for.

        :raises DiskReadError: when their data cannot be read.
        """
        if self._view is None:
            self._buffer = self._pool.take()
            self._view = self._fill(self._buffer)
        return self._view

    def read_ahead(self) -> None:
        """Read the clusters now, not when somebody asks for them.

        :raises DiskReadError: when their data cannot be read.
        """
        _ = self.view

    def release(self) -> None:
        """Give the buffer back."""
        if self._buffer is not None:
            self._pool.give(self._buffer)


class Pool:
    """Buffers that are used again, by any thread.

    They are page-aligned, for O_DIRECT.

    :param size: of each, in bytes.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._free: collections.deque[memoryview] = collections.deque()

    def take(self) -> memoryview:
        """Get a buffer; what is in it is undefined."""
        try:
            return self._free.pop()
        except IndexError:
            return memoryview(buffers.allocate(self._size))

    def give(self, buffer: memoryview) -> None:
        """Give it back."""
        self._free.append(buffer)


def count_clusters(disk_size: int, cluster_size: int) -> int:
    """Tell how many clusters cover a disk; the last may stick out."""
    return -(-disk_size // cluster_size)


class ClusterReader:
    """Reads clusters that hold data; everything else in them is zero.

    ::

        data          ####  ##            #####   #########
        clusters  |--------|--------|--------|--------|---|
        read      |####0000|##000000|   |0#####000|####000|

    What was deleted is nobody's business, and compresses badly. A cluster
    that sticks out of the disk ends in zeroes.

    A disk that is waited for is read ahead, by who asks for the batches; one
    that is in memory already is read by who works on a batch, just before.

    :param extents: the data.
    :param cluster_size: in bytes.
    :param read_size: bytes read at once, a multiple of cluster_size.
    :param allow_bad_sectors: read on past what cannot be read.
    :param unreadable: what an earlier reader could not read of the same.
    """

    def __init__(
        self,
        disk: base.Disk,
        extents: extent.DataExtents,
        cluster_size: int,
        read_size: int,
        allow_bad_sectors: bool = False,
        unreadable: Sequence[tuple[int, int]] = (),
    ) -> None:
        self._disk = disk
        self._extents = extents
        self._cluster_size = cluster_size
        self._read_size = read_size
        self._zeroes = bytes(read_size)
        self._pool = Pool(read_size)
        # What cannot be read is found in the order of the disk.
        self._ahead = allow_bad_sectors or not disk.cached
        self._salvage = (
            salvage.Salvage(disk, unreadable) if allow_bad_sectors else None
        )

    @property
    def unreadable(self) -> Sequence[tuple[int, int]]:
        """Data that could not be read so far: (start, end) in bytes."""
        return self._salvage.runs if self._salvage else ()

    def batches(self, first: int = 0) -> Iterator[Batch]:
        """Give all clusters with data in the order of the disk.

        :param first: cluster to begin with.
        :raises DiskReadError: when data cannot be read.
        """
        per_read = self._read_size // self._cluster_size
        runs: list[tuple[int, int]] = []
        gathered = 0
        for start, count in self.runs():
            skipped = min(max(first - start, 0), count)
            start, count = start + skipped, count - skipped
            while count:
                taken = min(count, per_read - gathered)
                runs.append((start, taken))
                start, count = start + taken, count - taken
                gathered += taken
                if gathered == per_read:
                    yield self._batch(runs)
                    runs, gathered = [], 0
        if runs:
            yield self._batch(runs)

    def read(self, cluster: int) -> Batch:
        """Read one cluster.

        :raises DiskReadError: when its data cannot be read.
        """
        return self._batch([(cluster, 1)])

    def runs(self) -> Iterator[tuple[int, int]]:
        """Give the runs of clusters with data: (first, count)."""
        return self._extents.clusters(self._cluster_size)

    def size_of(self, first: int, count: int) -> int:
        """Tell how many bytes of the disk a run of clusters covers."""
        size = self._cluster_size
        return min(count * size, self._disk.size - first * size)

    # Private

    def _batch(self, runs: Sequence[tuple[int, int]]) -> Batch:
        numbers: Sequence[int]
        if len(runs) == 1:
            ((first, count),) = runs
            numbers = range(first, first + count)
        else:
            numbers = list(
                itertools.chain.from_iterable(
                    range(first, first + count) for first, count in runs
                )
            )
        batch = Batch(
            numbers,
            sum(self.size_of(*run) for run in runs),
            functools.partial(self._fill, runs),
            self._pool,
        )
        if self._ahead:
            batch.read_ahead()
        return batch

    def _fill(
        self, runs: Sequence[tuple[int, int]], view: memoryview
    ) -> memoryview:
        position = 0
        for first, count in runs:
            length = self.size_of(first, count)
            end = position + count * self._cluster_size
            self._read_run(
                first * self._cluster_size, view[position : position + length]
            )
            view[position + length : end] = self._zeroes[
                : end - position - length
            ]
            position = end
        return view[:position]

    def _read_run(self, offset: int, view: memoryview) -> None:
        end = offset + len(view)
        holes = list(self._extents.holes(offset, end))
        try:
            if self._salvage is not None:
                self._salvage.expect(offset, end)
            self._disk.read_into(offset, view)
        except errors.DiskReadError:
            # Sectors that fail where there is no data are no loss.
            starts = [offset, *(stop for _, stop in holes)]
            stops = [*(start for start, _ in holes), end]
            read_into = (self._salvage or self._disk).read_into
            for start, stop in zip(starts, stops, strict=True):
                if start < stop:
                    read_into(start, view[start - offset : stop - offset])
        for start, stop in holes:
            view[start - offset : stop - offset] = self._zeroes[: stop - start]
