# SPDX-License-Identifier: Apache-2.0
"""A disk as a row of clusters."""

import dataclasses
import mmap
from collections.abc import Iterator

from ipa_snapshot_hardware.disk import base


@dataclasses.dataclass(slots=True)
class Batch:
    """Neighbouring clusters, read at once.

    ``clusters`` are plain ``bytes``, because comparing those with zeroes is
    many times faster than comparing memoryviews. Who works on a batch takes
    them out one by one, so that memory falls as the work goes on.
    """

    first: int
    #: Bytes of the disk; what sticks out does not count.
    size: int
    clusters: list[bytes]


def count_clusters(disk_size: int, cluster_size: int) -> int:
    """Tell how many clusters cover a disk; the last may stick out."""
    return -(-disk_size // cluster_size)


class ClusterReader:
    """Reads clusters; a cluster that sticks out ends in zeroes.

    ::

        disk      |--------|--------|--------|---|
        clusters  |   0    |   1    |   2    |   3 0000|

    It keeps one page-aligned buffer of read_size bytes, for O_DIRECT.

    :param cluster_size: in bytes.
    :param read_size: bytes read at once, a multiple of cluster_size.
    """

    def __init__(
        self, disk: base.Disk, cluster_size: int, read_size: int
    ) -> None:
        self._disk = disk
        self._cluster_size = cluster_size
        self._per_read = read_size // cluster_size
        self._buffer = mmap.mmap(-1, read_size)
        self.clusters = count_clusters(disk.size, cluster_size)

    def batches(self) -> Iterator[Batch]:
        """Read the whole disk in order.

        :raises DiskReadError: when a part cannot be read.
        """
        for first in range(0, self.clusters, self._per_read):
            yield self.read(first, min(self._per_read, self.clusters - first))

    def read(self, first: int, count: int) -> Batch:
        """Read some neighbouring clusters, at most read_size bytes.

        :raises DiskReadError: when a part cannot be read.
        """
        size = self._cluster_size
        offset = first * size
        length = min(count * size, self._disk.size - offset)
        with memoryview(self._buffer) as view, view[:length] as part:
            self._disk.read_into(offset, part)
            clusters = [
                bytes(part[start : start + size])
                for start in range(0, length, size)
            ]
        clusters[-1] = clusters[-1].ljust(size, b'\0')
        return Batch(first, length, clusters)
