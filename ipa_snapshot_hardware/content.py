# SPDX-License-Identifier: Apache-2.0
"""What is on the disk, in flat memory: cluster by cluster, where it lies.

::

    cluster of the disk --numbers--> number of distinct content, from 0
    number              --slots----> slot in the attempt's packs

Numbers are given in the order of the disk. A pack takes a run of numbers and
puts its clusters into an order of its own, so slots are a shuffle of the
same run, known when the pack is joined.
"""

import array
from collections.abc import Iterator
from collections.abc import Sequence

from ironic_snapshot_core import errors
from ipa_snapshot_hardware import known

# A cluster that reads as zeroes, and is in no pack.
_ZERO = 0xFFFFFFFF
_MOST_CLUSTERS = _ZERO - 1


class Content:
    """The content of a disk, as it becomes known.

    One thread adds clusters, in any order; others may search for digests
    and place what was added.

    :param clusters: number of clusters of the disk.
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
        self._numbers = array.array('I', [_ZERO]) * clusters
        self._slots = array.array('I')
        self._data_clusters = 0

    @property
    def data_clusters(self) -> int:
        """Clusters of the disk that are not zero."""
        return self._data_clusters

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
        """Take in a cluster that is not zero.

        :returns: whether its content is new and has to be stored; new
            contents are numbered in the order of these calls.
        """
        number = self._known.find(digest)
        new = number is None
        if number is None:
            number = self._known.add(digest)
            self._slots.append(number)
        self._numbers[cluster] = number
        self._data_clusters += 1
        return new

    def place(self, first: int, order: Sequence[int]) -> None:
        """Say how a pack has shuffled its clusters.

        :param first: number of the first content in the pack, and its first
            slot.
        :param order: for each position in the pack the content there, as
            its number less the first.
        """
        for slot, number in enumerate(order, first):
            self._slots[first + number] = slot

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """Give (cluster, slot) of what is not zero, in disk order."""
        slots = self._slots
        for cluster, number in enumerate(self._numbers):
            if number != _ZERO:
                yield cluster, slots[number]
