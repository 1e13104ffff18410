# SPDX-License-Identifier: Apache-2.0
"""How the disk comes back: what each program that stored it does for that.

Each restores into a folder of its own, which is empty, what a program of
:mod:`tests.benchmark.peers` has stored in another.
"""

import abc
import json
import pathlib
import sys
import typing

from tests.benchmark import disks
from tests.benchmark import limits
from tests.benchmark import measure
from tests.benchmark import peers
from tests.benchmark import rollback


class Restore(abc.ABC):
    """A way to get a disk back."""

    #: Short, for machines; and as people would type it.
    name: typing.ClassVar[str]
    title: typing.ClassVar[str]
    #: Name of the program that has stored the disk.
    of: typing.ClassVar[str]
    kind: typing.ClassVar[str] = 'peer'
    #: Whether each byte comes back, and not only what is in use.
    keeps_all: typing.ClassVar[bool] = False

    #: What the latest run has printed.
    printed = ''

    def run(self, program: peers.Program, disk: disks.Disk,
            folder: pathlib.Path, out: pathlib.Path) -> measure.Sample:
        """Restore from a folder to another.

        :param program: has stored the disk in the folder.
        :raises LabError: it failed.
        """
        sample, self.printed = measure.run(
            [self._command(program, disk, folder, out)],
            env=program.variables(folder))
        return sample

    @abc.abstractmethod
    def image(self, disk: disks.Disk, out: pathlib.Path) -> pathlib.Path:
        """Name what :meth:`run` has restored."""

    # Private

    @abc.abstractmethod
    def _command(self, program: peers.Program, disk: disks.Disk,
                 folder: pathlib.Path, out: pathlib.Path) -> list[str]:
        """Do what is not measured, and give the command that is."""


class OfOurs(Restore):
    """What reads a snapshot of ours."""

    of = 'ours'
    kind = 'ours'

    def image(self, disk: disks.Disk, out: pathlib.Path) -> pathlib.Path:
        return out / 'disk.raw'


class OursRestore(OfOurs):
    """The local command, onto a file that it makes."""

    name = 'ours-restore'
    title = 'ironic-snapshot restore, new file'

    def _command(self, program: peers.Program, disk: disks.Disk,
                 folder: pathlib.Path, out: pathlib.Path) -> list[str]:
        assert isinstance(program, peers.Ours)
        return [peers.program(), 'restore', program.repository(folder),
                program.snapshots[disk.name], str(self.image(disk, out)),
                '--yes', '--json']


class OursRestoreBlank(OursRestore):
    """The same, onto a file of zeroes that are really there, as on a disk."""

    name = 'ours-restore-blank'
    title = 'ironic-snapshot restore, file of zeroes'

    def _command(self, program: peers.Program, disk: disks.Disk,
                 folder: pathlib.Path, out: pathlib.Path) -> list[str]:
        measure.run([['dd', 'if=/dev/zero', f'of={self.image(disk, out)}',
                      'bs=1M', f'count={disk.raw.stat().st_size >> 20}',
                      'conv=fsync', 'status=none']])
        return super()._command(program, disk, folder, out)


class OursRestoreSwift(OursRestore):
    """The same as the first, from a container."""

    name = 'ours-restore-swift'
    title = 'ironic-snapshot restore, Swift'
    of = 'ours-swift'


class OursRestoreSwiftOverLine(OursRestoreSwift):
    """The same, over a line that is slower than the disk and the cores."""

    name = 'ours-restore-swift-line'
    title = f'ironic-snapshot restore, Swift, {limits.LINE_TITLE}'

    def _command(self, program: peers.Program, disk: disks.Disk,
                 folder: pathlib.Path, out: pathlib.Path) -> list[str]:
        return [*super()._command(program, disk, folder, out),
                '--bandwidth-limit', str(limits.LINE)]


