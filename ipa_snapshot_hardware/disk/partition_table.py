# SPDX-License-Identifier: Apache-2.0
"""Tell the kind of a partition table from a disk's first sectors."""

# UEFI specification 2.10, section 5.3.2: at the start of the second sector.
_GPT_SIGNATURE = b'EFI PART'
# At the end of the first 512 bytes, whatever the sector size.
_DOS_SIGNATURE = b'\x55\xaa'
_DOS_SIGNATURE_OFFSET = 510


def size_needed(sector_size: int) -> int:
    """Tell how much of the disk's start :func:`detect` wants to see."""
    return sector_size + len(_GPT_SIGNATURE)


def detect(start: bytes, sector_size: int) -> str | None:
    """Tell the kind of partition table.

    :param start: the first bytes of the disk.
    :param sector_size: logical sector size in bytes.
    :returns: ``gpt``, ``dos`` or None. A file system without a table that
        ends its first sector in 55 AA, as FAT does, reads as ``dos``: this
        is a remark for people, nothing is decided by it.
    """
    second = start[sector_size : sector_size + len(_GPT_SIGNATURE)]
    if second == _GPT_SIGNATURE:
        return 'gpt'
    end = _DOS_SIGNATURE_OFFSET + len(_DOS_SIGNATURE)
    if start[_DOS_SIGNATURE_OFFSET:end] == _DOS_SIGNATURE:
        return 'dos'
    return None
