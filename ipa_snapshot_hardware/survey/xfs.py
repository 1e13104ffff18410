# SPDX-License-Identifier: Apache-2.0
"""XFS: whether its free space trees can be relied upon.

The layout is that of the *XFS Algorithms & Data Structures*, chapter
"Superblocks", and of the kernel's fs/xfs/libxfs/xfs_format.h.
"""

import struct

from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import part
from ipa_snapshot_hardware.survey import tool

_SUPER_SIZE = 512
_MAGIC = b'XFSB'
# ftype, sparse inodes, meta_uuid, bigtime, nrext64, exchrange, parent; not
# needsrepair
_KNOWN_INCOMPAT = 0x1 | 0x2 | 0x4 | 0x8 | 0x20 | 0x40 | 0x80
# finobt, rmapbt, reflink, inobtcount
_KNOWN_RO_COMPAT = 0x1 | 0x2 | 0x4 | 0x8
# partclone before 0.3.40 counts blocks of allocation groups in 32 bits.
_MAX_BLOCKS = 1 << 32
# What xfs_logprint says of the log comes first; the rest is not needed.
_LOG_ANSWER = 64 * 1024


def check(area: part.Part, path: str, watch: look.Watch) -> None:
    """Check that the free space trees are up to date, and understood.

    :param path: of a device or file with the file system.
    :raises Doubt: they are not.
    """
    data = area.read(0, _SUPER_SIZE)
    block_size, blocks, realtime_blocks, realtime_extents = (
        struct.unpack_from('>IQQQ', data, 4))
    log_start = struct.unpack_from('>Q', data, 48)[0]
    version = struct.unpack_from('>H', data, 100)[0] & 0xF
    in_progress = data[126]
    if (data[:4] != _MAGIC or in_progress
            or not 0 < blocks * block_size <= area.length):
        raise look.Doubt('damaged')
    if version == 5:
        ro_compat, incompat, log_incompat = struct.unpack_from(
            '>III', data, 212)
        if (incompat & ~_KNOWN_INCOMPAT or ro_compat & ~_KNOWN_RO_COMPAT
                or log_incompat):
            raise look.Doubt('unknown features')
    elif version != 4:
        raise look.Doubt('unknown features')
    if realtime_blocks or realtime_extents:
        raise look.Doubt('realtime section')
    if not log_start:
        raise look.Doubt('external journal')
    if blocks > _MAX_BLOCKS:
        raise look.Doubt('too large')
    _check_log(path, watch)


def _check_log(path: str, watch: look.Watch) -> None:
    answer = tool.run(
        'xfs_logprint', '-t', path, watch=watch, limit=_LOG_ANSWER)
    if 'state: <CLEAN>' in answer.text:
        return
    if 'state: <DIRTY>' in answer.text:
        raise look.Doubt('dirty journal')
    answer.tool.fail()
