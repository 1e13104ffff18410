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

Most clusters are next to the one before, so only runs of them are kept, each
by its first cluster and by how many clusters are before it::

    firsts     3   17  40
    ordinals   0   3   5
"""

import array
import bisect
import itertools
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
        self._numbers = _numbers(clusters)
        self._count = 0
        self._firsts = _numbers(clusters)
        self._ordinals = _numbers(clusters)
        self._runs = 0
        # The cluster behind the last.
        self._next = -1
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
        if len(clusters) and clusters[-1] - clusters[0] < len(clusters):
            self._reach(clusters[0], clusters[-1], self._count)
        else:
            for ordinal, cluster in enumerate(clusters, self._count):
                self._reach(cluster, cluster, ordinal)
        end = self._count + len(clusters)
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
        numbers = self._numbers[self._open : self._count]
        numbers[:] = array.array(
            'I',
            [
                number_of[number - first] if number >= first else number
                for number in numbers
            ],
        )
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
        run = bisect.bisect_right(self._firsts, cluster, 0, self._runs) - 1
        if run < 0:
            return None
        ordinal = self._ordinals[run] + cluster - self._firsts[run]
        if ordinal >= self._end_of(run):
            return None
        return self._known.digest(self._numbers[ordinal])

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
            itertools.chain.from_iterable(self._ranges(first, last)),
            self._numbers[first:last],
            strict=True,
        )

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Give (cluster, number) of what is not zero, in disk order."""
        return self.between(0, self._count)

    # Private

    def _append(self, cluster: int, number: int) -> None:
        count = self._count
        if cluster != self._next:
            self._reach(cluster, cluster, count)
        else:
            self._next = cluster + 1
        self._numbers[count] = number
        self._count = count + 1

    def _reach(self, first: int, last: int, ordinal: int) -> None:
        """Take in neighbours, behind those before.

        :param ordinal: how many clusters are before the first.
        """
        if first != self._next:
            self._firsts[self._runs] = first
            self._ordinals[self._runs] = ordinal
            self._runs += 1
        self._next = last + 1

    def _end_of(self, run: int) -> int:
        """Give the ordinal behind that of the last cluster of a run."""
        if run + 1 == self._runs:
            return self._count
        return self._ordinals[run + 1]

    def _ranges(self, first: int, last: int) -> Iterator[range]:
        """Give the clusters from one ordinal up to another."""
        run = bisect.bisect_right(self._ordinals, first, 0, self._runs) - 1
        while first < last:
            end = min(self._end_of(run), last)
            shift = self._firsts[run] - self._ordinals[run]
            yield range(first + shift, end + shift)
            first = end
            run += 1


def _numbers(count: int) -> 'memoryview[int]':
    """Make room for so many numbers of 32 bits."""
    return memoryview(known.reserve(4 * max(count, 1))).cast('I')
