# SPDX-License-Identifier: Apache-2.0
"""Machines of the lab: their disk, serial console and debug shell."""

import base64
import contextlib
import dataclasses
import hashlib
import itertools
import os
import pathlib
import re
import shutil
import socket
import string
import subprocess
import time
import uuid

from tests.functional.lab import paths
from tests.functional.lab import process

MEMORY_MIB = 2048
PROCESSORS = 2
#: The smallest that the agent takes for a root disk without being told.
DISK_BYTES = 4 << 30

#: An emulated machine is about ten times slower than a real one.
BOOT_TIMEOUT_S = 180.0
SHELL_TIMEOUT_S = 60.0

#: UEFI for QEMU, as Debian and Ubuntu install it.
OVMF_CODE = '/usr/share/OVMF/OVMF_CODE_4M.fd'
OVMF_VARIABLES = '/usr/share/OVMF/OVMF_VARS_4M.fd'

#: Domains get uuids from their names, so that a node is the same machine in
#: every lab.
NAMESPACE = uuid.UUID('6b1f3f3e-6c0e-4d5a-9d0c-5a4b2f1e7c10')


class Console:
    """What a machine printed on its serial line."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path

    def mark(self) -> int:
        """Return where the text ends now, for use as ``since``."""
        return self.path.stat().st_size if self.path.exists() else 0

    def text(self, since: int = 0) -> str:
        """Return what was printed after a mark, without colours."""
        if not self.path.exists():
            return ''
        with open(self.path, 'rb') as file:
            file.seek(since)
            text = file.read().decode(errors='replace')
        return re.sub(r'\x1b\[[0-9;?]*[A-Za-z]', '', text)

    def find(self, pattern: str, since: int = 0) -> list[re.Match[str]]:
        """Return the matches of a regular expression, line by line."""
        return list(re.finditer(pattern, self.text(since), re.MULTILINE))

    def wait(self, pattern: str, since: int = 0,
             timeout: float = BOOT_TIMEOUT_S) -> re.Match[str]:
        """Wait until a regular expression matches, and return that match.

        :raises LabError: it did not in time; the message holds the end of
            the console's text.
        """
        try:
            process.wait_until(lambda: bool(self.find(pattern, since)),
                               f'"{pattern}" on {self.path}', timeout)
        except process.LabError as error:
            raise process.LabError(
                f'{error}; it ends with:\n{self.text(since)[-1500:]}')
        return self.find(pattern, since)[0]

    def wait_up(self, since: int = 0,
                timeout: float = BOOT_TIMEOUT_S) -> int:
        """Wait until the lab's own system has started.

        :returns: how many times it has, counted on its disk.
        """
        return int(self.wait(r'SNAPSHOT-LAB up boot=(\d+) .*$', since,
                             timeout)[1])


class Shell:
    """Commands run inside a machine, over a virtio serial port."""

    def __init__(self, path: pathlib.Path) -> None:
        self.path = path
        self._ids = itertools.count(time.monotonic_ns())

    def run(self, command: str, timeout: float = SHELL_TIMEOUT_S, *,
            check: bool = True) -> str:
        """Run a command and return what it printed, errors included.

        :raises LabError: no answer in time, or (with ``check``) a status
            other than 0.
        """
        name = str(next(self._ids))
        encoded = base64.b64encode(command.encode()).decode()
        deadline = time.monotonic() + timeout
        with socket.socket(socket.AF_UNIX) as line:
            line.settimeout(1)
            line.connect(str(self.path))
            line.sendall(f'{name} {encoded}\n'.encode())
            answer = ''
            pattern = re.compile(
                rf'^{name} begin$(.*?)^{name} end (\d+)$', re.M | re.S)
            while (match := pattern.search(answer)) is None:
                if time.monotonic() > deadline:
                    raise process.LabError(
                        f'no answer within {timeout:.0f} s to: {command}')
                with contextlib.suppress(TimeoutError):
                    data = line.recv(1 << 16)
                    if not data:
                        raise process.LabError(
                            f'the machine went off during: {command}')
                    answer += data.decode(errors='replace')
        output = base64.b64decode(match[1]).decode(errors='replace')
        if check and match[2] != '0':
            raise process.LabError(
                f'status {match[2]} from: {command}\n{output[-2000:]}')
        return output


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """A machine behind the BMC: what libvirt is told about it."""

    name: str
    folder: pathlib.Path
    agent_port: int     #: on this machine's loopback; leads to the agent
    disk_bytes: int = DISK_BYTES

    @property
    def uuid(self) -> str:
        return str(uuid.uuid5(NAMESPACE, self.name))

    @property
    def mac(self) -> str:
        digest = hashlib.sha256(self.name.encode()).digest()
        return '52:54:00:' + digest[:3].hex(':')

    @property
    def serial(self) -> str:
        """The serial number of the root disk."""
        return f'{self.name}-root'

    @property
    def disk_path(self) -> pathlib.Path:
        return self.folder / 'disk.raw'

    @property
    def console(self) -> Console:
        return Console(self.folder / 'console.log')

    @property
    def shell(self) -> Shell:
        return Shell(self.folder / 'shell.sock')

    def create_disk(self, image: pathlib.Path | None = None) -> None:
        """Make an empty disk, or one with an image at its beginning."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if image is None:
            self.disk_path.unlink(missing_ok=True)
            self.disk_path.touch()
        else:
            copy_sparse(image, self.disk_path)
        os.truncate(self.disk_path, self.disk_bytes)
        if image is not None:
            # As the agent does after writing an image: the backup of the
            # partition table belongs at the end of the disk.
            subprocess.run(['sgdisk', '--move-second-header',
                            str(self.disk_path)], check=True,
                           stdout=subprocess.DEVNULL)

    def domain_xml(self) -> str:
        """Return the machine's description for libvirt."""
        template = string.Template((paths.FILES / 'domain.xml').read_text())
        return template.substitute(
            name=self.name, uuid=self.uuid, memory_mib=MEMORY_MIB,
            processors=PROCESSORS, disk=self.disk_path, serial=self.serial,
            shell=self.shell.path, console=self.console.path, mac=self.mac,
            agent_port=self.agent_port)


