# SPDX-License-Identifier: Apache-2.0
"""What lies on a disk: its partitions, and the files of the lab's system.

Nothing is mounted: a file system is read by its own tools, which need
neither a driver nor a loop device.
"""

import hashlib
import json
import os
import pathlib
import shutil
import stat
import subprocess
import typing

from tests.functional.lab import process
from tests.functional.lab.build import osimage

#: The smallest system has thousands.
FEWEST_FILES = 1000


def partitions(disk: pathlib.Path) -> list[dict[str, typing.Any]]:
    """Return the partitions as sfdisk tells them, without device names."""
    table = json.loads(_run('sfdisk', '--json', str(disk)))
    return [{name: value for name, value in each.items() if name != 'node'}
            for each in table['partitiontable']['partitions']]


def files(disk: pathlib.Path, scratch: pathlib.Path) -> dict[str, str]:
    """Return all files of the root file system and of the EFI partition.

    :param disk: a raw disk with the lab's system, shut down.
    :param scratch: a folder to be made, which is removed again.
    :returns: path -> what it is: kind and mode, owner, size, time of change
        and hash of the content, where there is one.
    :raises LabError: one of both file systems is not sound.
    """
    scratch.mkdir()
    try:
        root = _at(disk, osimage.TYPE_LINUX)
        # Both take an offset so, and neither writes.
        place = f'{disk}?offset={root}'
        _run('e2fsck', '-fn', place)
        (scratch / 'root').mkdir()
        _run('debugfs', '-R', f'rdump / {scratch}/root', place)
        _run('mcopy', '-s', '-n', '-m', '-i',
             f'{disk}@@{_at(disk, osimage.TYPE_ESP)}', '::/',
             f'{scratch}/esp')
        found = {str(path.relative_to(scratch)): _describe(path)
                 for path in sorted(scratch.rglob('*'))}
    finally:
        shutil.rmtree(scratch)
    if len(found) < FEWEST_FILES:
        raise process.LabError(f'{disk} has {len(found)} files only')
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Return the paths that are not the same in both."""
    return sorted(path for path in one.keys() | other.keys()
                  if one.get(path) != other.get(path))


def _at(disk: pathlib.Path, kind: str) -> int:
    """Return where the one partition of a type begins, in bytes."""
    start, = (each['start'] for each in partitions(disk)
              if each['type'] == kind)
    return start * osimage.SECTOR


def _describe(path: pathlib.Path) -> str:
    found = path.lstat()
    content = ''
    if path.is_symlink():
        content = os.readlink(path)
    elif path.is_file():
        with open(path, 'rb') as file:
            content = hashlib.file_digest(file, 'sha256').hexdigest()
    return ' '.join([
        stat.filemode(found.st_mode), f'{found.st_uid}:{found.st_gid}',
        *([str(found.st_size), str(int(found.st_mtime))]
          if path.is_file() and not path.is_symlink() else []), content])


def _run(*command: str) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL,
                          capture_output=True, text=True, errors='replace',
                          env={**os.environ, 'MTOOLS_SKIP_CHECK': '1',
                               'LC_ALL': 'C'})
    if done.returncode:
        raise process.LabError(
            f'{" ".join(command)}: {done.stdout[-1000:]}{done.stderr}')
    return done.stdout
