# SPDX-License-Identifier: Apache-2.0
"""Clusters that a hint proves to be as the parent has them: not read at all.

::

    data       ########  ##########################
    unchanged  ########        ############
    clusters  |--------|--------|--------|--------|
    taken over    yes               yes

A cluster is taken over when all of it is data, and all of that unchanged: of
one that is data in part, nobody knows which part was when the parent was
captured.
"""

import array
import bisect
import heapq
import sys
from collections.abc import Iterable
from collections.abc import Iterator

from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import extent
from ironic_snapshot_core import manifest as manifests
from ipa_snapshot_hardware import parent as parents
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.hints import base as hints

# Reads as zero.
_ZERO = -1


class TakenOver:
    """Runs of clusters that are taken over, and their contents."""

    def __init__(self) -> None:
        self._firsts = array.array('I')
        self._counts = array.array('I')
        self._numbers = array.array('q')

    def add(self, first: int, count: int, number: int | None) -> None:
        """Take over a run, behind those before.

        :param number: of the first one's content, those of the others
            follow; None: they are zero.
        """
        self._firsts.append(first)
        self._counts.append(count)
        self._numbers.append(_ZERO if number is None else number)

    def __len__(self) -> int:
        """Number of runs."""
        return len(self._firsts)

    def runs(self, first: int = 0) -> Iterator[tuple[int, int, int | None]]:
        """Give (first cluster, count, number of the first content).

        :param first: cluster to begin with.
        """
        for start, count, number in zip(
            self._firsts, self._counts, self._numbers, strict=True
        ):
            skipped = min(max(first - start, 0), count)
            if skipped < count:
                yield (
                    start + skipped,
                    count - skipped,
                    None if number == _ZERO else number + skipped,
                )

    def find(self, cluster: int) -> int | None:
        """Give the number of a cluster's content; None for zero.

        :raises KeyError: it is not taken over.
        """
        at = bisect.bisect_right(self._firsts, cluster) - 1
        if at < 0 or cluster >= self._firsts[at] + self._counts[at]:
            raise KeyError(cluster)
        if self._numbers[at] == _ZERO:
            return None
        return self._numbers[at] + cluster - self._firsts[at]

    def __contains__(self, cluster: int) -> bool:
        try:
            self.find(cluster)
        except KeyError:
            return False
        return True

    def without(
        self, extents: extent.DataExtents, cluster_size: int
    ) -> extent.DataExtents:
        """Give what is left to be read of a disk's data."""
        # To give up a hole between them would leave clusters unread.
        taken = extent.DataExtents(sys.maxsize)
        for first, count, _ in self.runs():
            taken.add(first * cluster_size, (first + count) * cluster_size)
        left = extent.DataExtents()
        for start, end in extents:
            for hole_start, hole_end in taken.holes(start, end):
                left.add(hole_start, hole_end)
        return left


def ask(
    found: Iterable[hints.Hint], disk: manifests.Disk, parent: parents.Parent
) -> extent.DataExtents:
    """Ask hints for what has not changed since the parent.

    :param disk: the one to be captured; must be the parent's. What the
        parent has zeroes for, as it could not be read, is no reason not to
        read it now: of a degraded parent nothing is taken over.
    :returns: what any of them says; nothing when none can tell.
    """
    before = parent.manifest.disk
    if (
        parent.manifest.unreadable
        or disk.size != before.size
        or _differ(disk.serial, before.serial)
        or _differ(disk.wwn, before.wwn)
    ):
        return extent.DataExtents()
    told = [hint.unchanged(parent.manifest.hints) for hint in found]
    ranges = heapq.merge(*(each for each in told if each is not None))
    # Two that were joined across a hole would claim too much.
    unchanged = extent.DataExtents(sys.maxsize)
    for start, end in ranges:
        unchanged.add(start, end)
    return unchanged


def _differ(now: str, before: str) -> bool:
    """Tell whether two facts about disks differ, where both are known."""
    return bool(now and before and now != before)


def find(
    disk: base.Disk,
    extents: extent.DataExtents,
    unchanged: extent.DataExtents,
    map_: cluster_map.ClusterMap,
    shared: parents.Shared,
) -> TakenOver:
    """Find what can be taken over.

    :param extents: all data of the disk.
    :param map_: the parent's.
    """
    size = map_.cluster_size
    taken = TakenOver()
    for start, end in extents:
        at = start
        for hole_start, hole_end in _and_the_end(
            unchanged.holes(start, end), end
        ):
            first = -(-at // size)
            stop = (
                map_.cluster_count
                if hole_start == disk.size
                else hole_start // size
            )
            if first < stop:
                _look_up(map_, shared, first, stop, taken)
            at = hole_end
    return taken


# Private


def _and_the_end(
    holes: Iterator[tuple[int, int]], end: int
) -> Iterator[tuple[int, int]]:
    yield from holes
    yield end, end


def _look_up(
    map_: cluster_map.ClusterMap,
    shared: parents.Shared,
    first: int,
    stop: int,
    taken: TakenOver,
) -> None:
    """Find the contents of a run of clusters in the parent's packs."""
    extents = map_.extents
    at = max(bisect.bisect_right(extents.starts, first) - 1, 0)
    while first < stop:
        if at == len(extents) or extents.starts[at] >= stop:
            taken.add(first, stop - first, None)
            return
        start, count = extents.starts[at], extents.counts[at]
        if first < start:
            taken.add(first, start - first, None)
            first = start
        end = min(start + count, stop)
        attempt = map_.attempts[extents.attempts[at]]
        while first < end:
            slot = extents.slots[at] + first - start
            place = shared.number_of(attempt, slot)
            if place is None:
                # In a pack that is stored again.
                first += 1
                continue
            length = min(place[1], end - first)
            taken.add(first, length, place[0])
            first += length
        at += 1
