# SPDX-License-Identifier: Apache-2.0
"""The ranges of a disk that hold data, in flat memory.

Whatever lies between them is a hole: nobody cares what it reads as.
"""

import array
import bisect
import typing

from ironic_snapshot_core import errors

#: Ranges kept apart at most; 16 bytes each.
MAX_RANGES = 4_000_000

_U64 = 'Q'


class DataExtents:
    """Sorted, disjoint ranges of bytes.

    An aged file system of many terabytes may have more ranges than memory is
    worth: then the smallest holes are counted as data, which costs reading
    them and nothing else.

    :param max_ranges: kept apart at most.
    """

    def __init__(self, max_ranges: int = MAX_RANGES) -> None:
        self._max_ranges = max_ranges
        self._least_hole = 1
        self._starts = array.array(_U64)
        self._ends = array.array(_U64)

    def add(self, start: int, end: int) -> None:
        """Add a range that does not begin before the one added last.

        :param end: offset behind its last byte; an empty range is nothing.
        :raises InvalidValue: it is out of order.
        """
        if start >= end:
            return
        if not self._ends:
            self._append(start, end)
        elif start < self._starts[-1] or start < 0:
            raise errors.InvalidValue(
                'range', (start, end), 'it begins before the one before it')
        elif start < self._ends[-1] + self._least_hole:
            self._ends[-1] = max(self._ends[-1], end)
        else:
            self._append(start, end)

    def __len__(self) -> int:
        return len(self._starts)

    def __iter__(self) -> typing.Iterator[tuple[int, int]]:
        """Give (start, end) of each range, in order."""
        return zip(self._starts, self._ends, strict=True)

    @property
    def size(self) -> int:
        """Bytes in all ranges together."""
        return sum(self._ends) - sum(self._starts)

    def clusters(self, cluster_size: int
                 ) -> typing.Iterator[tuple[int, int]]:
        """Give runs of clusters that hold any data: (first, count)."""
        first = end = 0
        for start, stop in self:
            from_cluster = start // cluster_size
            to_cluster = -(-stop // cluster_size)
            if from_cluster > end:
                if end > first:
                    yield first, end - first
                first = from_cluster
            end = max(end, to_cluster)
        if end > first:
            yield first, end - first

    def holes(self, start: int, end: int
              ) -> typing.Iterator[tuple[int, int]]:
        """Give (start, end) of what is not data within a range."""
        number = bisect.bisect_right(self._ends, start)
        while start < end:
            if number == len(self._starts):
                yield start, end
                return
            if self._starts[number] > start:
                yield start, min(end, self._starts[number])
            start = self._ends[number]
            number += 1

    # Private

    def _append(self, start: int, end: int) -> None:
        if len(self._starts) == self._max_ranges:
            self._coarsen()
        self._starts.append(start)
        self._ends.append(end)

    def _coarsen(self) -> None:
        """Give up holes, the smallest first, until a quarter is free."""
        while len(self._starts) > self._max_ranges * 3 // 4:
            self._least_hole *= 2
            starts, ends = self._starts, self._ends
            self._starts, self._ends = (
                array.array(_U64), array.array(_U64))
            for start, end in zip(starts, ends, strict=True):
                if (self._ends
                        and start < self._ends[-1] + self._least_hole):
                    self._ends[-1] = end
                else:
                    self._starts.append(start)
                    self._ends.append(end)


def whole(size: int) -> DataExtents:
    """Give one range from the start to ``size``."""
    extents = DataExtents()
    extents.add(0, size)
    return extents
