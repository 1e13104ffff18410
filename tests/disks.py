# SPDX-License-Identifier: Apache-2.0
"""Real disks for tests: loop devices, partitions, sectors that fail."""

import contextlib
import functools
import os
import random
import shutil
import signal
import subprocess
import threading

import pytest


@functools.cache
def loop_devices_work():
    """Try it: root, the kernel's driver and the tool are all needed."""
    if os.geteuid() or not shutil.which('losetup'):
        return False
    found = subprocess.run(
        ['losetup', '--find'], capture_output=True, check=False
    )
    return found.returncode == 0


needs_loop = pytest.mark.skipif(
    not loop_devices_work(),
    reason='loop devices need root, losetup and the loop driver',
)
needs_qemu_img = pytest.mark.skipif(
    not shutil.which('qemu-img'), reason='qemu-img is not installed'
)
needs_failing_disk = pytest.mark.skipif(
    not loop_devices_work()
    or not shutil.which('qemu-storage-daemon')
    or not os.path.exists('/dev/fuse'),
    reason='failing sectors need loop devices, qemu-storage-daemon and FUSE',
)


def _run(*command):
    return subprocess.run(
        command, check=True, capture_output=True, text=True
    ).stdout.strip()


@contextlib.contextmanager
def loop_device(path, sector_size=512, read_only=False):
    """Attach a file as a block device; gives its path."""
    options = ['--read-only'] if read_only else []
    device = _run(
        'losetup',
        '--find',
        '--show',
        '--partscan',
        f'--sector-size={sector_size}',
        *options,
        str(path),
    )
    if not read_only:
        # Whoever had it before may have left it otherwise.
        _run('blockdev', '--setrw', device)
    try:
        yield device
    finally:
        _run('losetup', '--detach', device)


@contextlib.contextmanager
def partition(device, start=2048, sectors=65536):
    """Tell the kernel of a partition, whatever tables it can read."""
    _run('addpart', device, '1', str(start), str(sectors))
    try:
        yield f'{device}p1'
    finally:
        _run('delpart', device, '1')


@contextlib.contextmanager
def mounted(device, folder):
    """Make a file system and mount it."""
    _run('mkfs.ext4', '-q', device)
    _run('mount', device, str(folder))
    try:
        yield folder
    finally:
        _run('umount', str(folder))


@contextlib.contextmanager
def failing_disk(path, sector, folder):
    """Attach a file as a block device of which a sector cannot be read.

    The kernel sees a real I/O error: QEMU serves the file over FUSE and
    answers EIO for the sector of 512 bytes.
    """
    rules = folder / 'blkdebug.conf'
    rules.write_text(
        '[inject-error]\nevent = "none"\niotype = "read"\nerrno = "5"\n'
        f'sector = "{sector}"\n'
    )
    export = folder / 'failing.img'
    export.touch()
    daemon = subprocess.Popen(
        [
            'qemu-storage-daemon',
            f'--blockdev=driver=file,node-name=file,filename={path}',
            '--blockdev=driver=blkdebug,node-name=failing,image=file,'
            f'config={rules}',
            '--export=type=fuse,id=export,node-name=failing,'
            f'mountpoint={export},writable=off',
        ]
    )
    try:
        # It is there when the size is; the test's own timeout ends this.
        while export.stat().st_size == 0:
            assert daemon.poll() is None, 'qemu-storage-daemon has ended'
            threading.Event().wait(0.05)
        with loop_device(export, read_only=True) as device:
            yield device
    finally:
        daemon.send_signal(signal.SIGTERM)
        daemon.wait(30)


def random_bytes(size, seed=0):
    """Bytes no codec can shrink, the same ones for a seed."""
    return random.Random(seed).randbytes(size)


def draw(picture, size, seed=0):
    """Make a disk of a picture: one letter for each piece of a size.

    ``-`` zeroes; a capital letter: random bytes, equal letters equal; a
    small letter: text that shrinks well, equal letters equal.
    """
    pieces = []
    for letter in picture:
        if letter == '-':
            pieces.append(bytes(size))
        elif letter.isupper():
            pieces.append(random_bytes(size, f'{seed}{letter}'))
        else:
            text = f'{seed} piece {letter} of a disk. '.encode()
            pieces.append((text * (size // len(text) + 1))[:size])
    return b''.join(pieces)
