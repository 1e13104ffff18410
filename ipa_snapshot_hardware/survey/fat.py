# SPDX-License-Identifier: Apache-2.0
"""FAT16 and FAT32: whether their allocation table can be relied upon.

The layout is that of Microsoft's *FAT32 File System Specification* 1.03; the
flag in the boot sector is what Linux and Windows keep as well (kernel,
include/uapi/linux/msdos_fs.h: FAT_STATE_DIRTY).
"""

import struct

from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import part

_BOOT_SIZE = 512
# Fewer clusters are a FAT12, which has no place for a flag.
_MIN_FAT16 = 4085
_MIN_FAT32 = 65525
_MIRRORING_OFF = 0x80
_STATE_DIRTY = 0x1
# What partclone takes for a FAT16's signature, in the middle of the length
# of an enormous FAT32.
_MAX_FAT32_SECTORS = 0x290000


def check(area: part.Part) -> None:
    """Check that the table is up to date, and understood.

    :raises Doubt: it is not.
    """
    boot = area.read(0, _BOOT_SIZE)
    sector, cluster, reserved, fats, root_entries, small, _, fat_length = (
        struct.unpack_from('<HBHBHHBH', boot, 11))
    sectors = small or struct.unpack_from('<I', boot, 32)[0]
    long_length, flags = struct.unpack_from('<IH', boot, 36)
    fat32 = not fat_length
    length = long_length if fat32 else fat_length
    if (sector not in (512, 1024, 2048, 4096) or not cluster or not reserved
            or not fats or not length
            or sectors * sector > area.length):
        raise look.Doubt('damaged')
    data = sectors - (
        reserved + fats * length + -(-root_entries * 32 // sector))
    clusters = data // cluster
    if fat32 and clusters >= _MIN_FAT32:
        if flags & _MIRRORING_OFF:
            raise look.Doubt('unknown features')
        if length >= _MAX_FAT32_SECTORS:
            raise look.Doubt('too large')
        entry = struct.unpack('<I', area.read(reserved * sector + 4, 4))[0]
        clean = entry & 0x08000000 and entry & 0x04000000
        clean = clean and not boot[65] & _STATE_DIRTY
    elif not fat32 and _MIN_FAT16 <= clusters < _MIN_FAT32:
        entry = struct.unpack('<H', area.read(reserved * sector + 2, 2))[0]
        clean = entry & 0x8000 and entry & 0x4000
        clean = clean and not boot[37] & _STATE_DIRTY
    elif not fat32 and 0 <= clusters < _MIN_FAT16:
        raise look.Doubt('FAT12')
    else:
        raise look.Doubt('damaged')
    if not clean:
        raise look.Doubt('not clean')
