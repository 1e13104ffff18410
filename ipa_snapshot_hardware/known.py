# SPDX-License-Identifier: Apache-2.0
"""Clusters that are stored already, found by digest in flat memory."""

import array
import contextlib
import math
import mmap
import struct
from collections.abc import Sequence

# A place in the table that is taken by nobody.
_EMPTY = 0xFFFFFFFF
# The table is at most this full, so that a search stays a few steps long.
_LOAD_NUMERATOR, _LOAD_DENOMINATOR = 5, 6

_first_bytes = struct.Struct('<Q').unpack_from


def reserve(size: int) -> mmap.mmap:
    """Get zeroed memory that is taken as it is filled, not in advance."""
    return mmap.mmap(
        -1, max(size, 1), mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    )


class KnownClusters:
    """Numbers distinct clusters from 0 in order.

    The table is open-addressed and holds only numbers; what they stand for
    is compared in full, so no two different digests are ever taken for the
    same, however they were made::

        digest --(its first 8 bytes)--> place -> number -> digests[number]

    When another digest is there, a step that follows from the same bytes
    leads to the next place.

    One thread adds; any thread may search meanwhile. Such a search may miss
    what is being added or settled just then, and never finds what is not
    there.

    Memory for the digests is taken as it is filled, that of the table at once:
    ``4 * 6/5`` bytes for each of the capacity.

    :param capacity: the most clusters it can hold.
    :param digest_size: size of every digest in bytes.
    """

    def __init__(self, capacity: int, digest_size: int) -> None:
        if capacity >= _EMPTY:
            raise ValueError(f'{capacity} clusters are too many')
        self._capacity = capacity
        self._size = digest_size
        self._places = _prime_from(
            capacity * _LOAD_DENOMINATOR // _LOAD_NUMERATOR + 1
        )
        self._table = array.array('I', [_EMPTY]) * self._places
        self._digests = reserve(capacity * digest_size)
        # They are looked at all over: large pages make that a tenth faster.
        with contextlib.suppress(OSError):
            self._digests.madvise(mmap.MADV_HUGEPAGE)
        self._view = memoryview(self._digests).toreadonly()
        self._count = 0
        # Of the clusters that are not settled, in their order.
        self._latest: list[int] = []

    def __len__(self) -> int:
        return self._count

    def find(self, digest: bytes) -> int | None:
        """Return the number of a cluster, or None when it is not known."""
        number = self._table[self._search(digest)]
        return None if number == _EMPTY else number

    def add(self, digest: bytes) -> int:
        """Return the number of a cluster, taking it in if it is new.

        It is new if its number is what :func:`len` was before.
        """
        table = self._table
        place = self._search(digest)
        number = table[place]
        if number != _EMPTY:
            return number
        number = self._count
        if number == self._capacity:
            raise ValueError(f'more than {self._capacity} clusters')
        # In this order: who searches meanwhile must find the digest of any
        # number seen in the table.
        size = self._size
        self._digests[number * size : (number + 1) * size] = digest
        self._count = number + 1
        table[place] = number
        self._latest.append(place)
        return number

    def load(self, digests: bytes | memoryview) -> None:
        """Take in many at once, in the order of their numbers.

        They are final. One that is known already gets another number, by
        which it is not found.

        :param digests: one after the other.
        :raises ValueError: when there are too many.
        """
        count = len(digests) // self._size
        number = self._count
        if number + count > self._capacity:
            raise ValueError(f'more than {self._capacity} clusters')
        start = number * self._size
        self._digests[start : start + len(digests)] = digests
        # Millions of times: see _search().
        table, places = self._table, self._places
        beginnings = struct.Struct(f'<Q{self._size - 8}x')
        for (beginning,) in beginnings.iter_unpack(digests):
            place = beginning % places
            if table[place] != _EMPTY:
                step = _step(beginning, places)
                while table[place] != _EMPTY:
                    place = (place + step) % places
            table[place] = number
            number += 1
        self._count = number

    def digest(self, number: int) -> bytes:
        """Return the digest of a cluster."""
        start = number * self._size
        return bytes(self._digests[start : start + self._size])

    def digests(self, first: int, count: int) -> memoryview:
        """Give the digests of some clusters in the order of their numbers.

        Not a copy: whoever looks at it keeps all of them in memory.
        """
        return self._view[first * self._size : (first + count) * self._size]

    def settle(self, order: Sequence[int] | None = None) -> None:
        """End the run of clusters that were added since this was called.

        :param order: gives them their final numbers: for each position in
            the run the cluster there, as its position before. None: they
            stay as they are.
        """
        places, self._latest = self._latest, []
        if order is None:
            return
        first = self._count - len(places)
        start = first * self._size
        run = bytes(self._digests[start : self._count * self._size])
        ends = range(self._size, len(run) + 1, self._size)
        cut = [run[end - self._size : end] for end in ends]
        self._digests[start : start + len(run)] = b''.join(
            [cut[position] for position in order]
        )
        for number, position in enumerate(order, first):
            self._table[places[position]] = number

    # Private

    def _search(self, digest: bytes) -> int:
        """Find the place of a digest, or the empty one where it belongs."""
        table = self._table
        (beginning,) = _first_bytes(digest)
        place: int = beginning % self._places
        step = 0
        # Millions of times: nothing is looked up or called in vain.
        while (number := table[place]) != _EMPTY:
            start = number * self._size
            if self._digests[start : start + self._size] == digest:
                break
            step = step or _step(beginning, self._places)
            place = (place + step) % self._places
        return place


def _step(beginning: int, places: int) -> int:
    """Say how far it is from a place that is taken to the next to try.

    With the same step for all, long stretches would fill up, and searches
    take nearly twice as many steps.
    """
    return beginning // places % (places - 1) + 1


def _prime_from(least: int) -> int:
    """Give the first prime that is not less.

    Of so many places, steps of any width lead to all.
    """
    number = max(least, 2)
    while any(number % by == 0 for by in range(2, math.isqrt(number) + 1)):
        number += 1
    return number
