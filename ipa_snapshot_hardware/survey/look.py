# SPDX-License-Identifier: Apache-2.0
"""What a look at one part of the disk has found."""

import collections.abc
import dataclasses

from ironic_snapshot_core import extent
from ironic_snapshot_core import manifest
from ironic_snapshot_core.units import MiB

#: Of every part that is looked through, as much at both ends is data
#: whatever its map says: boot code lies there, copies of superblocks, and
#: labels of whatever else may once look at it.
EDGE_BYTES = 1 * MiB

#: Called often while something takes its time; may raise to give up.
Watch = collections.abc.Callable[[], None]


class Doubt(Exception):  # noqa: N818  not an error: the part is read whole
    """A part cannot be looked through with certainty.

    :param reason: why, in a few stable words; the manifest shows them.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclasses.dataclass(frozen=True)
class Look:
    """What a part of the disk holds, and what of it is data.

    :param content: type of the file system or container, as blkid names it;
        empty where nothing is known.
    :param method: one of :data:`manifest.METHODS`.
    :param reason: why nothing better could be done, in a few stable words;
        empty when there is nothing to explain.
    :param extents: the data, in bytes from the start of the *disk*.
    :param inner: parts inside this one, such as logical volumes.
    """

    content: str
    method: str
    reason: str
    extents: extent.DataExtents
    inner: tuple[manifest.Region, ...] = ()


def whole(start: int, length: int, content: str, reason: str) -> Look:
    """Count all of a part as data.

    :param start: in bytes from the start of the disk.
    :param length: in bytes.
    :param reason: why.
    """
    extents = extent.DataExtents()
    extents.add(start, start + length)
    return Look(content, manifest.WHOLE, reason, extents)


def allocated(
    start: int,
    length: int,
    content: str,
    ranges: collections.abc.Iterable[tuple[int, int]],
) -> Look:
    """Count a part's edges and what its file system uses as data.

    :param start: in bytes from the start of the disk.
    :param length: in bytes.
    :param ranges: (start, end) in bytes from the start of the *part*, in
        order, none beyond its end.
    """
    extents = extent.DataExtents()
    extents.add(start, start + min(EDGE_BYTES, length))
    last = max(0, length - EDGE_BYTES)
    for begin, end in ranges:
        # To the end, even so: what is wrong with a map may come last.
        if begin < last:
            extents.add(start + begin, start + end)
    # A range that reaches into the last edge may have begun before it.
    extents.add(start + last, start + length)
    return Look(content, manifest.ALLOCATED, '', extents)
