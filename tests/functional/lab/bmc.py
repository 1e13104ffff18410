# SPDX-License-Identifier: Apache-2.0
"""The BMCs of the lab: sushy-tools (Redfish) over a libvirt of its own.

The lab's libvirtd sees the lab's folders where libvirt keeps its own, in a
mount namespace; one that this machine may run otherwise is left alone.
"""

import functools
import os
import pathlib
import signal
import sys
import typing

from tests.functional.lab import machine
from tests.functional.lab import paths
from tests.functional.lab import process
from tests.servers import programs

#: Where libvirtd keeps configuration, state and sockets -> lab folder.
LIBVIRT_FOLDERS = {'/etc/libvirt': 'etc', '/var/lib/libvirt': 'lib',
                   '/var/cache/libvirt': 'cache', '/run/libvirt': 'run',
                   '/var/log/libvirt': 'log'}

#: libvirtd of the distribution looks up who its machines ran as, were they
#: not to run as root. Only a package that starts a libvirtd makes them.
ACCOUNTS = {
    '/etc/passwd': ['libvirt-qemu:x:64055:64055::/nonexistent:/bin/false\n'],
    '/etc/group': ['libvirt-qemu:x:64055:\n', 'kvm:x:64056:\n']}

SUSHY_CONF = """\
SUSHY_EMULATOR_LISTEN_IP = '127.0.0.1'
SUSHY_EMULATOR_LISTEN_PORT = {port}
SUSHY_EMULATOR_LIBVIRT_URI = '{uri}'
SUSHY_EMULATOR_STATE_DIR = '{folder}'
SUSHY_EMULATOR_STORAGE_POOL = 'default'
SUSHY_EMULATOR_IGNORE_BOOT_DEVICE = False
"""

POOL_XML = """\
<pool type='dir'>
  <name>default</name>
  <target><path>{path}</path></target>
</pool>
"""


class Bmc:
    """libvirtd and the Redfish service in front of it.

    :param port: of the Redfish service, on the loopback.
    """

    def __init__(self, state_dir: pathlib.Path, port: int) -> None:
        self.folder = state_dir / 'libvirt'
        self.port = port
        self.libvirtd = process.Daemon('libvirtd', state_dir)
        self.sushy = process.Daemon('sushy', state_dir)

    @property
    def url(self) -> str:
        """Root of the Redfish service."""
        return f'http://127.0.0.1:{self.port}'

    @property
    def libvirt_uri(self) -> str:
        """For ``virsh -c`` and libvirt's clients."""
        return f'qemu+unix:///system?socket={self.folder}/run/libvirt-sock'

    def start(self, machines: list[machine.Machine]) -> None:
        """Start both services and define the machines."""
        self._start_libvirtd()
        self._define(machines)
        conf = self.folder / 'sushy.conf'
        conf.write_text(SUSHY_CONF.format(
            port=self.port, uri=self.libvirt_uri, folder=self.folder))
        program = pathlib.Path(sys.executable).parent / 'sushy-emulator'
        self.sushy.start(
            [sys.executable, '-W', 'ignore', str(program), '--config',
             str(conf)], lambda: programs.listens(self.port))

    def _start_libvirtd(self) -> None:
        binds = {}
        for path, name in LIBVIRT_FOLDERS.items():
            (self.folder / name).mkdir(parents=True, exist_ok=True)
            # Only missing where libvirt never ran.
            pathlib.Path(path).mkdir(parents=True, exist_ok=True)
            binds[self.folder / name] = path
        for name in ('qemu.conf', 'libvirtd.conf'):
            (self.folder / 'etc' / name).write_text(
                (paths.FILES / name).read_text())
        for path, lines in ACCOUNTS.items():
            copy = self.folder / path.replace('/', '-')[1:]
            known = pathlib.Path(path).read_text()
            copy.write_text(known + ''.join(
                line for line in lines
                if f'\n{line.partition(":")[0]}:' not in f'\n{known}'))
            binds[copy] = path
        self.libvirtd.start(
            [sys.executable, '-m', 'tests.functional.lab.reaper',
             *process.with_binds(binds, [
                 'libvirtd', '--config', '/etc/libvirt/libvirtd.conf',
                 '--pid-file', '/run/libvirt/libvirtd.pid'])],
            self._libvirtd_answers, cwd=paths.REPOSITORY)

    def _libvirtd_answers(self) -> bool:
        import libvirt

        try:
            self._connect().close()
        except libvirt.libvirtError:
            return False
        return True

    def _connect(self) -> typing.Any:
        # Imported late: tools that only read the lab's state need no libvirt.
        import libvirt

        # Errors are raised as well; printing them too is noise.
        libvirt.registerErrorHandler(lambda *_: None, None)
        return libvirt.open(self.libvirt_uri)

    def _define(self, machines: list[machine.Machine]) -> None:
        pool_folder = self.folder / 'pool'
        pool_folder.mkdir(exist_ok=True)
        import libvirt

        connection = self._connect()
        try:
            pool = connection.storagePoolDefineXML(
                POOL_XML.format(path=pool_folder))
            pool.create()
            for each in machines:
                connection.defineXML(each.domain_xml())
        except libvirt.libvirtError as error:
            raise process.LabError(f'libvirt: {error}')
        finally:
            connection.close()

    def cut_power(self, name: str) -> None:
        """Switch a machine off as a power failure does: nobody is asked."""
        connection = self._connect()
        try:
            connection.lookupByName(name).destroy()
        finally:
            connection.close()

    def stop(self) -> None:
        """Stop both services and every machine that runs."""
        self.sushy.stop()
        self._end_machines()
        self.libvirtd.stop()

    def _end_machines(self) -> None:
        """End the machines' processes, which are children of nobody."""
        for path in (self.folder / 'run/qemu').glob('*.pid'):
            try:
                pid = int(path.read_text())
                command = pathlib.Path(f'/proc/{pid}/cmdline').read_bytes()
            except (OSError, ValueError):
                continue
            # The id may be another's by now.
            if str(self.folder.parent).encode() not in command:
                continue
            os.kill(pid, signal.SIGKILL)
            process.wait_until(
                functools.partial(process.has_ended, pid),
                f'end of {path.stem}', process.STOP_TIMEOUT_S)
