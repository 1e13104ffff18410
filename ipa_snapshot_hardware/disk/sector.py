# SPDX-License-Identifier: Apache-2.0
"""Which sectors of a failed read are the unreadable ones, and the error."""

from collections.abc import Callable

from ironic_snapshot_core import errors
from ipa_snapshot_hardware.disk import base

# A failing sector can keep a disk busy for many seconds, so the run behind
# the first failing sector is followed only this far.
MAX_RUN_SECTORS = 64


def find_unreadable(
    offset: int,
    length: int,
    sector_size: int,
    readable: Callable[[int, int], bool],
) -> tuple[int, int] | None:
    """Find the first run of unreadable sectors in a range.

    The range is halved until one sector is left (a read of 4 MiB costs 13
    failing reads at most), then followed sector by sector::

        ................xxx.......x....     x: unreadable
                        ^^^                 found: the first run

    :param offset: start of the range in bytes, a multiple of sector_size.
    :param length: length of the range in bytes.
    :param sector_size: logical sector size in bytes.
    :param readable: tells whether (offset, length) can be read.
    :returns: offset and length of the run in bytes, or None when all of
        it can be read now.
    """
    if readable(offset, length):
        return None
    end = offset + length
    start, span = offset, length
    while span > sector_size:
        half = (span // sector_size + 1) // 2 * sector_size
        if readable(start, half):
            start += half
            span -= half
        else:
            span = half
    found = start + min(sector_size, span)
    limit = min(end, start + MAX_RUN_SECTORS * sector_size)
    while found < limit:
        step = min(sector_size, limit - found)
        if readable(found, step):
            break
        found += step
    return start, found - start


def read_error(
    disk: base.Disk, offset: int, length: int, reason: str
) -> errors.DiskReadError:
    """Make the error that names what cannot be read.

    :param offset: in bytes.
    :param length: in bytes.
    """
    return errors.DiskReadError(
        device=disk.name,
        serial=disk.serial or 'unknown',
        offset=offset,
        length=length,
        sector_size=disk.logical_sector_size,
        reason=reason,
    )
