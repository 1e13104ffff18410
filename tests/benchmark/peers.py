# SPDX-License-Identifier: Apache-2.0
"""The programs that are compared, each with what it is used for.

A program works in a folder of its own, fresh for each run, but for those
that store a disk again beside what they have stored of it before. What has to
be done once for a repository (``restic init``, ``borg init``, a loop device
for partclone) is not measured.
"""

import abc
import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import typing

from tests.benchmark import disks
from tests.benchmark import filetree
from tests.benchmark import limits
from tests.benchmark import measure
from tests.functional.lab import process
from tests.servers import swift

#: Of repositories that hold nothing but this benchmark's data.
PASSWORD = 'benchmark'


class Program(abc.ABC):
    """A way to store a disk."""

    #: Short, for machines; and as people would type it.
    name: typing.ClassVar[str]
    title: typing.ClassVar[str]
    #: Whether it is one of the peers that ours has to beat.
    compresses: typing.ClassVar[bool] = True
    #: Whether a later run stores only what has changed.
    incremental: typing.ClassVar[bool] = False

    def run(self, disk: disks.Disk, folder: pathlib.Path) -> measure.Sample:
        """Store the disk in a folder: empty, or with earlier runs in it.

        :raises LabError: it failed.
        """
        before = measure.files_size(folder)
        with contextlib.ExitStack() as stack:
            sample, printed = measure.run(
                self._stages(disk, folder, stack),
                output=self._output(folder), env=self.variables(folder))
        stored = self._finish(printed, folder)
        if stored is not None:
            stored -= before
        return dataclasses.replace(sample, stored=stored)

    @abc.abstractmethod
    def verify(self, disk: disks.Disk, folder: pathlib.Path) -> str:
        """Restore what :meth:`run` has stored and compare it.

        :returns: what was found to be equal; empty if nothing is stored.
        :raises LabError: it is not what the disk holds.
        """

    def variables(self, folder: pathlib.Path) -> dict[str, str]:
        """Give what the program is told by variables."""
        return {}

    # Private

    @abc.abstractmethod
    def _stages(self, disk: disks.Disk, folder: pathlib.Path,
                stack: contextlib.ExitStack) -> list[list[str]]:
        """Do what is not measured, and give the pipeline that is."""

    def _output(self, folder: pathlib.Path) -> pathlib.Path | None:
        return None

    def _finish(self, printed: str, folder: pathlib.Path) -> int | None:
        """Take note of what the pipeline printed.

        :returns: bytes of all that is stored; None if that says nothing.
        """
        return measure.files_size(folder)


class Ours(Program):
    """The local command, into a directory."""

    name = 'ours'
    title = 'ironic-snapshot capture'
    compresses = False
    incremental = True

    def __init__(self) -> None:
        #: What the latest run said of itself.
        self.told: dict[str, typing.Any] = {}
        #: Ids, by the names of the disks.
        self.snapshots: dict[str, str] = {}

    def run(self, disk: disks.Disk, folder: pathlib.Path) -> measure.Sample:
        sample = super().run(disk, folder)
        self.snapshots[disk.name] = self.told['snapshot']
        return sample

    def verify(self, disk: disks.Disk, folder: pathlib.Path) -> str:
        """Also leaves the exported image, see :func:`exported`."""
        out = exported(folder, disk)
        out.unlink(missing_ok=True)
        self._export(disk, folder, out)
        return _same_files(disk, out)

    def check(self, disk: disks.Disk, folder: pathlib.Path) -> str:
        """Compare the qcow2 image with what :meth:`verify` has left.

        :returns: what was found to be right.
        :raises LabError: it is damaged, or another one.
        """
        raw = exported(folder, disk)
        out = raw.with_suffix('.qcow2')
        self._export(disk, folder, out)
        try:
            measure.run([['qemu-img', 'check', '-q', '-f', 'qcow2',
                          str(out)]])
            measure.run([['qemu-img', 'compare', '-q', '-f', 'raw', '-F',
                          'qcow2', str(raw), str(out)]])
        finally:
            out.unlink()
        return 'as qcow2 too (qemu-img check and compare)'

    def repository(self, folder: pathlib.Path) -> str:
        """Name the repository, as the command wants it."""
        return str(folder)

    def _stages(self, disk: disks.Disk, folder: pathlib.Path,
                stack: contextlib.ExitStack) -> list[list[str]]:
        return [[program(), 'capture', str(disk.raw),
                 self.repository(folder), '--json']]

    def _finish(self, printed: str, folder: pathlib.Path) -> int | None:
        self.told = json.loads(printed)
        return super()._finish(printed, folder)

    def _export(self, disk: disks.Disk, folder: pathlib.Path,
                out: pathlib.Path) -> None:
        measure.run([[program(), 'export', self.repository(folder),
                      self.snapshots[disk.name], str(out)]],
                    env=self.variables(folder))


