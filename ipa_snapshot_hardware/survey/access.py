# SPDX-License-Identifier: Apache-2.0
"""Give a part of a disk to programs that only take a device or a file."""

import collections.abc
import contextlib
import logging
import os
import pathlib
import stat

from ipa_snapshot_hardware.survey import look
from ipa_snapshot_hardware.survey import part
from ipa_snapshot_hardware.survey import tool

LOG = logging.getLogger(__name__)

_SYS_BLOCK = pathlib.Path('/sys/dev/block')
# The unit of all sizes in sysfs.
_SYS_SECTOR = 512
# Somebody else may take the free loop device between the two steps.
_TRIES = 5


@contextlib.contextmanager
def open_part(
    area: part.Part, path: str
) -> collections.abc.Iterator[str]:
    """Give the path of something that holds just this part.

    The disk itself, a partition of it as the kernel sees it, or a loop
    device that cannot write and is gone afterwards.

    :param path: of the disk.
    :raises Doubt: there is no such thing, and no loop device either.
    """
    if area.start == 0 and area.length == area.disk.size:
        yield path
        return
    node = partition_node(path, area.start, area.length)
    if node is not None:
        yield node
        return
    with loop_device(
            path, area.start, area.length,
            area.disk.logical_sector_size) as node:
        yield node


@contextlib.contextmanager
def loop_device(
    path: str, start: int, length: int, sector_size: int = _SYS_SECTOR
) -> collections.abc.Iterator[str]:
    """Give a device over a part of a file, gone afterwards; only to read.

    :param path: of the file or device.
    :param start: in bytes.
    :param length: in bytes.
    :raises Doubt: there is no loop device to be had.
    """
    node = _attach(path, start, length, sector_size)
    try:
        yield node
    finally:
        answer = tool.run('losetup', '--detach', node, watch=_no_watch)
        if answer.tool.code:
            LOG.warning('Cannot detach %s: %s', node, answer.tool.errors)


def partition_node(path: str, start: int, length: int) -> str | None:
    """Find the kernel's device of a partition.

    :param path: of the disk.
    :param start: of the partition, in bytes.
    :param length: in bytes.
    """
    try:
        found = os.stat(path)
    except OSError:
        return None
    if not stat.S_ISBLK(found.st_mode):
        return None
    folder = _SYS_BLOCK / _number(found)
    for mark in folder.glob('*/partition'):
        partition = mark.parent
        try:
            same = (
                _read(partition / 'start') * _SYS_SECTOR == start
                and _read(partition / 'size') * _SYS_SECTOR == length)
            node = f'/dev/{partition.name}'
            if same and (partition / 'dev').read_text().strip() == _number(
                    os.stat(node)):
                return node
        except (OSError, ValueError):
            continue
    return None


# Private


def _attach(path: str, start: int, length: int, sector_size: int) -> str:
    arguments = [
        'losetup', '--find', '--show', '--read-only',
        '--offset', str(start), '--sizelimit', str(length)]
    if sector_size != _SYS_SECTOR:
        arguments += ['--sector-size', str(sector_size)]
    for _ in range(_TRIES):
        answer = tool.run(*arguments, path, watch=_no_watch)
        node = answer.text.strip()
        if not answer.tool.code and node:
            return node
    LOG.info('%s', answer.tool.errors)
    why = answer.tool.errors.strip().rsplit(':', 1)[-1].strip()[:80]
    raise look.Doubt(f'no loop device: {why}')


def _number(found: os.stat_result) -> str:
    return f'{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}'


def _read(file: pathlib.Path) -> int:
    return int(file.read_text())


def _no_watch() -> None:
    """Nothing comes between attaching and detaching."""
