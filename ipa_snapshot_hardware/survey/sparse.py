# SPDX-License-Identifier: Apache-2.0
"""The holes of a regular file, which read as zeroes for certain."""

import collections.abc
import errno
import os
import stat

from ironic_snapshot_core import extent


def without_holes(
    extents: extent.DataExtents, path: str, size: int
) -> extent.DataExtents:
    """Leave out of some ranges what are holes of the file they are of.

    :param path: of the disk; if it is no regular file, nothing is left out.
    :param size: of the disk, in bytes.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return extents
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return extents
        found = extent.DataExtents()
        for start, end in intersect(extents, _data(descriptor, size)):
            found.add(start, end)
        return found
    finally:
        os.close(descriptor)


def intersect(
    one: collections.abc.Iterable[tuple[int, int]],
    other: collections.abc.Iterable[tuple[int, int]],
) -> collections.abc.Iterator[tuple[int, int]]:
    """Give what is in both of two series of ordered ranges."""
    others = iter(other)
    begin = stop = 0
    for start, end in one:
        while True:
            while stop <= start:
                following = next(others, None)
                if following is None:
                    return
                begin, stop = following
            if begin < end:
                yield max(start, begin), min(end, stop)
            if stop >= end:
                break
            start = stop


# Private


def _data(
    descriptor: int, size: int
) -> collections.abc.Iterator[tuple[int, int]]:
    """Give (start, end) of what is no hole, in order."""
    end = 0
    while end < size:
        try:
            start = os.lseek(descriptor, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            # A file system that cannot tell.
            yield end, size
            return
        end = min(size, os.lseek(descriptor, start, os.SEEK_HOLE))
        yield start, end
