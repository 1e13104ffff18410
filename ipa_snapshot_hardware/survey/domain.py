# SPDX-License-Identifier: Apache-2.0
"""The allocation map of a file system, as partclone draws it.

partclone's *domain* mode prints what a file system uses in the form of a
ddrescue map: first the position behind its last block, then a run of blocks
per line, ``+`` for used and ``?`` for free, without gaps::

    # Domain logfile created by partclone.extfs v0.3.23
    # current_pos  current_status
    0x12C00000     ?
    #      pos        size  status
    0x00000000  0x007B6400  +
    0x007B6400  0x0004A000  ?
"""

import collections.abc

from ironic_snapshot_core.units import MiB
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import tool

# One bit per block of 512 bytes, twice, is the worst case; file systems of
# many terabytes have larger blocks.
_MEMORY_BYTES = 768 * MiB
_MEMORY_PER_TIB = 512 * MiB
_SECONDS = 3600
# A line has 30 characters; nonsense without an end of line is not collected.
_MAX_LINE = 256


def used_ranges(
    program: str,
    path: str,
    length: int,
    watch: look.Watch,
) -> collections.abc.Iterator[tuple[int, int]]:
    """Give (start, end) of what a file system uses, in order.

    What lies behind its last block counts as used.

    :param program: for example ``partclone.xfs``.
    :param path: of a device or file with the file system.
    :param length: of it, in bytes.
    :raises Doubt: the map cannot be had, or makes no sense. Ranges given
        before are void.
    """
    command = [
        program, '--domain', '--quiet', '--logfile', '/dev/null',
        '--source', path, '--output', '-']
    memory = _MEMORY_BYTES + (length >> 40) * _MEMORY_PER_TIB
    with tool.Tool(
            command, watch=watch, seconds=_SECONDS, memory=memory) as running:
        end = yield from parse(running.output())
        if end is None:
            running.fail()
        # It is not waited for: a thread of it sleeps two more seconds.
    if not 0 < end <= length:
        raise look.Doubt('map does not fit')
    if end < length:
        yield end, length


def parse(
    pieces: collections.abc.Iterable[bytes],
) -> collections.abc.Generator[tuple[int, int], None, int | None]:
    """Parse a map.

    :returns: the position behind the file system's last block, as soon as
        the map has got there; None when it ends before.
    :raises Doubt: it makes no sense.
    """
    total = None
    position = 0
    rest = b''
    for piece in pieces:
        *lines, rest = (rest + piece).split(b'\n')
        if len(rest) > _MAX_LINE:
            raise look.Doubt('map does not fit')
        for line in lines:
            if line.startswith(b'#'):
                continue
            try:
                if total is None:
                    at, _ = line.split()
                    total = int(at, 16)
                    continue
                at, count, status = line.split()
                start = int(at, 16)
                size = int(count, 16)
            except ValueError:
                raise look.Doubt('map does not fit') from None
            if start != position or size <= 0:
                raise look.Doubt('map does not fit')
            position = start + size
            if status == b'+':
                yield start, position
            elif status != b'?':
                raise look.Doubt('map does not fit')
            if position == total:
                return total
    return None