class BootedImage:
    """A machine apart from Ironic that boots from a disk image.

    What it writes goes to a file of its own: the image stays as it is.

    :param name: of its folder and its process.
    :param image: a qcow2 or raw file.
    :param uefi: start it by UEFI, as newer machines do, not by BIOS.
    """

    def __init__(self, name: str, image: pathlib.Path,
                 state_dir: pathlib.Path, *, uefi: bool = False) -> None:
        self.name = name
        self.image = image
        self.uefi = uefi
        self.folder = state_dir / 'machines' / name
        self.daemon = process.Daemon(name, state_dir)
        self.console = Console(self.folder / 'console.log')
        self.shell = Shell(self.folder / 'shell.sock')

    def start(self) -> 'BootedImage':
        """Switch the machine on."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        overlay = self.folder / 'overlay.qcow2'
        subprocess.run(
            ['qemu-img', 'create', '-q', '-f', 'qcow2', '-b',
             str(self.image.absolute()), '-F', image_format(self.image),
             str(overlay)], check=True)
        self.daemon.start([
            'qemu-system-x86_64', '-name', self.name, *self._firmware(),
            '-accel', 'tcg,thread=multi', '-cpu', 'max', '-smp',
            str(PROCESSORS), '-m', '1024', '-display', 'none', '-nodefaults',
            '-no-reboot', '-nic', 'none',
            '-serial', f'file:{self.console.path}',
            '-drive', f'file={overlay},if=virtio,cache=unsafe',
            '-device', 'virtio-serial', '-chardev',
            f'socket,id=shell,path={self.shell.path},server=on,wait=off',
            '-device', 'virtserialport,chardev=shell,name=lab.shell'])
        return self

    def _firmware(self) -> list[str]:
        if not self.uefi:
            return ['-machine', 'pc']
        variables = self.folder / 'variables.fd'
        shutil.copyfile(OVMF_VARIABLES, variables)
        return ['-machine', 'q35', '-drive',
                f'if=pflash,format=raw,readonly=on,file={OVMF_CODE}',
                '-drive', f'if=pflash,format=raw,file={variables}']

    def stop(self) -> None:
        """Switch the machine off, hard, and forget what it wrote."""
        self.daemon.stop()
        (self.folder / 'overlay.qcow2').unlink(missing_ok=True)

    def __enter__(self) -> 'BootedImage':
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


def image_format(path: pathlib.Path) -> str:
    """Tell a qcow2 file from a raw one."""
    with open(path, 'rb') as file:
        return 'qcow2' if file.read(4) == b'QFI\xfb' else 'raw'


def copy_sparse(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy a file, its holes as holes."""
    subprocess.run(['cp', '--sparse=always', '--reflink=auto', str(source),
                    str(target)], check=True)


def sha256(path: pathlib.Path) -> str:
    """Hash a file."""
    with open(path, 'rb') as file:
        return hashlib.file_digest(file, 'sha256').hexdigest()
