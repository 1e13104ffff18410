# SPDX-License-Identifier: Apache-2.0
"""File systems that are mounted, and the systems that are found in them."""

import collections.abc
import contextlib
import dataclasses
import fcntl
import os
import stat
import struct

from ipa_snapshot_hardware.system_identity import mount
from ipa_snapshot_hardware.system_identity import obstacle
from ipa_snapshot_hardware.system_identity import tree
from ipa_snapshot_hardware.system_identity import volume

# <linux/btrfs.h>: BTRFS_FIRST_FREE_OBJECTID is the inode of the root of any
# subvolume.
_SUBVOLUME_INODE = 256
_GET_FLAGS = 0x80089419
_READ_ONLY = 1 << 1

_MOST_ROOTS = 16


@dataclasses.dataclass(frozen=True)
class FileSystem:
    """A mounted file system.

    :param top: descriptor of the root of all of it.
    :param default: of what is seen when it is mounted without options; the
        same unless it is a btrfs with another default subvolume.
    """

    volume: volume.Volume
    top: int
    default: int


@dataclasses.dataclass(frozen=True)
class Root:
    """A folder that is the root of a system.

    :param folder: its descriptor.
    :param name: for people: ``sda2 ext4``, ``sda3 btrfs @``.
    """

    on: FileSystem
    folder: int
    name: str


@contextlib.contextmanager
def opened(
    one: volume.Volume,
) -> collections.abc.Iterator[FileSystem]:
    """Mount the file system of a volume for a while.

    :param one: its content is one of :data:`mount.DRIVERS`.
    :raises Obstacle: as :func:`mount.mounted`.
    """
    with mount.mounted(one.path, one.content) as default:
        if one.content != 'btrfs':
            yield FileSystem(one, default, default)
            return
        options = (('subvolid', '5'),)
        with mount.mounted(one.path, one.content, options) as top:
            yield FileSystem(one, top, default)


@contextlib.contextmanager
def roots(one: FileSystem) -> collections.abc.Iterator[list[Root]]:
    """Find the systems in a file system.

    Of a btrfs, the default subvolume and those at the top are looked at; a
    subvolume that is read-only and not the default is a snapshot, and stays
    as it is.
    """
    with contextlib.ExitStack() as stack:
        found: list[Root] = []
        seen = set()

        def add(folder: int, *names: str) -> None:
            identity = _identity(folder)
            if identity in seen or not _is_root(folder):
                return
            if len(found) >= _MOST_ROOTS:
                raise obstacle.Obstacle(
                    f'{one.volume.name} holds more than {_MOST_ROOTS} systems'
                )
            seen.add(identity)
            kept = os.dup(folder)
            stack.callback(os.close, kept)
            words = (one.volume.name, one.volume.content, *names)
            found.append(Root(one, kept, ' '.join(words)))

        add(one.default)
        if one.volume.content == 'btrfs':
            add(one.top, '/')
            for name, folder in _subvolumes(one.top):
                add(folder, name)
        yield found


# Private


def _is_root(folder: int) -> bool:
    try:
        with tree.folder(folder, 'etc') as etc:
            return etc is not None and (
                tree.kind(etc, 'passwd') is not None
                and (
                    tree.kind(etc, 'os-release') is not None
                    or tree.kind(etc, 'fstab') is not None
                )
            )
    except obstacle.Obstacle:
        # A file or a link, of that name: none that boots.
        return False


def _identity(folder: int) -> tuple[int, int]:
    # Every subvolume has a device number of its own.
    found = os.fstat(folder)
    return found.st_dev, found.st_ino


def _subvolumes(
    top: int,
) -> collections.abc.Iterator[tuple[str, int]]:
    """Give name and descriptor of those right at the top, one by one."""
    for name in tree.matching(top, ('*',)):
        if tree.kind(top, name) != stat.S_IFDIR:
            continue
        with tree.folder(top, name) as folder:
            if (
                folder is not None
                and os.fstat(folder).st_ino == _SUBVOLUME_INODE
                and not _is_read_only(folder)
            ):
                yield name, folder


def _is_read_only(subvolume: int) -> bool:
    answer = fcntl.ioctl(subvolume, _GET_FLAGS, struct.pack('Q', 0))
    [flags] = struct.unpack('Q', answer)
    return bool(flags & _READ_ONLY)