class OursToNothing(Ours):
    """The same, but what would be stored is dropped."""

    name = 'ours-null'
    title = 'ironic-snapshot capture, null:'
    incremental = False

    def verify(self, disk: disks.Disk, folder: pathlib.Path) -> str:
        return ''

    def repository(self, folder: pathlib.Path) -> str:
        return 'null:'

    def _finish(self, printed: str, folder: pathlib.Path) -> int | None:
        super()._finish(printed, folder)
        return None


class OursToSwift(Ours):
    """The same, into a container, with ordinary credentials."""

    name = 'ours-swift'
    title = 'ironic-snapshot capture, Swift'
    incremental = False
    container = 'ours'

    def __init__(self, server: swift.SwiftServer) -> None:
        super().__init__()
        self._server = server
        #: What Swift itself took during the latest run, in seconds of
        #: processor.
        self.server_cpu = 0.0

    def run(self, disk: disks.Disk, folder: pathlib.Path) -> measure.Sample:
        pids = self._server.pids.values()
        before = measure.processor_seconds(pids)
        sample = super().run(disk, folder)
        self.server_cpu = measure.processor_seconds(pids) - before
        return sample

    def repository(self, folder: pathlib.Path) -> str:
        return f'swift:{self.container}'

    def variables(self, folder: pathlib.Path) -> dict[str, str]:
        return {'ST_AUTH': self._server.auth_url,
                'ST_USER': self._server.user, 'ST_KEY': self._server.key}

    def _finish(self, printed: str, folder: pathlib.Path) -> int | None:
        super()._finish(printed, folder)
        return None


class OursToSwiftOverLine(OursToSwift):
    """The same, over a line that is slower than the disk and the cores."""

    name = 'ours-swift-line'
    title = f'ironic-snapshot capture, Swift, {limits.LINE_TITLE}'

    def _stages(self, disk: disks.Disk, folder: pathlib.Path,
                stack: contextlib.ExitStack) -> list[list[str]]:
        (command,) = super()._stages(disk, folder, stack)
        return [[*command, '--bandwidth-limit', str(limits.LINE)]]


class QemuImg(Program):
    """qemu-img convert."""

    options: typing.ClassVar[list[str]]

    def verify(self, disk: disks.Disk, folder: pathlib.Path) -> str:
        measure.run([['qemu-img', 'compare', '-f', 'raw', '-F', 'qcow2',
                      str(disk.raw), str(folder / 'disk.qcow2')]])
        return 'every byte (qemu-img compare)'

    def _stages(self, disk: disks.Disk, folder: pathlib.Path,
                stack: contextlib.ExitStack) -> list[list[str]]:
        return [['qemu-img', 'convert', '-f', 'raw', '-O', 'qcow2',
                 *self.options, str(disk.raw), str(folder / 'disk.qcow2')]]


class QemuImgPlain(QemuImg):
    name = 'qemu-plain'
    title = 'qemu-img convert'
    compresses = False
    options: typing.ClassVar[list[str]] = []


