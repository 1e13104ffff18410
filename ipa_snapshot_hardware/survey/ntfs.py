# SPDX-License-Identifier: Apache-2.0
"""NTFS: whether its bitmap can be relied upon.

The layout is that of ntfs-3g's include/ntfs-3g/layout.h and logfile.h; what
counts as clean follows ntfs_is_logfile_clean() in its libntfs-3g/logfile.c.
"""

import struct

from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import tool

# $LogFile and $Volume, and the attribute of it with the flags.
_LOG_INODE = '2'
_VOLUME_INODE = '3'
_VOLUME_INFORMATION = '0x70'
# Dirty, resize the log, upgrade, ..., being checked: only none is clean.
_VOLUME_FLAGS_OFFSET = 10
_HIBERNATION_FILE = '/hiberfil.sys'

_RESTART_PAGE = 4096
_NO_CLIENT = 0xFFFF
_VOLUME_IS_CLEAN = 0x2


def check(path: str, watch: look.Watch) -> None:
    """Check that the volume was left cleanly, by Windows as well.

    :param path: of a device or file with the file system.
    :raises Doubt: it was not.
    """
    # Forced, it reads what is dirty as well; it never writes.
    answer = tool.run(
        'ntfscat', '--force', '--attribute', _VOLUME_INFORMATION, '--inode',
        _VOLUME_INODE, path, watch=watch, limit=_RESTART_PAGE)
    if len(answer.output) < _VOLUME_FLAGS_OFFSET + 2:
        answer.tool.fail()
    flags = struct.unpack_from('<H', answer.output, _VOLUME_FLAGS_OFFSET)[0]
    if flags:
        raise look.Doubt('not clean')
    answer = tool.run(
        'ntfscat', '--force', '--inode', _LOG_INODE, path, watch=watch,
        limit=2 * _RESTART_PAGE)
    if len(answer.output) < 2 * _RESTART_PAGE:
        answer.tool.fail()
    if not all(
            _is_clean(answer.output[offset:offset + _RESTART_PAGE])
            for offset in (0, _RESTART_PAGE)):
        raise look.Doubt('dirty journal')
    # Windows that hibernates, or starts fast, keeps part of the file system
    # in its memory's image.
    answer = tool.run(
        'ntfscat', '--force', path, _HIBERNATION_FILE, watch=watch, limit=4)
    if answer.output[:4].lower() == b'hibr':
        raise look.Doubt('hibernated')


def _is_clean(page: bytes) -> bool:
    """Tell whether a restart page of the log says that nothing is open."""
    if page == b'\xff' * len(page):
        return True
    if page[:4] != b'RSTR':
        return False
    area = struct.unpack_from('<H', page, 24)[0]
    if area + 16 > len(page):
        return False
    _, _, _, in_use, flags = struct.unpack_from('<QHHHH', page, area)
    return bool(in_use == _NO_CLIENT or flags & _VOLUME_IS_CLEAN)
