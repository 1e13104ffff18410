# SPDX-License-Identifier: Apache-2.0
"""The disks that are captured: built once, kept in the lab's cache.

========  ===================================================================
root      GPT with an ext4 root, 4 GiB of which 2.6 GB are in use; a Debian
          with compilers, Java, PostgreSQL, logs, a database and media
aged      xfs without a partition table, filled, emptied and refilled
empty     1 TiB, GPT with ext4, of which 2 GiB of files
small     a disk that just holds the same files
changed   a copy of root, a day later
========  ===================================================================

Sizes are for scale 1; the size of ``empty`` stays. Everything in them comes
from a seed and from the packages of the distribution.
"""

import argparse
import contextlib
import dataclasses
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterator

from tests.benchmark import content
from tests.functional.lab import paths
from tests.functional.lab.build import cache
from tests.functional.lab.build import distribution

MIB = 1 << 20
GIB = 1 << 30
TIB = 1 << 40
SECTOR = 512

#: Where partitions begin; also what is left for the table's copy.
FIRST = MIB
BIOS_BOOT = MIB
ROOT_START = FIRST + BIOS_BOOT

ROOT_SIZE = 4 * GIB
ROOT_USED = 2_500_000_000       # and 0.1 GB of the file system's own
AGED_SIZE = 2 * GIB
AGED_USED = 1_200_000_000
EMPTY_SIZE = TIB
EMPTY_USED = 2 * GIB

#: mkfs.xfs makes none smaller than 300 MiB.
SMALLEST_AGED = 512 * MIB

#: Room beside the files: a fifth and the journal.
SMALL_ROOM = 1.2
SMALL_EXTRA = 96 * MIB

#: 1.4 GB when installed. In both Debian and Ubuntu.
PACKAGES = ['systemd-sysv', 'udev', 'dbus', 'kmod', 'initramfs-tools',
            'zstd', 'iproute2', 'build-essential', 'git', 'python3', 'perl',
            'default-jre-headless', 'openssh-server', 'vim', 'curl',
            'postgresql', 'nginx']
KERNELS = {'debian': 'linux-image-amd64', 'ubuntu': 'linux-image-generic'}

#: Of each disk: that of a full run and a small one.
KEPT = 2

SEED = 'ironic-snapshot-1'


@dataclasses.dataclass(frozen=True, slots=True)
class Disk:
    """A disk image.

    :param raw: the image, sparse.
    :param start: where its file system begins, in bytes.
    :param size: of that file system, in bytes.
    :param filesystem: ``ext4`` or ``xfs``.
    """

    name: str
    raw: pathlib.Path
    start: int
    size: int
    filesystem: str


def build(name: str, scale: float) -> Disk:
    """Give a disk, building it when it is not in the cache."""
    before = [build('root', scale).raw] if name == 'changed' else []
    packages = _packages()
    here = pathlib.Path(__file__)
    key = cache.key('disk', name, str(scale), packages.name, here,
                    here.with_name('content.py'))
    folder = cache.build_once(
        f'benchmark-{name}', key,
        # Its mounts end with it, whatever happens.
        lambda folder: _run(cache.isolated([
            sys.executable, '-W', 'ignore', '-m', 'tests.benchmark.disks',
            name, str(scale), str(packages / 'root'), str(folder),
            *map(str, before)])), kept=KEPT)
    return _describe(name, folder)


# Private


def _packages() -> pathlib.Path:
    release = distribution.os_release()
    names = [*PACKAGES, KERNELS[release[0]]]
    return cache.build_once(
        'benchmark-packages', cache.key('packages', *release, *names),
        lambda folder: distribution.bootstrap(folder / 'root', names, []))


def _describe(name: str, folder: pathlib.Path) -> Disk:
    raw = folder / 'disk.raw'
    size = raw.stat().st_size
    if name == 'aged':
        return Disk(name, raw, 0, size, 'xfs')
    return Disk(name, raw, ROOT_START, size - ROOT_START - FIRST, 'ext4')


def _run(command: list[str]) -> None:
    cache.run(command, cwd=paths.REPOSITORY)