class QemuImgZlib(QemuImg):
    name = 'qemu-zlib'
    title = 'qemu-img convert -c'
    options: typing.ClassVar[list[str]] = ['-c']


class QemuImgZstd(QemuImg):
    name = 'qemu-zstd'
    title = 'qemu-img convert -c, zstd, -W -m 16'
    options: typing.ClassVar[list[str]] = [
        '-c', '-o', 'compression_type=zstd', '-W', '-m', '16']


class Partclone(Program):
    """partclone of the file system alone, through zstd.

    Its progress display, even a quiet one, wakes every two seconds and is
    waited for in the end; so it is told not to sleep.
    """

    name = 'partclone'
    title = 'partclone | zstd -1 -T0'

    def verify(self, disk: disks.Disk, folder: pathlib.Path) -> str:
        restored = folder / 'restored.raw'
        with open(restored, 'wb') as file:
            file.truncate(disk.start + disk.size)
        image = disks.Disk('restored', restored, disk.start, disk.size,
                           disk.filesystem)
        with _loop_device(image, writable=True) as device:
            measure.run([['zstd', '-dc', str(folder / 'disk.zst')],
                         ['partclone.restore', '-C', '-f', '0', '-s', '-',
                          '-o', device, '-L', str(folder / 'log')]])
        try:
            return _same_files(disk, restored)
        finally:
            restored.unlink()

    def _stages(self, disk: disks.Disk, folder: pathlib.Path,
                stack: contextlib.ExitStack) -> list[list[str]]:
        device = stack.enter_context(_loop_device(disk))
        # Its log is a file in /var/log otherwise.
        log = pathlib.Path(stack.enter_context(
            tempfile.TemporaryDirectory())) / 'log'
        return [[f'partclone.{disk.filesystem}', '-c', '-f', '0', '-s',
                 device, '-o', '-', '-L', str(log)],
                ['zstd', '-1', '-T0', '-q', '-c']]

    def _output(self, folder: pathlib.Path) -> pathlib.Path:
        return folder / 'disk.zst'


class Dd(Program):
    """Every byte of the disk, through zstd."""

    name = 'dd'
    title = 'dd | zstd -1 -T0'

    def verify(self, disk: disks.Disk, folder: pathlib.Path) -> str:
        measure.run([['zstd', '-dc', str(folder / 'disk.zst')],
                     ['cmp', '-', str(disk.raw)]])
        return 'every byte (cmp)'

    def _stages(self, disk: disks.Disk, folder: pathlib.Path,
                stack: contextlib.ExitStack) -> list[list[str]]:
        return [['dd', f'if={disk.raw}', 'bs=1M', 'status=none'],
                ['zstd', '-1', '-T0', '-q', '-c']]

    def _output(self, folder: pathlib.Path) -> pathlib.Path:
        return folder / 'disk.zst'


class Restic(Program):
    """restic backup of the raw image; it always encrypts.

    It looks into a file whose times have not changed only when told to; but
    of a disk, times say nothing.
    """

    name = 'restic'
    title = 'restic backup'
    incremental = True

    def verify(self, disk: disks.Disk, folder: pathlib.Path) -> str:
        measure.run([['restic', 'dump', 'latest', str(disk.raw)],
                     ['cmp', '-', str(disk.raw)]], env=self.variables(folder))
        return 'every byte (cmp)'

    def _stages(self, disk: disks.Disk, folder: pathlib.Path,
                stack: contextlib.ExitStack) -> list[list[str]]:
        if not (folder / 'repository').exists():
            measure.run([['restic', 'init', '--quiet']],
                        env=self.variables(folder))
        return [['restic', 'backup', '--quiet', '--force', str(disk.raw)]]

    def variables(self, folder: pathlib.Path) -> dict[str, str]:
        return {'RESTIC_REPOSITORY': str(folder / 'repository'),
                'RESTIC_PASSWORD': PASSWORD,
                'RESTIC_CACHE_DIR': f'{folder}-cache'}


