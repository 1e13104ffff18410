# SPDX-License-Identifier: Apache-2.0
"""Swap areas: the header is kept, what was swapped out is not.

The header, one page, is all that ``swapon`` wants to see, and what udev
finds the area by (label, UUID). The rest is a former memory of the machine:
of no use to a system that boots anew, often large, and full of what people
would not want in a snapshot. So, unlike elsewhere, neither the first nor the
last MiB is kept either.

It is another thing when the system was suspended to disk: the swap area then
holds the memory it is to wake up with.

Layout: ``union swap_header`` in the kernel's include/linux/swap.h;
signatures of suspended systems: libblkid/src/superblocks/swap.c of
util-linux.
"""

import struct

from ironic_snapshot_core import extent
from ironic_snapshot_core import manifest
from ironic_snapshot_core import units
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.survey import look

CONTENT = 'swap'

# The page sizes of Linux' architectures. The signature ends the first page.
_PAGE_SIZES = tuple(size * units.KiB for size in (4, 8, 16, 32, 64))
# The first page, if it is the largest.
_HEADER_SIZE = 64 * units.KiB
_SIGNATURE_SIZE = 10

_SWAP = b'SWAPSPACE2'
_OLD_SWAP = b'SWAP-SPACE'
_SUSPENDED = (b'S1SUSPEND', b'S2SUSPEND', b'ULSUSPEND', b'LINHIB0001')
# TuxOnIce leaves the swap signature alone and writes its own at the start.
_TUX_ON_ICE = b'\xed\xc3\x02\xe9\x98\x56\xe5\x0c'

# version and last page of it, behind 1 KiB for boot blocks.
_FIELDS_OFFSET = 1024
_VERSION = 1


def survey_swap(disk: base.Disk, start: int, length: int) -> look.Look:
    """Look at a swap area.

    :param start: of the area, in bytes from the start of the disk.
    :param length: of the area, in bytes.
    :returns: the header, and what lies behind the area.
    :raises Doubt: ``hibernation image``, ``bad swap header``.
    :raises DiskReadError: when the header cannot be read.
    """
    header = bytearray(min(_HEADER_SIZE, length))
    disk.read_into(start, header)
    if _is_suspended(header):
        raise look.Doubt('hibernation image')
    page, size = _sizes(header)
    if size > length:
        raise look.Doubt('bad swap header')
    extents = extent.DataExtents()
    extents.add(start, start + page)
    # What lies behind the area is not swap.
    extents.add(start + size, start + length)
    return look.Look(CONTENT, manifest.HEADER, '', extents)


# Private


def _signatures(header: bytearray) -> list[tuple[int, bytes]]:
    """Give what stands at the end of the first page, by size of a page."""
    return [
        (size, bytes(header[size - _SIGNATURE_SIZE : size]))
        for size in _PAGE_SIZES
        if size <= len(header)
    ]


def _is_suspended(header: bytearray) -> bool:
    return header.startswith(_TUX_ON_ICE) or any(
        found.startswith(_SUSPENDED) for _, found in _signatures(header)
    )


def _sizes(header: bytearray) -> tuple[int, int]:
    """Give the sizes of a page and of the area in bytes by the header.

    An area of version 0 (``SWAP-SPACE``) does not tell its size, and no
    kernel since 2.6 uses it.

    :raises Doubt: it is not sound.
    """
    found = [
        (size, signature)
        for size, signature in _signatures(header)
        if signature in (_SWAP, _OLD_SWAP)
    ]
    if len(found) == 1 and found[0][1] == _SWAP:
        # In the byte order of the machine that made it.
        for order in '<>':
            version, last_page = struct.unpack_from(
                f'{order}II', header, _FIELDS_OFFSET
            )
            if version == _VERSION and last_page:
                page = found[0][0]
                return page, (last_page + 1) * page
    raise look.Doubt('bad swap header')
