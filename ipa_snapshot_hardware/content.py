# SPDX-License-Identifier: Apache-2.0
"""What is on the disk, in flat memory: which cluster lies where.

::

    clusters   3   4   5  17  18  40     those that are not zero
    slots      0   1   0   3   2   4     where their content is in the packs

A content is numbered when it is first seen. A pack takes a run of numbers
and puts its clusters into an order of its own, which makes slots of them: a
shuffle of the same run, known when the pack is closed.
"""

import bisect
from collections.abc import Iterator
from collections.abc import Sequence

from ironic_snapshot_core import errors
from ipa_snapshot_hardware import known

_MOST_CLUSTERS = 0xFFFFFFFE


class Content:
    """The content of a disk, as it becomes known.

    One thread adds clusters, in the order of the disk; others may search
    for digests meanwhile.

    :param clusters: the most clusters it can hold.
    :param digest_size: size of every digest in bytes.
    :raises InvalidValue: when there are more than fit into memory flatly.
    """

    def __init__(self, clusters: int, digest_size: int) -> None:
        if clusters > _MOST_CLUSTERS:
            raise errors.InvalidValue(
                'cluster_size',
                '(too small)',
                f'it makes {clusters} clusters of this disk, and only '
                f'{_MOST_CLUSTERS} can be handled',
            )
        self._known = known.KnownClusters(clusters, digest_size)
        self._clusters = _numbers(clusters)
        self._slots = _numbers(clusters)
        self._count = 0
        # The first cluster, by position, that may have no slot yet.
        self._open = 0

    @property
    def data_clusters(self) -> int:
        """Clusters of the disk that are not zero."""
        return self._count

    @property
    def distinct_clusters(self) -> int:
        """Clusters among them with a content of their own."""
        return len(self._known)

    def is_known(self, digest: bytes) -> bool:
        """Tell whether some cluster had this content before.

        No is not final while another thread adds; yes is.
        """
        return self._known.find(digest) is not None

    def add(self, cluster: int, digest: bytes) -> bool:
        """Take in a cluster that is not zero, behind those before.

        :returns: whether its content is new and has to be stored; new
            contents are numbered in the order of these calls.
        """
        known = len(self._known)
        number = self._known.add(digest)
        self._append(cluster, number)
        return number == known

    def place(self, first: int, order: Sequence[int]) -> None:
        """Say how a pack has shuffled its clusters, which are the latest.

        :param first: number of the first content in the pack, and its first
            slot.
        :param order: for each position in the pack the content there, as
            its number less the first.
        """
        self._known.settle(order)
        slot_of = [0] * len(order)
        for slot, number in enumerate(order, first):
            slot_of[number] = slot
        slots = self._slots
        for position in range(self._open, self._count):
            if slots[position] >= first:
                slots[position] = slot_of[slots[position] - first]
        self._open = self._count

    def restore(
        self, clusters: Iterator[tuple[int, int]], digests: Sequence[bytes]
    ) -> None:
        """Take in what was captured before an interruption.

        :param clusters: (cluster, slot) in disk order, behind those before.
        :param digests: of the slots that are new.
        """
        for digest in digests:
            self._known.add(digest)
        self._known.settle()
        for cluster, slot in clusters:
            self._append(cluster, slot)
        self._open = self._count

    def digest_of(self, cluster: int) -> bytes | None:
        """Give the digest of a cluster, None when it reads as zeroes."""
        position = bisect.bisect_left(
            self._clusters, cluster, 0, self._count
        )
        if position == self._count or self._clusters[position] != cluster:
            return None
        return self._known.digest(self._slots[position])

    def digests(self, first: int, count: int) -> memoryview:
        """Give the digests of some slots, one after the other."""
        return self._known.digests(first, count)

    def between(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Give (cluster, slot) of some, by their ordinal from 0."""
        return zip(
            self._clusters[first:last], self._slots[first:last], strict=True
        )

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Give (cluster, slot) of what is not zero, in disk order."""
        return self.between(0, self._count)

    # Private

    def _append(self, cluster: int, slot: int) -> None:
        self._clusters[self._count] = cluster
        self._slots[self._count] = slot
        self._count += 1


def _numbers(count: int) -> 'memoryview[int]':
    """Make room for so many numbers of 32 bits.

    Memory is taken as it is filled, not in advance.
    """
    return memoryview(bytearray(4 * count)).cast('I')
