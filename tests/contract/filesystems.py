# SPDX-License-Identifier: Apache-2.0
"""Disks with real file systems: made, filled, aged, copied, compared.

A *scrubbed* copy of a disk holds only what a survey calls data; everything
else is garbage, not zeroes, so that nothing is missed unseen.
"""

import contextlib
import hashlib
import os
import pathlib
import random
import stat
import subprocess

MIB = 1 << 20
GARBAGE = b'\xa5' * MIB
SEED = 20260101

#: How to make each file system, on a device.
MKFS = {
    'ext2': ('mkfs.ext2', '-q', '-F'),
    'ext3': ('mkfs.ext3', '-q', '-F'),
    'ext4': ('mkfs.ext4', '-q', '-F'),
    'xfs': ('mkfs.xfs', '-q', '-f'),
    'btrfs': ('mkfs.btrfs', '-q', '-f'),
    'ntfs': ('mkfs.ntfs', '--quiet', '--fast', '--force'),
    'vfat': ('mkfs.vfat', '-F', '32'),
    'f2fs': ('mkfs.f2fs', '-q', '-f'),
}

#: How to check one that is not mounted, without changing it.
CHECK = {
    'ext2': ('e2fsck', '-fn'),
    'ext3': ('e2fsck', '-fn'),
    'ext4': ('e2fsck', '-fn'),
    'xfs': ('xfs_repair', '-n'),
    'btrfs': ('btrfs', 'check', '--readonly'),
    'ntfs': ('ntfsfix', '--no-action'),
    'vfat': ('fsck.vfat', '-n'),
    'f2fs': ('fsck.f2fs', '--dry-run'),
}


def run(*arguments, **options):
    """Run a program that must succeed; give what it printed."""
    done = subprocess.run(
        [str(each) for each in arguments], capture_output=True, text=True,
        env={**os.environ, 'LC_ALL': 'C'}, timeout=100, **options)
    assert done.returncode == 0, (arguments, done.stdout, done.stderr)
    return done.stdout


@contextlib.contextmanager
def loop(path, start=0, length=None, sector_size=512, read_only=False):
    """Give a loop device over a part of a file."""
    options = ['--offset', start, '--sector-size', sector_size]
    if length is not None:
        options += ['--sizelimit', length]
    if read_only:
        options.append('--read-only')
    device = run('losetup', '--find', '--show', *options, path).strip()
    try:
        if not read_only:
            # A capture that was killed may have left it otherwise.
            run('blockdev', '--setrw', device)
        yield device
    finally:
        run('losetup', '--detach', device)


@contextlib.contextmanager
def mounted(device, folder, kind, options='defaults'):
    """Mount a device."""
    folder.mkdir(exist_ok=True)
    if kind == 'ntfs':
        run('ntfs-3g', '-o', 'big_writes', device, folder)
    else:
        run('mount', '-t', kind, '-o', options, device, folder)
    try:
        yield folder
    finally:
        run('umount', folder)


def flush(folder):
    """Write out the file system of a folder, and no other."""
    run('sync', '--file-system', folder)


def create(path, size):
    """Make an empty, sparse file."""
    with open(path, 'wb') as file:
        file.truncate(size)
    return path


def partition(path, script, sector_size=512):
    """Write a partition table, given in sfdisk's language.

    :returns: (start, length) in bytes of each partition with its number,
        but for an extended one.
    """
    with loop(path, sector_size=sector_size) as device:
        run('sfdisk', '--quiet', '--no-reread', '--no-tell-kernel', device,
            input=script)
        dump = run('sfdisk', '--dump', device)
    found = {}
    for line in dump.splitlines():
        if not line.startswith('/dev/') or line.endswith('type=5'):
            continue
        node, fields = line.split(' : ')
        number = int(node.rsplit('p', 1)[1] if 'p' in node[6:]
                     else node[len(device):])
        fields = dict(
            each.strip().split('=', 1) for each in fields.split(',')
            if '=' in each)
        found[number] = (int(fields['start']) * sector_size,
                         int(fields['size']) * sector_size)
    return found


class Writer:
    """Fills a folder with files, the same ones for the same seed."""

    def __init__(self, folder, seed=SEED):
        self._folder = pathlib.Path(folder)
        self._random = random.Random(seed)
        self._names = []
        self._count = 0

    def fill(self, total, largest=256 << 10):
        """Write files of some sizes, the last half of them compressible."""
        while total > 0:
            size = self._random.randrange(1, largest)
            self._count += 1
            folder = self._folder / f'd{self._count % 7}'
            folder.mkdir(exist_ok=True)
            file = folder / f'f{self._count}'
            file.write_bytes(self._random.randbytes(size))
            self._names.append(file)
            total -= size

    def delete(self, share):
        """Delete some of the files, here and there."""
        kept = []
        for file in self._names:
            if self._random.random() < share:
                file.unlink()
            else:
                kept.append(file)
        self._names = kept

    def append(self, size=5000):
        """Make some of the files longer, which scatters them."""
        for file in self._names[::3]:
            with open(file, 'ab') as stream:
                stream.write(self._random.randbytes(size))

    def age(self, total, rounds=3):
        """Fill, delete, refill: free space is in many places afterwards."""
        for _ in range(rounds):
            self.fill(total)
            flush(self._folder)
            self.delete(0.6)
            self.append()
            flush(self._folder)


def tree(folder):
    """Give what a folder holds: path to kind, mode and content's hash."""
    found = {}
    for path in sorted(pathlib.Path(folder).rglob('*')):
        if 'lost+found' in path.parts:
            continue
        info = path.lstat()
        digest = ''
        if stat.S_ISREG(info.st_mode):
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        found[str(path.relative_to(folder))] = (
            stat.filemode(info.st_mode), digest)
    return found


def copy(source, target):
    """Copy a disk's file as it is at this moment."""
    run('cp', '--sparse=always', source, target)
    return target


def scrubbed(source, extents, target):
    """Make a disk that holds only what is data, and garbage elsewhere."""
    size = os.stat(source).st_size
    with open(source, 'rb') as reader, open(target, 'wb') as writer:
        for _ in range(0, size, MIB):
            writer.write(GARBAGE)
        writer.truncate(size)
        for start, end in extents:
            writer.seek(start)
            reader.seek(start)
            for at in range(start, end, MIB):
                writer.write(reader.read(min(MIB, end - at)))
    return target


def digest(path):
    """Give the hash of a whole disk."""
    with open(path, 'rb') as file:
        found = hashlib.blake2b()
        while piece := file.read(4 * MIB):
            found.update(piece)
        return found.hexdigest()
