# SPDX-License-Identifier: Apache-2.0
"""A machine without a system of its own: for making and mounting disks."""

import os
import pathlib
import shutil

from tests.functional.lab import machine
from tests.functional.lab import process
from tests.functional.lab import report
from tests.functional.lab.build import workbench

MEMORY_MIB = 512

# It is up in some ten seconds. Now and then one has stopped before its kernel
# said a word, with its processors busy; then it is switched on once more.
BOOT_TIMEOUT_S = 90.0


class Machine:
    """A machine with some disks, ``/dev/vda`` onwards.

    It ends with this process at the latest.

    :param folder: for its console and shell; its path should be short.
    :param disks: raw files.
    :param sector_size: of the disks, in bytes.
    :param keep_writes: whether what is written to the disks stays.
    """

    def __init__(self, folder: pathlib.Path, disks: list[pathlib.Path], *,
                 sector_size: int = 512, keep_writes: bool = True) -> None:
        self.folder = folder
        self._disks = disks
        self._sector_size = sector_size
        self._keep_writes = keep_writes
        self._daemon = process.Daemon('workbench', folder)
        self.console = machine.Console(folder / 'console.log')
        self.shell = machine.Shell(folder / 'shell.sock')

    def start(self) -> 'Machine':
        """Switch the machine on, and wait for its shell."""
        try:
            return self._boot()
        except process.LabError as error:
            if self.console.text():
                raise
            report.say(f'switching the workbench on again: {error}')
        return self._boot()

    def cut_power(self) -> None:
        """Switch the machine off; what it had not written yet is lost."""
        self._daemon.kill()
        self._daemon.stop()

    def __enter__(self) -> 'Machine':
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        self.cut_power()

    # Private

    def _boot(self) -> 'Machine':
        self._switch_on()
        try:
            self.console.wait('SNAPSHOT-LAB workbench is up',
                              timeout=BOOT_TIMEOUT_S)
        except BaseException:
            self.cut_power()
            raise
        return self

    def _switch_on(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        system = workbench.build()
        snapshot = 'off' if self._keep_writes else 'on'
        drives = []
        for number, disk in enumerate(self._disks):
            drives += [
                '-drive', f'file={disk},format=raw,if=none,id=disk{number},'
                f'cache=unsafe,snapshot={snapshot}',
                '-device', f'virtio-blk-pci,drive=disk{number},'
                f'logical_block_size={self._sector_size},'
                f'physical_block_size={self._sector_size}']
        self._daemon.start([
            'setpriv', '--pdeathsig', 'KILL', 'qemu-system-x86_64',
            '-name', 'workbench', '-machine', 'pc', '-accel',
            'tcg,thread=multi', '-cpu', 'max', '-smp',
            str(machine.PROCESSORS), '-m', str(MEMORY_MIB), '-display',
            'none', '-nodefaults', '-no-reboot', '-nic', 'none',
            '-kernel', str(system.kernel), '-initrd', str(system.initramfs),
            '-append', 'console=ttyS0 panic=-1 loglevel=4',
            '-serial', f'file:{self.console.path}', *drives,
            '-device', 'virtio-serial', '-chardev',
            f'socket,id=shell,path={self.shell.path},server=on,wait=off',
            '-device', 'virtserialport,chardev=shell,name=lab.shell'],
            env={'TMPDIR': os.fspath(self.folder)})
