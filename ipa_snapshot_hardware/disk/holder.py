# SPDX-License-Identifier: Apache-2.0
"""Who uses a disk: mounts, swap, arrays, volumes, writers.

Nothing is opened or changed here, all is read from sysfs and procfs. The
exclusive open in :mod:`block` is what keeps others out; this module is what
can name them.
"""

import os
import pathlib
import re
from collections.abc import Iterator

SYS = pathlib.Path('/sys')
PROC = pathlib.Path('/proc')

# Prefixes of device-mapper UUIDs, as the tools that make the maps set them.
_MAP_KINDS = {
    'LVM-': 'LVM volume',
    'mpath-': 'multipath device',
    'CRYPT-': 'encrypted volume',
    'DMRAID-': 'firmware RAID array',
}
# kpartx gives a partition of a map a map of its own: 'part2-mpath-3600...'
_MAP_PARTITION = re.compile(r'part\d+-')
# An array that does one of these at the moment may read differently twice.
_ARRAY_AT_REST = ('idle', 'frozen')
_OCTAL = re.compile(r'\\([0-7]{3})')


def mapped_partitions(name: str, sys: pathlib.Path = SYS) -> list[str]:
    """List the maps that are only partitions of this disk.

    A multipath disk has its partitions as maps on top of it. They hold it,
    so that it cannot be opened exclusively, but they are part of it.

    :param name: kernel name of the disk, e.g. ``dm-0``.
    """
    return [
        holder
        for holder in _list(sys / 'class/block' / name / 'holders')
        if _MAP_PARTITION.match(_map_uuid(holder, sys))
    ]


def find_holders(
    name: str, sys: pathlib.Path = SYS, proc: pathlib.Path = PROC
) -> list[str]:
    """Tell who uses a disk or one of its partitions.

    :param name: kernel name of the disk, e.g. ``sda``.
    :returns: one phrase for each use, e.g. ``sda1 is mounted at /mnt``;
        empty when nobody is seen.
    """
    members = [name, *_partitions(name, sys), *mapped_partitions(name, sys)]
    found = _find_array_work(name, sys)
    found += _find_mounts(members, sys, proc)
    found += _find_swaps(members, proc)
    for member in members:
        found += _find_stacked(member, members, sys)
    found += _find_loops(members, sys)
    found += _find_writers(members, sys, proc)
    return found


def find_loops_of(path: str, sys: pathlib.Path = SYS) -> list[str]:
    """Tell which loop devices have a regular file as their disk.

    :returns: one phrase for each; empty when there is none.
    """
    real = os.path.realpath(path)
    return [
        f'it is held by loop device {loop}'
        for loop, backing in _loops(sys)
        if backing == real
    ]


# Private


def _list(folder: pathlib.Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _read(path: pathlib.Path) -> str:
    try:
        return path.read_text(errors='replace').strip()
    except OSError:
        return ''


def _map_uuid(name: str, sys: pathlib.Path) -> str:
    return _read(sys / 'class/block' / name / 'dm/uuid')


def _partitions(name: str, sys: pathlib.Path) -> list[str]:
    folder = sys / 'class/block' / name
    return [
        entry
        for entry in _list(folder)
        if (folder / entry / 'partition').exists()
    ]


def _name_of(path: str) -> str:
    """Kernel name behind a path, in sysfs spelling (cciss!c0d0)."""
    real = os.path.realpath(path)
    if not real.startswith('/dev/'):
        return ''
    return real.removeprefix('/dev/').replace('/', '!')


def _unescape(text: str) -> str:
    return _OCTAL.sub(lambda match: chr(int(match[1], 8)), text)


def _find_array_work(name: str, sys: pathlib.Path) -> list[str]:
    action = _read(sys / 'class/block' / name / 'md/sync_action')
    if action and action not in _ARRAY_AT_REST:
        return [f'array {name} is busy with a {action}']
    return []


def _find_mounts(
    members: list[str], sys: pathlib.Path, proc: pathlib.Path
) -> list[str]:
    numbers = {
        _read(sys / 'class/block' / member / 'dev'): member
        for member in members
    }
    found = []
    for line in _read(proc / 'self/mountinfo').splitlines():
        fields, _, rest = line.partition(' - ')
        words, tail = fields.split(), rest.split()
        if len(words) < 5 or len(tail) < 2:
            continue
        # btrfs mounts carry a made-up number, so the source counts too.
        member = numbers.get(words[2]) or _name_of(_unescape(tail[1]))
        if member in members:
            found.append(f'{member} is mounted at {_unescape(words[4])}')
    return found


def _find_swaps(members: list[str], proc: pathlib.Path) -> list[str]:
    found = []
    for line in _read(proc / 'swaps').splitlines()[1:]:
        words = line.split()
        member = _name_of(_unescape(words[0])) if words else ''
        if member in members:
            found.append(f'{member} is used as swap')
    return found


def _find_stacked(
    member: str, members: list[str], sys: pathlib.Path
) -> list[str]:
    found = []
    for holder in _list(sys / 'class/block' / member / 'holders'):
        if holder in members:
            continue
        folder = sys / 'class/block' / holder
        kind = 'device'
        if (folder / 'md').is_dir():
            kind = 'RAID array'
        elif (folder / 'dm').is_dir():
            uuid = _map_uuid(holder, sys)
            kinds = (k for p, k in _MAP_KINDS.items() if uuid.startswith(p))
            kind = next(kinds, 'device-mapper device')
        label = _read(folder / 'dm/name')
        name = f'{holder} ({label})' if label else holder
        found.append(f'{member} is held by {kind} {name}')
    return found


def _find_loops(members: list[str], sys: pathlib.Path) -> list[str]:
    found = []
    for loop, backing in _loops(sys):
        member = _name_of(backing)
        if member in members:
            found.append(f'{member} is held by loop device {loop}')
    return found


def _loops(sys: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Give each loop device in use, and the path of what is under it."""
    for loop in _list(sys / 'class/block'):
        backing = _read(sys / 'class/block' / loop / 'loop/backing_file')
        if backing:
            yield loop, backing


def _find_writers(
    members: list[str], sys: pathlib.Path, proc: pathlib.Path
) -> list[str]:
    numbers = {
        _read(sys / 'class/block' / member / 'dev'): member
        for member in members
    }
    found = []
    for pid in filter(str.isdecimal, _list(proc)):
        for descriptor in _list(proc / pid / 'fd'):
            member = numbers.get(_device_number(proc / pid, descriptor))
            if member and _opened_for_writing(proc / pid, descriptor):
                who = _read(proc / pid / 'comm') or 'process'
                found.append(f'{member} is open for writing by {who} ({pid})')
    return found


def _device_number(process: pathlib.Path, descriptor: str) -> str:
    try:
        link = os.readlink(process / 'fd' / descriptor)
        if not link.startswith('/dev/'):
            return '-'
        number = os.stat(process / 'fd' / descriptor).st_rdev
    except OSError:
        # The process is gone, or has closed it.
        return '-'
    return f'{os.major(number)}:{os.minor(number)}'


def _opened_for_writing(process: pathlib.Path, descriptor: str) -> bool:
    for line in _read(process / 'fdinfo' / descriptor).splitlines():
        key, _, value = line.partition(':')
        if key == 'flags':
            mode = int(value.strip(), 8) & os.O_ACCMODE
            return mode != os.O_RDONLY
    return False