class Borg(Program):
    """borg create of the raw image, not encrypted.

    As with restic, it is told to look into the file whatever its times are.
    """

    name = 'borg'
    title = 'borg create, zstd,1'
    incremental = True

    def verify(self, disk: disks.Disk, folder: pathlib.Path) -> str:
        measure.run([['borg', 'extract', '--stdout',
                      f'{folder}/repository::{disk.name}'],
                     ['cmp', '-', str(disk.raw)]], env=self.variables(folder))
        return 'every byte (cmp)'

    def _stages(self, disk: disks.Disk, folder: pathlib.Path,
                stack: contextlib.ExitStack) -> list[list[str]]:
        if not (folder / 'repository').exists():
            measure.run([['borg', 'init', '--encryption=none',
                          f'{folder}/repository']], env=self.variables(folder))
        return [['borg', 'create', '--compression=zstd,1',
                 '--files-cache=disabled',
                 f'{folder}/repository::{disk.name}', str(disk.raw)]]

    def variables(self, folder: pathlib.Path) -> dict[str, str]:
        return {'BORG_BASE_DIR': f'{folder}-cache',
                'BORG_UNKNOWN_UNENCRYPTED_REPO_ACCESS_IS_OK': 'yes'}


def peers() -> list[Program]:
    """Give the programs ours is compared with."""
    return [QemuImgPlain(), QemuImgZlib(), QemuImgZstd(), Partclone(), Dd(),
            Restic(), Borg()]


def exported(folder: pathlib.Path, disk: disks.Disk) -> pathlib.Path:
    """Name the raw image of a disk that ours has stored in a folder."""
    return folder.with_name(f'{folder.name}-exported-{disk.name}.raw')


def program() -> str:
    """Find our own command, in this environment first."""
    return swift.find_program('ironic-snapshot')


def versions() -> dict[str, str]:
    """Ask each program for its version."""
    asked = {
        'ironic-snapshot': [program(), '--version'],
        'qemu-img': ['qemu-img', '--version'],
        'partclone': ['partclone.restore', '--version'],
        'zstd': ['zstd', '--version'],
        'restic': ['restic', 'version'],
        'borg': ['borg', '--version'],
    }
    return {name: _first_line(command) for name, command in asked.items()}


def clear(folder: pathlib.Path) -> None:
    """Make a run's folder empty, and let the disk come to rest."""
    for path in (folder, folder.with_name(f'{folder.name}-cache')):
        shutil.rmtree(path, ignore_errors=True)
    folder.mkdir(parents=True)
    os.sync()


# Private


def _first_line(command: list[str]) -> str:
    done = subprocess.run(command, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)
    return done.stdout.strip().partition('\n')[0]


def _same_files(disk: disks.Disk, restored: pathlib.Path) -> str:
    """Compare the files on two disks, and check the second's file system."""
    wanted = filetree.digest_of(disk)
    found = filetree.digest_of(disks.Disk(
        disk.name, restored, disk.start, disk.size, disk.filesystem))
    if wanted != found:
        raise process.LabError(
            f'{restored} holds other files than {disk.raw}: {found} instead '
            f'of {wanted}')
    return f'all {wanted.split()[1]} files (hashes, and a clean fsck)'


@contextlib.contextmanager
def _loop_device(disk: disks.Disk, writable: bool = False
                 ) -> typing.Iterator[str]:
    """Attach the file system of a disk as a block device."""
    options = [] if writable else ['--read-only']
    device = subprocess.run(
        ['losetup', '--find', '--show', f'--offset={disk.start}',
         f'--sizelimit={disk.size}', *options, str(disk.raw)],
        check=True, stdout=subprocess.PIPE, text=True).stdout.strip()
    try:
        if writable:
            # Whoever had the device before may have left it otherwise.
            subprocess.run(['blockdev', '--setrw', device], check=True)
        yield device
    finally:
        subprocess.run(['losetup', '--detach', device], check=True)
