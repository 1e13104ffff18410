# SPDX-License-Identifier: Apache-2.0
"""Tell the kind of a partition table from a disk's first sectors."""

import struct

from ironic_snapshot_core import gpt

# At the end of the first 512 bytes, whatever the sector size.
_DOS_SIGNATURE = b'\x55\xaa'
_DOS_SIGNATURE_OFFSET = 510
# UEFI specification 2.10, section 5.2.1: whether it is booted from, type,
# first sector, number of sectors; all in the logical sectors of the disk.
_DOS_ENTRY = struct.Struct('<B3xB3xII')
_DOS_ENTRIES = range(446, _DOS_SIGNATURE_OFFSET, _DOS_ENTRY.size)
_DOS_STATUS = (0x00, 0x80)


def size_needed(sector_size: int) -> int:
    """Tell how much of the disk's start :func:`detect` wants to see."""
    return sector_size + len(gpt.SIGNATURE)


def detect(start: bytes, sector_size: int) -> str | None:
    """Tell the kind of partition table.

    :param start: the first bytes of the disk.
    :param sector_size: logical sector size in bytes.
    :returns: ``gpt``, ``dos`` or None. A file system without a table that
        ends its first sector in 55 AA, as FAT does, reads as ``dos``: this
        is a remark for people, nothing is decided by it.
    """
    second = start[sector_size : sector_size + len(gpt.SIGNATURE)]
    if second == gpt.SIGNATURE:
        return 'gpt'
    end = _DOS_SIGNATURE_OFFSET + len(_DOS_SIGNATURE)
    if start[_DOS_SIGNATURE_OFFSET:end] == _DOS_SIGNATURE:
        return 'dos'
    return None


def dos_end(start: bytes, sector_size: int) -> int:
    """Tell where the last partition of an MBR ends.

    An extended partition holds the logical ones, so four entries tell all.
    A file system that reads as ``dos`` has no such entries.

    :param start: the first sector of the disk.
    :returns: in bytes; 0 when there is no partition.
    """
    end = 0
    for offset in _DOS_ENTRIES:
        status, kind, first, count = _DOS_ENTRY.unpack_from(start, offset)
        if status not in _DOS_STATUS:
            return 0
        if kind:
            end = max(end, (first + count) * sector_size)
    return end
