# SPDX-License-Identifier: Apache-2.0
"""The sectors without which nothing boots from a disk.

At the start that is where the MBR, the first GPT and the superblocks of most
file systems are, at the end where the second GPT is::

    |marker|000..000|   clusters, in any order   |0000000000|
     LBA 0  up to the end of the first GPT        second GPT

They are made invalid before anything else is written to a disk, and made
what they should be after everything else is known to be right; LBA 0 last,
for no firmware and no kernel looks at a GPT without it.
"""

import contextlib

from ironic_snapshot_core import errors
from ironic_snapshot_core import units
from ipa_snapshot_hardware.disk import base

# For 128 entries of 128 bytes: what the UEFI specification (2.10, section
# 5.3) wants to be kept free at least, and what every tool makes.
_ENTRIES = 16 * units.KiB

_MARKER = b'ironic-snapshot: restore of '


def size_at_start(sector_size: int) -> int:
    """Tell the size of the first guard: MBR, header and entries.

    :returns: in bytes: 34 sectors of 512, or 6 of 4096.
    """
    return 2 * sector_size + _ENTRIES


def size_at_end(sector_size: int) -> int:
    """Tell the size of the second guard: entries and header.

    :returns: in bytes: 33 sectors of 512, or 5 of 4096.
    """
    return sector_size + _ENTRIES


def marker(snapshot: str, sector_size: int) -> bytes:
    """Make what LBA 0 is while a restore is under way.

    It has no signature at its end, so nothing boots from it, and says to
    whoever looks what has happened.
    """
    text = _MARKER + snapshot.encode() + b' is not finished\n'
    return text.ljust(sector_size, b'\0')


def check_finished(disk: base.Disk) -> None:
    """Refuse a disk that is half restored.

    :raises RestoreUnfinished: it is.
    """
    start = bytearray(disk.logical_sector_size)
    # Where it cannot be read there is no marker; who captures finds out.
    with contextlib.suppress(errors.DiskReadError):
        disk.read_into(0, start)
    if start.startswith(_MARKER):
        text = start.rstrip(b'\0\n').decode('ascii', 'replace')
        raise errors.RestoreUnfinished(
            disk.name, text.removeprefix('ironic-snapshot: ')
        )