def _build_root(folder: pathlib.Path, packages: pathlib.Path,
                scale: float) -> None:
    disk = _partitioned(
        'root', folder, int(ROOT_SIZE * scale) // MIB * MIB)
    with _mounted(disk) as root:
        content.fill(root, packages, int(ROOT_USED * scale), SEED)


def _build_aged(folder: pathlib.Path, packages: pathlib.Path,
                scale: float) -> None:
    raw = folder / 'disk.raw'
    _make_sparse(raw, max(SMALLEST_AGED, int(AGED_SIZE * scale)))
    _run(['mkfs.xfs', '-q', str(raw)])
    with _mounted(_describe('aged', folder)) as root:
        content.wear(root, packages, int(AGED_USED * scale), SEED)


def _build_empty(folder: pathlib.Path, packages: pathlib.Path,
                 scale: float) -> None:
    disk = _partitioned('empty', folder, EMPTY_SIZE)
    with _mounted(disk) as root:
        content.fill(root, packages, int(EMPTY_USED * scale), SEED)


def _build_small(folder: pathlib.Path, packages: pathlib.Path,
                 scale: float) -> None:
    used = int(EMPTY_USED * scale)
    size = int(used * (SMALL_ROOM + content.CHURN)) + SMALL_EXTRA
    disk = _partitioned('small', folder, size // MIB * MIB)
    with _mounted(disk) as root:
        content.fill(root, packages, used, SEED)


def _build_changed(folder: pathlib.Path, packages: pathlib.Path,
                   scale: float, before: pathlib.Path) -> None:
    _run(['cp', '--sparse=always', '--reflink=auto', str(before),
          str(folder / 'disk.raw')])
    with _mounted(_describe('changed', folder)) as root:
        content.live_a_day(root, packages, f'{SEED} changed')


BUILDERS: dict[str, Callable[..., None]] = {
    'root': _build_root, 'aged': _build_aged, 'empty': _build_empty,
    'small': _build_small, 'changed': _build_changed}


def _partitioned(name: str, folder: pathlib.Path, size: int) -> Disk:
    """Make a disk with GPT and an empty ext4, as mkfs makes it."""
    raw = folder / 'disk.raw'
    _make_sparse(raw, size)
    disk = _describe(name, folder)
    layout = (
        'label: gpt\n'
        f'start={FIRST // SECTOR}, size={BIOS_BOOT // SECTOR},'
        ' type=21686148-6449-6E6F-744E-656564454649\n'
        f'start={disk.start // SECTOR}, size={disk.size // SECTOR},'
        ' type=0FC63DAF-8483-4772-8E79-3D69D8477DE4\n')
    subprocess.run(['sfdisk', '--quiet', str(raw)], input=layout.encode(),
                   check=True)
    _run(['mke2fs', '-q', '-t', 'ext4', '-F', '-E',
          f'nodiscard,offset={disk.start}', str(raw),
          f'{disk.size // 1024}k'])
    return disk


def _make_sparse(path: pathlib.Path, size: int) -> None:
    with open(path, 'wb') as file:
        file.truncate(size)


@contextlib.contextmanager
def _mounted(disk: Disk) -> Iterator[pathlib.Path]:
    folder = disk.raw.parent / 'mounted'
    folder.mkdir()
    # Without noinit_itable the kernel would write 16 GiB of zeros meanwhile.
    options = ',noinit_itable' if disk.filesystem == 'ext4' else ''
    _run(['mount', '-t', disk.filesystem, '-o',
          f'loop,offset={disk.start},sizelimit={disk.size}{options}',
          str(disk.raw), str(folder)])
    try:
        yield folder
    finally:
        _run(['umount', str(folder)])
        folder.rmdir()


def main() -> None:
    """Build one disk; run in mounts of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument('name', choices=BUILDERS)
    parser.add_argument('scale', type=float)
    parser.add_argument('packages', type=pathlib.Path)
    parser.add_argument('folder', type=pathlib.Path)
    parser.add_argument('before', type=pathlib.Path, nargs='*')
    args = parser.parse_args()
    BUILDERS[args.name](args.folder, args.packages, args.scale, *args.before)


if __name__ == '__main__':
    main()
