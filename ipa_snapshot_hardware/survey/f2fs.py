# SPDX-License-Identifier: Apache-2.0
"""F2FS: whether its segment table can be relied upon.

The layout is that of the kernel's include/linux/f2fs_fs.h; which of the two
checkpoints counts follows f2fs_get_valid_checkpoint() in
fs/f2fs/checkpoint.c.
"""

import struct
import zlib

from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import part

_SUPER_OFFSET = 1024
_SUPER_SIZE = 2304
_MAGIC = 0xF2F52010
_BLOCK = 4096
# The path of the first of several devices begins there.
_DEVICES_OFFSET = 2201

# encrypt, extra_attr, project quota, inode checksum, flexible inline xattr,
# quota files, creation time, lost+found, verity, superblock checksum,
# casefold, compression. Not zoned, not several devices, not read-only.
_KNOWN_FEATURES = (
    0x1 | 0x8 | 0x10 | 0x20 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x800
    | 0x1000 | 0x2000)

_CP_UMOUNT = 0x1
# orphans present, error, needs fsck, disabled
_CP_UNCLEAN = 0x2 | 0x8 | 0x10 | 0x1000
_CP_NEWER_LAYOUT = 0x400  # large NAT bitmap


def check(area: part.Part) -> None:
    """Check that the newest checkpoint is that of a clean unmount.

    :raises Doubt: it is not.
    """
    data = area.read(_SUPER_OFFSET, _SUPER_SIZE)
    magic = struct.unpack_from('<I', data)[0]
    log_block, log_blocks_per_segment = struct.unpack_from('<II', data, 16)
    checkpoint = struct.unpack_from('<I', data, 76)[0]
    features = struct.unpack_from('<I', data, 2180)[0]
    if (magic != _MAGIC or log_block != 12 or log_blocks_per_segment != 9):
        raise look.Doubt('damaged')
    if features & ~_KNOWN_FEATURES:
        raise look.Doubt('unknown features')
    if data[_DEVICES_OFFSET]:
        raise look.Doubt('multiple devices')
    packs = []
    for number in (0, 1):
        block = checkpoint + (number << log_blocks_per_segment)
        pack = _checkpoint(area, block)
        if pack is not None:
            packs.append(pack)
    if not packs:
        raise look.Doubt('damaged')
    _, flags = max(packs)
    if flags & _CP_NEWER_LAYOUT:
        raise look.Doubt('unknown features')
    if not flags & _CP_UMOUNT or flags & _CP_UNCLEAN:
        raise look.Doubt('not clean')


def _checkpoint(area: part.Part, block: int) -> tuple[int, int] | None:
    """Give version and flags of a checkpoint; None: it is not valid."""
    first = area.read(block * _BLOCK, _BLOCK)
    version = _version(first)
    flags, blocks = struct.unpack_from('<II', first, 132)
    if version is None or not 2 <= blocks <= 512:
        return None
    last = area.read((block + blocks - 1) * _BLOCK, _BLOCK)
    if _version(last) != version:
        return None
    return version, flags


def _version(data: bytes) -> int | None:
    version = int(struct.unpack_from('<Q', data)[0])
    offset = struct.unpack_from('<I', data, 164)[0]
    if not 192 <= offset <= _BLOCK - 4:
        return None
    expected = struct.unpack_from('<I', data, offset)[0]
    # The kernel's crc32_le() inverts neither before nor after.
    found = zlib.crc32(data[:offset], _MAGIC ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
    return version if found == expected else None
