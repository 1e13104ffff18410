# SPDX-License-Identifier: Apache-2.0
"""The partitions and logical volumes of one disk, and what they hold."""

import dataclasses
import os
import pathlib
import re

from ipa_snapshot_hardware.disk import holder
from ipa_snapshot_hardware.survey import tool
from ipa_snapshot_hardware.system_identity import obstacle

#: Content of a volume whose signatures contradict each other.
AMBIGUOUS = 'ambiguous'

_SYS_BLOCK = pathlib.Path('/sys/dev/block')
_MOST_PARTITIONS = 256

# Of blkid.
_NOTHING = 2
_AMBIVALENT = 8
_ESCAPED = re.compile(r'\\(.)')
_NUMBER_OF_MAP = re.compile(r'part(\d+)-')


@dataclasses.dataclass(frozen=True)
class Volume:
    """A partition, a logical volume, or a disk without partitions.

    :param path: its device.
    :param name: for people: ``sda2``, ``vg/root``.
    :param content: type of the file system or container, as blkid names it;
        empty where nothing is known.
    :param number: of the partition; 0: it is none.
    :param aliases: other paths of it, the same on every machine.
    """

    path: str
    name: str
    content: str = ''
    label: str = ''
    uuid: str = ''
    partition_label: str = ''
    partition_uuid: str = ''
    number: int = 0
    aliases: tuple[str, ...] = ()


def find(device: str) -> list[Volume]:
    """Find the partitions of a disk, as its table is now.

    The kernel is told of them, for it may know those of before. With a
    multipath device that is done by whoever made its maps.

    :param device: path of the disk.
    :returns: the disk itself, when it has no partition table.
    :raises Obstacle: it has one that the kernel will not have.
    """
    number = os.stat(device).st_rdev
    folder = _SYS_BLOCK / f'{os.major(number)}:{os.minor(number)}'
    kernel_name = folder.resolve().name
    if (folder / 'dm').is_dir():
        found = [
            (_number_of_map(name), name)
            for name in holder.mapped_partitions(kernel_name)
        ]
    else:
        if not tell_kernel(device):
            return [probe(device, kernel_name)]
        found = [
            (int(mark.read_text()), mark.parent.name)
            for mark in folder.glob('*/partition')
        ]
    if len(found) > _MOST_PARTITIONS:
        raise obstacle.Obstacle(f'{device} has too many partitions')
    return [
        probe(f'/dev/{name.replace("!", "/")}', name, number)
        for number, name in sorted(found)
    ] or [probe(device, kernel_name)]


def probe(
    path: str, name: str, number: int = 0, aliases: tuple[str, ...] = ()
) -> Volume:
    """Look at what a device holds.

    :raises Obstacle: it cannot be read.
    """
    answer = tool.run(
        'blkid', '--probe', '--output', 'export', path, watch=no_watch
    )
    if answer.tool.code == _AMBIVALENT:
        return Volume(path, name, AMBIGUOUS, number=number, aliases=aliases)
    if answer.tool.code not in (0, _NOTHING):
        raise obstacle.Obstacle(f'blkid failed on {path}')
    found = dict(
        _ESCAPED.sub(r'\1', line).split('=', 1)
        for line in answer.text.splitlines()
        if '=' in line
    )
    return Volume(
        path=path,
        name=name,
        content=found.get('TYPE', ''),
        label=found.get('LABEL', ''),
        uuid=found.get('UUID', ''),
        partition_label=found.get('PART_ENTRY_NAME', ''),
        partition_uuid=found.get('PART_ENTRY_UUID', ''),
        number=number,
        aliases=aliases,
    )


def no_watch() -> None:
    """Nothing ends these programs but their own limits."""


def tell_kernel(device: str) -> bool:
    """Have the kernel know the partitions; False: there is no table.

    :raises Obstacle: it will not have them.
    """
    table = tool.run(
        'blkid',
        '--probe',
        '--match-tag',
        'PTTYPE',
        '--output',
        'value',
        device,
        watch=no_watch,
    )
    if table.tool.code != _AMBIVALENT and not table.text.strip():
        return False
    answer = tool.run('partx', '--update', device, watch=no_watch)
    if answer.tool.code:
        raise obstacle.Obstacle(
            f'the kernel does not take the partition table of {device}: '
            f'{answer.tool.errors.strip()}'
        )
    return True


# Private


def _number_of_map(name: str) -> int:
    uuid = pathlib.Path('/sys/class/block', name, 'dm/uuid').read_text()
    found = _NUMBER_OF_MAP.match(uuid)
    return int(found[1]) if found else 0
