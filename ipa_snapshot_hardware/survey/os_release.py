# SPDX-License-Identifier: Apache-2.0
"""Which system a disk holds, by its os-release, without mounting anything.

An ext is read by debugfs, which only reads unless it is told otherwise; of an
xfs, xfs_db says where the file lies. Of any other file system nothing is
known: what is in a ramdisk has no program that reads a file of it without
mounting it.

Whoever wrote the disk has written this file. It is small or of no interest,
and of what it says only plain words are passed on.
"""

import collections.abc
import dataclasses
import logging
import os
import re
import struct

from ironic_snapshot_core import errors
from ironic_snapshot_core import manifest
from ironic_snapshot_core.units import KiB
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.survey import access
from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import part
from ipa_snapshot_hardware.survey import tool

LOG = logging.getLogger(__name__)

#: Where it is, the first that is a file counts: see os-release(5).
PATHS = ('/etc/os-release', '/usr/lib/os-release')
#: Real ones have less than 1 KiB.
MAX_SIZE = 16 * KiB

# Whatever the disk makes of a program, it does not take long.
_SECONDS = 20
_MOST_FILE_SYSTEMS = 16

_EXT = ('ext2', 'ext3', 'ext4')
_XFS = 'xfs'

_EXT_STAT = re.compile(
    r'\AInode: \d+ +Type: regular .*\n.*\nUser: .* Size: (\d+)$', re.M)
_XFS_CORE = re.compile(
    r'^core\.mode = (0\d+)\ncore\.size = (\d+)$', re.M)
_XFS_EXTENT = re.compile(
    r'^data offset 0 startblock \d+ \((\d+)/(\d+)\) count (\d+) flag 0$',
    re.M)
_XFS_SUPER_SIZE = 512
_REGULAR = 0o100000
_TYPE_MASK = 0o170000


@dataclasses.dataclass(frozen=True, slots=True)
class OsRelease:
    """What a system calls itself; empty where it does not say.

    :param distro: ``ID``.
    :param version: ``VERSION_ID``.
    """

    distro: str
    version: str


def describe(
    disk: base.Disk,
    regions: collections.abc.Iterable[manifest.Region],
    watch: look.Watch,
    known: manifest.SystemRecord,
) -> manifest.SystemRecord:
    """Add what a disk says of its system to what is known of it.

    :param known: of the machine that it is in.
    """
    found = read(disk, regions, watch)
    if found is None:
        return known
    return dataclasses.replace(
        known, distro=found.distro, version=found.version
    )


def read(
    disk: base.Disk,
    regions: collections.abc.Iterable[manifest.Region],
    watch: look.Watch,
) -> OsRelease | None:
    """Find the system of a disk.

    :param regions: of a survey of it.
    :param watch: called often; may raise to give up.
    :returns: None if there is none, or more than one, or none that can be
        read this way.
    """
    if not disk.path:
        return None
    # Absolute: it must never look like an option.
    path = os.path.abspath(disk.path)
    found = set()
    known = [each for each in regions if each.content in (*_EXT, _XFS)]
    for region in known[:_MOST_FILE_SYSTEMS]:
        area = part.Part(disk, region.start, region.length)
        try:
            with access.open_part(area, path) as node:
                text = (
                    _read_xfs(area, node, watch)
                    if region.content == _XFS
                    else _read_ext(node, watch)
                )
        except (look.Doubt, errors.DiskReadError) as error:
            LOG.info('%s: os-release cannot be read: %s', region.name, error)
            continue
        release = parse(text)
        if release.distro:
            found.add(release)
    if len(found) > 1:
        LOG.info('There is more than one system on %s', disk.name)
        return None
    return found.pop() if found else None


def parse(text: str) -> OsRelease:
    """Read an os-release.

    Of a value that is not made of letters, digits and ``._-`` alone, or is
    longer than 64 characters, nothing is taken.
    """
    values = {}
    for line in text.splitlines():
        name, separator, value = line.partition('=')
        value = value.strip()
        if value[:1] in ('"', "'") and value[-1:] == value[:1]:
            value = value[1:-1]
        if separator and manifest.is_fact(value):
            values[name.strip()] = value
    return OsRelease(values.get('ID', ''), values.get('VERSION_ID', ''))


# Private


def _read_ext(node: str, watch: look.Watch) -> str:
    for path in PATHS:
        # "-c": neither are the bitmaps read, nor can anything be written.
        about = _debugfs(f'stat {path}', node, watch)
        size = _EXT_STAT.search(about)
        if size and int(size[1]) <= MAX_SIZE:
            return _debugfs(f'cat {path}', node, watch)
    return ''


def _debugfs(request: str, node: str, watch: look.Watch) -> str:
    answer = tool.run(
        'debugfs', '-c', '-R', request, node,
        watch=watch, limit=MAX_SIZE, seconds=_SECONDS)
    return answer.text


def _read_xfs(area: part.Part, node: str, watch: look.Watch) -> str:
    for path in PATHS:
        answer = tool.run(
            'xfs_db', '-r', '-c', f'path {path}',
            '-c', 'print core.mode core.size', '-c', 'bmap', node,
            watch=watch, limit=MAX_SIZE, seconds=_SECONDS).text
        core, where = _XFS_CORE.search(answer), _XFS_EXTENT.search(answer)
        if core and where and int(core[1], 8) & _TYPE_MASK == _REGULAR:
            group, block, count = map(int, where.groups())
            return _read_extent(area, group, block, count, int(core[2]))
    return ''


def _read_extent(
    area: part.Part, group: int, block: int, count: int, size: int
) -> str:
    """Read a file of an xfs that lies in one piece, as small ones do.

    The superblock is that of the kernel's fs/xfs/libxfs/xfs_format.h.

    :param group: its allocation group.
    :param block: in the group.
    :param count: of blocks.
    :param size: of the file, in bytes.
    """
    data = area.read(0, _XFS_SUPER_SIZE)
    (block_size,) = struct.unpack_from('>I', data, 4)
    (group_blocks,) = struct.unpack_from('>I', data, 84)
    if size > min(count * block_size, MAX_SIZE):
        return ''
    start = (group * group_blocks + block) * block_size
    return area.read(start, size).decode(errors='replace')
