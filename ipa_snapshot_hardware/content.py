# SPDX-License-Identifier: Apache-2.0
"""What is on the disk, in flat memory: which cluster lies where.

::

    clusters   3   4   5  17  18  40     those that are not zero
    numbers    7   2   7   9   8  10     of their contents

What older attempts have stored is numbered first, then each new content when
it is first seen. A pack takes a run of new numbers and puts its clusters into
an order of its own: a shuffle of the same run, known when the pack is closed.
From then on the number, less those of older attempts, is the slot::

    0 1 2 3 4 5 6 | 7 8 9 10 ...
    shared        | own slots 0 1 2 3 ...
"""

import array
import bisect
from collections.abc import Iterable
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
    :param shared: contents of older attempts that will be loaded.
    :raises InvalidValue: when there are more than fit into memory flatly.
    """

    def __init__(
        self, clusters: int, digest_size: int, shared: int = 0
    ) -> None:
        if clusters + shared > _MOST_CLUSTERS:
            raise errors.InvalidValue(
                'cluster_size',
                '(too small)',
                f'it makes {clusters} clusters of this disk, and only '
                f'{_MOST_CLUSTERS} can be handled',
            )
        #: How many numbers are those of older attempts.
        self.shared = shared
        self._known = known.KnownClusters(shared + clusters, digest_size)
        self._clusters = _numbers(clusters)
        self._numbers = _numbers(clusters)
        self._count = 0
        # The first cluster, by position, that may have no final number yet.
        self._open = 0

    @property
    def data_clusters(self) -> int:
        """Clusters of the disk that are not zero."""
        return self._count

    @property
    def new_clusters(self) -> int:
        """Contents that no older attempt has stored."""
        return len(self._known) - self.shared

    def load(self, digests: bytes | memoryview) -> None:
        """Take in contents of older attempts, before anything else.

        :param digests: one after the other, in the order of the numbers.
        """
        self._known.load(digests)

    def find(self, digest: bytes) -> int | None:
        """Give the number of a content; that of a new one may change yet.

        None is not final while another thread adds; a number is.
        """
        return self._known.find(digest)

    def add(self, cluster: int, digest: bytes) -> bool:
        """Take in a cluster that is not zero, behind those before.

        :returns: whether its content is new and has to be stored; new
            contents are numbered in the order of these calls.
        """
        known = len(self._known)
        number = self._known.add(digest)
        self._append(cluster, number)
        return number == known

    def extend(
        self, clusters: Sequence[int], numbers: Sequence[int]
    ) -> None:
        """Take in clusters whose contents older attempts have stored.

        :param clusters: behind those before.
        :param numbers: of their contents.
        """
        end = self._count + len(clusters)
        self._clusters[self._count : end] = array.array('I', clusters)
        self._numbers[self._count : end] = array.array('I', numbers)
        self._count = end

    def place(self, first: int, order: Sequence[int]) -> None:
        """Say how a pack has shuffled its clusters, which are the latest.

        :param first: slot of the first content in the pack.
        :param order: for each position in the pack the content there, as
            its number less that of the first.
        """
        first += self.shared
        self._known.settle(order)
        number_of = [0] * len(order)
        for number, before in enumerate(order, first):
            number_of[before] = number
        numbers = self._numbers
        for position in range(self._open, self._count):
            if numbers[position] >= first:
                numbers[position] = number_of[numbers[position] - first]
        self._open = self._count

    def restore(
        self, clusters: Iterable[tuple[int, int]], digests: bytes
    ) -> None:
        """Take in what was captured before an interruption.

        :param clusters: (cluster, number) in disk order, behind those
            before.
        :param digests: of the slots that are new, one after the other.
        """
        self._known.load(digests)
        for cluster, number in clusters:
            self._append(cluster, number)
        self._open = self._count

    def digest_of(self, cluster: int) -> bytes | None:
        """Give the digest of a cluster, None when it reads as zeroes."""
        position = bisect.bisect_left(
            self._clusters, cluster, 0, self._count
        )
        if position == self._count or self._clusters[position] != cluster:
            return None
        return self._known.digest(self._numbers[position])

    def digest(self, number: int) -> bytes:
        """Give the digest of a content."""
        return self._known.digest(number)

    def digests(self, first: int, count: int) -> memoryview:
        """Give the digests of some slots, one after the other."""
        return self._known.digests(self.shared + first, count)

    def shared_digests(self, first: int, count: int) -> memoryview:
        """Give those of some shared contents, likewise."""
        return self._known.digests(first, count)

    def used(self) -> bytearray:
        """Tell which of the shared contents the disk has: a byte for each.

        New ones it has all of.
        """
        shared = self.shared
        found = bytearray(shared)
        for number in self._numbers[: self._count]:
            if number < shared:
                found[number] = 1
        return found

    def between(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Give (cluster, number) of some, by their ordinal from 0."""
        return zip(
            self._clusters[first:last],
            self._numbers[first:last],
            strict=True,
        )

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Give (cluster, number) of what is not zero, in disk order."""
        return self.between(0, self._count)

    # Private

    def _append(self, cluster: int, number: int) -> None:
        self._clusters[self._count] = cluster
        self._numbers[self._count] = number
        self._count += 1


def _numbers(count: int) -> 'memoryview[int]':
    """Make room for so many numbers of 32 bits."""
    return memoryview(known.reserve(4 * max(count, 1))).cast('I')
