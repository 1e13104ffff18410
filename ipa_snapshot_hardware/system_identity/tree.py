# SPDX-License-Identifier: Apache-2.0
"""Change files of a tenant's without being led astray by them.

A path is walked one folder at a time, each opened relative to the one before
and never through a symbolic link. So nothing is reached but what lies in the
tree itself, whatever it holds.
"""

import collections.abc
import contextlib
import errno
import fnmatch
import itertools
import os
import stat

from ipa_snapshot_hardware.system_identity import obstacle

#: Files and folders that are removed or looked at below one folder.
MOST_ENTRIES = 200_000
#: How deep folders are removed.
MOST_LEVELS = 64

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


@contextlib.contextmanager
def folder(root: int, path: str) -> collections.abc.Iterator[int | None]:
    """Give a descriptor of a folder; None where there is none.

    :param root: descriptor of the folder to begin from.
    :param path: relative to it, without ``..``; empty: the root itself.
    :raises Obstacle: a symbolic link or a file is in the way.
    """
    parts = [part for part in path.split('/') if part]
    if '..' in parts:
        raise obstacle.Obstacle(f'/{path} leads upwards')
    current = os.dup(root)
    try:
        for number, part in enumerate(parts, 1):
            try:
                following = os.open(part, _FOLDER, dir_fd=current)
            except FileNotFoundError:
                yield None
                return
            except OSError as error:
                where = '/'.join(parts[:number])
                raise obstacle.Obstacle(
                    f'/{where} {_no_folder(error)}'
                ) from None
            os.close(current)
            current = following
        yield current
    finally:
        os.close(current)


def matching(
    parent: int, patterns: collections.abc.Iterable[str]
) -> list[str]:
    """List the names in a folder that match shell patterns.

    :raises Obstacle: there are too many names to look at.
    """
    patterns = tuple(patterns)
    return sorted(
        name
        for name in _names(parent)
        if any(fnmatch.fnmatchcase(name, each) for each in patterns)
    )


def kind(parent: int, name: str) -> int | None:
    """Give the type of a file, as of :func:`stat.S_IFMT`; None: no such."""
    try:
        found = os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None
    return stat.S_IFMT(found.st_mode)


def read(parent: int, name: str, limit: int) -> bytes:
    """Read a regular file; nothing where there is none.

    :param limit: in bytes.
    :raises Obstacle: it is larger, or no regular file.
    """
    if kind(parent, name) is None:
        return b''
    with _opened(parent, name, os.O_RDONLY) as descriptor:
        data = os.pread(descriptor, limit + 1, 0)
    if len(data) > limit:
        raise obstacle.Obstacle(f'{name} is too large')
    return data


def empty(parent: int, name: str) -> bool:
    """Leave nothing in a regular file.

    :returns: whether there was something in it.
    :raises Obstacle: it is no regular file.
    """
    with _opened(parent, name, os.O_WRONLY) as descriptor:
        size = os.fstat(descriptor).st_size
        os.ftruncate(descriptor, 0)
    return bool(size)


def remove(parent: int, name: str) -> None:
    """Remove a file, a link, or a folder with all it holds.

    :raises Obstacle: it is too deep, or holds too much.
    """
    _remove(parent, name, iter(range(MOST_ENTRIES)), MOST_LEVELS)


# Private


def _names(parent: int) -> list[str]:
    with os.scandir(parent) as entries:
        found = [
            entry.name for entry in itertools.islice(entries, MOST_ENTRIES + 1)
        ]
    if len(found) > MOST_ENTRIES:
        raise obstacle.Obstacle('a folder holds too many files')
    return found


@contextlib.contextmanager
def _opened(
    parent: int, name: str, mode: int
) -> collections.abc.Iterator[int]:
    if kind(parent, name) != stat.S_IFREG:
        raise obstacle.Obstacle(f'{name} is no regular file')
    descriptor = os.open(name, mode | _FILE, dir_fd=parent)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _remove(
    parent: int,
    name: str,
    allowed: collections.abc.Iterator[int],
    levels: int,
) -> None:
    if next(allowed, None) is None:
        raise obstacle.Obstacle(f'{name} is one file too many to remove')
    if kind(parent, name) != stat.S_IFDIR:
        os.unlink(name, dir_fd=parent)
        return
    if not levels:
        raise obstacle.Obstacle(f'{name} is too deep to remove')
    current = os.open(name, _FOLDER, dir_fd=parent)
    try:
        for each in _names(current):
            _remove(current, each, allowed, levels - 1)
    finally:
        os.close(current)
    os.rmdir(name, dir_fd=parent)


def _no_folder(error: OSError) -> str:
    # With O_DIRECTORY a link says ENOTDIR or ELOOP, by the kernel's mood.
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return 'is a symbolic link or a file, not a folder'
    return f'cannot be opened: {error.strerror}'