class QemuRestore(OfOurs):
    """qemu-img, of the qcow2 that ours has exported."""

    name = 'qemu-restore'
    title = 'qemu-img convert -O raw, -W -m 16'
    kind = 'peer'

    def _command(self, program: peers.Program, disk: disks.Disk,
                 folder: pathlib.Path, out: pathlib.Path) -> list[str]:
        assert isinstance(program, peers.Ours)
        measure.run([[peers.program(), 'export', str(folder),
                      program.snapshots[disk.name], str(out / 'disk.qcow2')]])
        return ['qemu-img', 'convert', '-f', 'qcow2', '-O', 'raw', '-W',
                '-m', '16', str(out / 'disk.qcow2'),
                str(self.image(disk, out))]


class OfArchive(Restore):
    """What puts a file where it was, below a folder."""

    keeps_all = True

    def image(self, disk: disks.Disk, out: pathlib.Path) -> pathlib.Path:
        return out / disk.raw.relative_to('/')


class ResticRestore(OfArchive):
    """restic; its version may know no holes."""

    name = 'restic-restore'
    title = 'restic restore'
    of = 'restic'

    def _command(self, program: peers.Program, disk: disks.Disk,
                 folder: pathlib.Path, out: pathlib.Path) -> list[str]:
        options = ['--sparse'] if _knows_sparse() else []
        return ['restic', 'restore', '--quiet', 'latest', '--target',
                str(out), *options]


class BorgRestore(OfArchive):
    """borg, which extracts into the folder where it is run."""

    name = 'borg-restore'
    title = 'borg extract --sparse'
    of = 'borg'

    def _command(self, program: peers.Program, disk: disks.Disk,
                 folder: pathlib.Path, out: pathlib.Path) -> list[str]:
        return ['env', f'--chdir={out}', 'borg', 'extract', '--sparse',
                f'{folder}/repository::{disk.name}']


class OntoSlowDisk(OfOurs):
    """Onto a blank disk that writes only so fast."""

    name = 'ours-restore-slow'
    title = f'engine, blank disk that writes {rollback.RATE_TITLE}'

    @property
    def told(self) -> dict[str, float]:
        """What the latest run said of itself."""
        found: dict[str, float] = json.loads(self.printed)
        return found

    def _command(self, program: peers.Program, disk: disks.Disk,
                 folder: pathlib.Path, out: pathlib.Path) -> list[str]:
        assert isinstance(program, peers.Ours)
        return [sys.executable, '-W', 'ignore', '-m',
                'tests.benchmark.rollback', str(folder),
                program.snapshots[disk.name], str(self.image(disk, out))]


class Rollback(OntoSlowDisk):
    """Onto the same, with the snapshot's disk, part of it a day later.

    :param before: image of the snapshot.
    :param later: image of the disk's snapshot a day later.
    :param cluster_size: of both, in bytes.
    """

    name = 'ours-rollback'
    title = (f'engine, disk changed by {rollback.CHANGED_TITLE} that writes '
             f'{rollback.RATE_TITLE}')

    def __init__(self, before: pathlib.Path, later: pathlib.Path,
                 cluster_size: int) -> None:
        self._before = before
        self._later = later
        self._cluster_size = cluster_size

    def _command(self, program: peers.Program, disk: disks.Disk,
                 folder: pathlib.Path, out: pathlib.Path) -> list[str]:
        image = self.image(disk, out)
        measure.run([['cp', '--sparse=always', str(self._before),
                      str(image)]])
        rollback.change(image, self._later, self._cluster_size)
        return super()._command(program, disk, folder, out)


def of(program: peers.Program) -> list[Restore]:
    """Give the ways to restore what a program has just stored."""
    return [each for each in (
        OursRestore(), OursRestoreBlank(), QemuRestore(), ResticRestore(),
        BorgRestore(), OursRestoreSwift(), OursRestoreSwiftOverLine())
        if each.of == program.name]


#: What has to be stored for a restore; of the limits as well.
NEEDS = {
    **{each.name: each.of for each in (
        OursRestore, OursRestoreBlank, QemuRestore, ResticRestore,
        BorgRestore, OursRestoreSwift, OursRestoreSwiftOverLine)},
    # With the state of the day after.
    OntoSlowDisk.name: 'ours-day', Rollback.name: 'ours-day',
    'get': 'ours-swift', 'get-line': 'ours-swift'}


# Private


def _knows_sparse() -> bool:
    return '--sparse' in measure.run([['restic', 'help', 'restore']])[1]
