# SPDX-License-Identifier: Apache-2.0
"""Which clusters of a disk are not what a snapshot has."""

import dataclasses
import itertools
from collections.abc import Callable
from collections.abc import Generator
from collections.abc import Iterator
from collections.abc import Sequence

from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import extent
from ironic_snapshot_core import snapshot_reader
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import reader
from ipa_snapshot_hardware.disk import base


@dataclasses.dataclass(frozen=True, slots=True)
class Different:
    """A cluster that is not what it should be.

    :param zero: whether it should be zero.
    """

    cluster: int
    zero: bool


class Comparison:
    """Compares clusters of a disk with those of a snapshot.

    :param disk: is read by one thread.
    :param snapshot: what it should be.
    :param digest: of the snapshot.
    :param count: is told how many bytes of the disk were compared.
    """

    def __init__(
        self,
        disk: base.Disk,
        snapshot: snapshot_reader.SnapshotReader,
        digest: digests.Digest,
        allowed: budget.RestoreBudget,
        stop: executor.Stop,
        count: Callable[[int], None],
    ) -> None:
        self._disk = disk
        self._snapshot = snapshot
        self._digest = digest.digest
        self._allowed = allowed
        self._stop = stop
        self._count = count
        # Comparing a bytearray with a memoryview is a memcmp.
        self._zero = bytearray(snapshot.cluster_size)
        self._zero_digest = digest.zero(snapshot.cluster_size)

    def run(
        self, extents: extent.DataExtents, allow_bad_sectors: bool
    ) -> Generator[Different, None, None]:
        """Compare; to be read to its end.

        :param extents: whole clusters.
        :param allow_bad_sectors: take what cannot be read for different.
        :raises DiskReadError: when it cannot be read, otherwise.
        :raises Cancelled: when it was stopped.
        """
        source = reader.ClusterReader(
            self._disk,
            extents,
            self._snapshot.cluster_size,
            self._allowed.read_size,
            allow_bad_sectors,
        )
        with executor.Executor(
            workers=self._allowed.workers,
            reads=self._allowed.reads,
            uploads=1,
            stop=self._stop,
        ) as threads:
            for batch, found in threads.map(source.batches(), self._compare):
                batch.release()
                self._count(batch.size)
                yield from found
        yield from self._unreadable(source.unreadable)

    # Private

    def _compare(
        self, batch: reader.Batch
    ) -> tuple[reader.Batch, list[Different]]:
        """Do what a worker does; several do at a time."""
        size = self._snapshot.cluster_size
        view = batch.view
        found = []
        for position, (cluster, expected) in enumerate(
            zip(batch.numbers, self._expected(batch.numbers), strict=True)
        ):
            data = view[position * size : (position + 1) * size]
            if self._zero == data:
                same = expected in (None, self._zero_digest)
            else:
                same = expected is not None and self._digest(data) == expected
            if not same:
                found.append(Different(cluster, expected is None))
        return batch, found

    def _expected(self, numbers: Sequence[int]) -> Iterator[bytes | None]:
        if isinstance(numbers, range):
            yield from self._snapshot.digests(numbers.start, len(numbers))
            return
        # Neighbours have the same difference from their places.
        for _, group in itertools.groupby(
            enumerate(numbers), lambda each: each[1] - each[0]
        ):
            run = [cluster for _, cluster in group]
            yield from self._snapshot.digests(run[0], len(run))

    def _unreadable(
        self, runs: Sequence[tuple[int, int]]
    ) -> Iterator[Different]:
        size = self._snapshot.cluster_size
        for cluster in sorted(
            {
                cluster
                for start, end in runs
                for cluster in range(start // size, -(-end // size))
            }
        ):
            (expected,) = self._snapshot.digests(cluster, 1)
            yield Different(cluster, expected is None)
