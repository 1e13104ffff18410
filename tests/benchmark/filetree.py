# SPDX-License-Identifier: Apache-2.0
"""What the files on a disk are, to compare two disks by them.

Run as a program in mounts of its own, it mounts one file system read-only
and prints a hash over all its files: names, types, owners, modes, times,
sizes, contents.
"""

import argparse
import hashlib
import os
import pathlib
import stat
import subprocess
import sys
import tempfile

from tests.benchmark import disks
from tests.functional.lab import paths
from tests.functional.lab.build import cache

#: Neither replays a journal: what is compared is what was stored.
OPTIONS = {'ext4': 'ro,noload', 'xfs': 'ro,norecovery,nouuid'}
CHECKS = {'ext4': ['e2fsck', '-fn'], 'xfs': ['xfs_repair', '-n']}


def digest_of(disk: disks.Disk) -> str:
    """Hash the files of a disk.

    :raises LabError: its file system cannot be mounted.
    """
    return cache.run(cache.isolated([
        sys.executable, '-W', 'ignore', '-m', 'tests.benchmark.filetree',
        str(disk.raw), str(disk.start), str(disk.size), disk.filesystem]),
        cwd=paths.REPOSITORY).strip()


def hash_files(root: pathlib.Path) -> str:
    """Hash all that is below a folder, and count it.

    :returns: ``<hex> <number of names>``.
    """
    total = hashlib.blake2b(digest_size=32)
    count = 0
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted([*folders, *files]):
            path = os.path.join(folder, name)
            total.update(_entry(path, os.path.relpath(path, root)))
            count += 1
    return f'{total.hexdigest()} {count}'


# Private


def _entry(path: str, name: str) -> bytes:
    status = os.lstat(path)
    content = b''
    if stat.S_ISREG(status.st_mode):
        with open(path, 'rb') as file:
            content = hashlib.file_digest(file, 'sha256').digest()
    elif stat.S_ISLNK(status.st_mode):
        content = os.fsencode(os.readlink(path))
    size = 0 if stat.S_ISDIR(status.st_mode) else status.st_size
    facts = (status.st_mode, status.st_uid, status.st_gid, size,
             status.st_mtime_ns, status.st_nlink, status.st_rdev)
    return b'\0'.join((os.fsencode(name), repr(facts).encode(), content))


def main() -> None:
    """Check, mount and hash; run in mounts of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument('raw')
    parser.add_argument('start', type=int)
    parser.add_argument('size', type=int)
    parser.add_argument('filesystem', choices=OPTIONS)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ['mount', '-t', args.filesystem, '-o',
             f'{OPTIONS[args.filesystem]},loop,offset={args.start},'
             f'sizelimit={args.size}', args.raw, folder], check=True)
        try:
            source = subprocess.run(
                ['findmnt', '--noheadings', '--output=SOURCE', folder],
                check=True, capture_output=True, text=True).stdout.strip()
            subprocess.run([*CHECKS[args.filesystem], source], check=True,
                           stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL)
            print(hash_files(pathlib.Path(folder)))
        finally:
            subprocess.run(['umount', folder], check=True)


if __name__ == '__main__':
    main()
