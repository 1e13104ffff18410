# SPDX-License-Identifier: Apache-2.0
"""Runs of bytes of one kind."""

import dataclasses
import enum
import typing

from ironic_snapshot_core import errors


class Kind(enum.Enum):
    """What an extent holds."""

    #: Bytes to be read.
    DATA = 'data'
    #: Reads as zeroes.
    ZERO = 'zero'
    #: Not allocated; nobody cares what it reads as.
    HOLE = 'hole'


@dataclasses.dataclass(frozen=True, slots=True)
class Extent:
    """A run of bytes of one kind.

    :param start: offset of the first byte.
    :param length: number of bytes, at least 1.
    """

    start: int
    length: int
    kind: Kind

    def __post_init__(self) -> None:
        if self.start < 0:
            raise errors.InvalidValue(
                'extent start', self.start, 'it is negative')
        if self.length < 1:
            raise errors.InvalidValue(
                'extent length', self.length, 'it is not positive')

    @property
    def end(self) -> int:
        """Offset of the first byte behind the extent."""
        return self.start + self.length


def align(extent: Extent, n: int) -> Extent:
    """Grow an extent, both ways, to whole multiples of ``n``."""
    start = extent.start // n * n
    end = -(-extent.end // n) * n
    return Extent(start, end - start, extent.kind)


def merge(extents: typing.Iterable[Extent]) -> typing.Iterator[Extent]:
    """Join neighbours of the same kind.

    :raises InvalidValue: extents overlap or are out of order.
    """
    last: Extent | None = None
    for extent in extents:
        if last is None:
            last = extent
        elif extent.start < last.end:
            raise errors.InvalidValue(
                'extent', extent, f'it begins before {last} ends')
        elif extent.start == last.end and extent.kind is last.kind:
            last = Extent(last.start, last.length + extent.length, last.kind)
        else:
            yield last
            last = extent
    if last is not None:
        yield last


def split(extent: Extent, n: int) -> typing.Iterator[Extent]:
    """Cut an extent at every multiple of ``n``.

    ::

        n         |     |     |     |
        extent      -----------
        pieces      --- ------- -
    """
    start = extent.start
    while start < extent.end:
        end = min(extent.end, start // n * n + n)
        yield Extent(start, end - start, extent.kind)
        start = end
