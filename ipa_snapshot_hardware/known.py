# SPDX-License-Identifier: Apache-2.0
"""Clusters that are stored already, found by digest in flat memory."""

import array

# A place in the table that is taken by nobody.
_EMPTY = 0xFFFFFFFF
# The table is at most this full, so that a search stays a few steps long.
_LOAD_NUMERATOR, _LOAD_DENOMINATOR = 3, 4
_PLACE_SIZE = 4


def memory_needed(clusters: int, digest_size: int) -> int:
    """Tell the memory of a full table, in bytes.

    ``4 * table places + (digest size * 9 / 8) * clusters``; the places are
    a power of two, at least 4/3 and at most 8/3 of the clusters. (A growing
    bytearray takes up to an eighth more than it holds.)
    """
    return _PLACE_SIZE * _places(clusters) + clusters * digest_size * 9 // 8


def _places(clusters: int) -> int:
    wanted = clusters * _LOAD_DENOMINATOR // _LOAD_NUMERATOR + 1
    return 1 << max(wanted - 1, 1).bit_length()


class KnownClusters:
    """Numbers the distinct clusters of one attempt from 0 in order.

    The table is open-addressed and holds only numbers; what they stand for
    is compared in full, so no two different digests are ever taken for the
    same, however they were made::

        digest --(its first 8 bytes)--> place -> number -> digests[number]

    One thread adds; any thread may search meanwhile. Such a search may miss
    what is being added just then, and never finds what is not there.

    :param capacity: the most clusters it can hold.
    :param digest_size: size of every digest in bytes.
    """

    def __init__(self, capacity: int, digest_size: int) -> None:
        if capacity >= _EMPTY:
            raise ValueError(f'{capacity} clusters are too many')
        self._capacity = capacity
        self._size = digest_size
        self._mask = _places(capacity) - 1
        self._table = array.array('I', [_EMPTY]) * (self._mask + 1)
        self._digests = bytearray()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def find(self, digest: bytes) -> int | None:
        """Return the number of a cluster, or None when it is not known."""
        number = self._table[self._search(digest)]
        return None if number == _EMPTY else number

    def add(self, digest: bytes) -> int:
        """Take in a cluster that is not known yet; return its number."""
        if self._count == self._capacity:
            raise ValueError(f'more than {self._capacity} clusters')
        number = self._count
        place = self._search(digest)
        # In this order: who searches meanwhile must find the digest of any
        # number seen in the table.
        self._digests += digest
        self._count += 1
        self._table[place] = number
        return number

    # Private

    def _search(self, digest: bytes) -> int:
        """Find the place of a digest, or the empty one where it belongs."""
        place = int.from_bytes(digest[:8], 'little') & self._mask
        while True:
            number = self._table[place]
            if number == _EMPTY or self._digest(number) == digest:
                return place
            place = (place + 1) & self._mask

    def _digest(self, number: int) -> bytes:
        start = number * self._size
        return bytes(self._digests[start : start + self._size])
