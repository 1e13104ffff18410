# SPDX-License-Identifier: Apache-2.0
"""The lab: Swift, Ironic, BMCs and machines, on the loopback, from scratch.

With Keystone and Glance it is a small cloud, whose users have projects.

    with Lab() as lab:
        node = lab.node('node-0')
        node.enroll()
        node.adopt()
        node.snapshot(name='golden')
        node.wait('active')
"""

import json
import os
import pathlib
import secrets
import shutil
import sys
import time
import typing

from ironic_snapshot_core.store import swift as swift_store
from tests.functional.lab import access
from tests.functional.lab import account
from tests.functional.lab import bmc as bmc_
from tests.functional.lab import faulty_store
from tests.functional.lab import ironic as ironic_
from tests.functional.lab import machine
from tests.functional.lab import node as node_
from tests.functional.lab import paths
from tests.functional.lab import process
from tests.functional.lab import record
from tests.functional.lab import report
from tests.functional.lab.build import osimage
from tests.functional.lab.build import ramdisk
from tests.servers import cloud as cloud_
from tests.servers import programs
from tests.servers import settings
from tests.servers import swift as swift_

#: By which the disk of a machine is larger than the one before.
STEP_BYTES = 1 << 30

SERVICES = ('memcached', 'account', 'container', 'object', 'swift', 'storage',
            'ironic', 'http', 'sushy', 'keystone', 'glance')


class Lab:
    """All of it.

    :param state_dir: what the lab writes; emptied by :meth:`up`. Only one
        lab may use a folder at a time.
    :param machines: how many machines there are, named node-0 onwards.
    :param options: more options for Ironic: group -> name -> value.
    :param cloud: with Keystone and Glance, and everything under them.
    :param faults: put a proxy in front of Swift, for conductor and ramdisk
        alike, that tests can make fail; see :attr:`proxy`.
    """

    def __init__(self, state_dir: os.PathLike[str] | None = None, *,
                 machines: int = 2,
                 options: settings.Options | None = None,
                 cloud: bool = False, faults: bool = False) -> None:
        self.state_dir = pathlib.Path(
            state_dir or paths.default_state_dir()).absolute()
        self._machines = [f'node-{number}' for number in range(machines)]
        self._options = options or {}
        self._cloud = cloud
        self._faults = faults
        self._use = record.Use(self.state_dir)
        self._record: record.Record | None = None
        self._proxy: faulty_store.Proxy | None = None
        self._booted: list[machine.BootedImage] = []

    # Life

    def up(self) -> 'Lab':
        """Bring everything up, after clearing away what an earlier one left.

        :raises LabError: something does not start (all is down again then,
            the logs stay), or another program is using the folder.
        """
        self._use.begin()
        if self.state_dir.exists():
            with report.phase('clearing away the lab before'):
                self._take_down(keep_files=False)
        with report.phase('images'):
            image = osimage.build()
            disk = ramdisk.build(image)
        self.state_dir.mkdir(parents=True)
        ports = programs.free_ports([*SERVICES, *self._machines], {})
        self._record = record.Record(
            ports=ports, machines=self._machines,
            files=self._publish(image, disk, ports['http']),
            manifest_key=secrets.token_hex(32),
            cloud_secret=secrets.token_hex(16) if self._cloud else None,
            options=self._options, faults=self._faults,
            started=int(time.time()))
        self._record.write(self.state_dir)
        try:
            self._start()
        except BaseException:
            self.down(keep_files=True)
            raise
        return self

    def attach(self) -> 'Lab':
        """Use a lab that is up already, brought up by another program.

        :raises LabError: there is none.
        """
        self._record = record.Record.read(self.state_dir)
        return self

    def down(self, *, keep_files: bool = False) -> None:
        """Take everything down: no process, no mount stays.

        :param keep_files: leave logs and disks for inspection.
        """
        with report.phase('taking the lab down'):
            self._take_down(keep_files)
        self._use.end()

    def __enter__(self) -> 'Lab':
        return self.up()

    def __exit__(self, *exc_info: object) -> None:
        self.down()

    # Parts

    @property
    def ports(self) -> dict[str, int]:
        """Every port of the lab; all on 127.0.0.1."""
        return self._known.ports

    @property
    def machines(self) -> dict[str, machine.Machine]:
        """The machines behind the BMC, by name.

        Each has a disk that is larger than the one before has.
        """
        return {
            name: machine.Machine(
                name=name, folder=self.state_dir / 'machines' / name,
                agent_port=self.ports[name],
                disk_bytes=machine.DISK_BYTES + number * STEP_BYTES)
            for number, name in enumerate(self._known.machines)}

    @property
    def bmc(self) -> bmc_.Bmc:
        """The Redfish service and libvirt."""
        return bmc_.Bmc(self.state_dir, self.ports['sushy'])

    @property
    def ironic(self) -> ironic_.Ironic:
        """Ironic."""
        return ironic_.Ironic(
            self.state_dir, self.ports, access=self._access,
            manifest_key=self.manifest_key, extra=self._known.options)

    def node(self, name: str = 'node-0') -> node_.Node:
        """Return a node; it is in Ironic once it was enrolled."""
        return node_.Node(self.machines[name], self.ironic, self.bmc.url,
                         self._known.files)

    def boot_image(self, image: os.PathLike[str],
                   name: str = 'second', *,
                   uefi: bool = False) -> machine.BootedImage:
        """Switch on a machine that boots from an image, without Ironic.

        It is switched off by its ``stop``, as a context manager, or with
        the lab.

        :param uefi: by UEFI, not by BIOS.
        """
        booted = machine.BootedImage(name, pathlib.Path(image),
                                     self.state_dir, uefi=uefi)
        self._booted.append(booted)
        return booted.start()

    def publish(self, image: pathlib.Path) -> str:
        """Put an image on the file server.

        :returns: its URL, for Ironic and the agent.
        """
        return self._serve(image.name, image, self.ports['http'])

    @property
    def swift(self) -> swift_.SwiftServer:
        """Where Swift is and how to get a token; do not start or stop it."""
        if not self.is_cloud:
            return swift_.SwiftServer(**self._swift_arguments())
        return self.cloud.swift

    @property
    def is_cloud(self) -> bool:
        """Whether there are Keystone and Glance."""
        return self._known.cloud_secret is not None

    @property
    def cloud(self) -> cloud_.Cloud:
        """Keystone, Swift and Glance; do not start or stop them.

        :raises LabError: the lab was not brought up with ``cloud``.
        """
        if not self.is_cloud:
            raise process.LabError('this lab has no Keystone: bring it up '
                                   'with cloud=True')
        return cloud_.Cloud(**self._cloud_arguments())

    @property
    def proxy(self) -> faulty_store.Proxy:
        """What stands between Swift and all its users but the tests.

        :raises LabError: the lab was not brought up with ``faults``, or not
            by this program.
        """
        if self._proxy is None:
            raise process.LabError('this lab has no proxy: bring it up from '
                                   'this program, with faults=True')
        return self._proxy

    def store(self, container: str = account.CONTAINER
              ) -> swift_store.SwiftStore:
        """Return a container as our own store, past the proxy."""
        return self._account.store(container)

    def containers(self) -> dict[str, str]:
        """Return the URL of every container that has a signing key."""
        return self._account.containers()

    def granted(self, container_url: str) -> account.Grants:
        """Return what may have been granted in a container.

        :returns: prefix of each attempt that left anything behind and of
            each snapshot, and the moments (Unix time) at which the grants for
            it may expire.
        """
        return self._account.granted(container_url, self._known.started)

    @property
    def manifest_key(self) -> str:
        """The key Ironic authenticates manifests with."""
        return self._known.manifest_key

    @property
    def log_dir(self) -> pathlib.Path:
        """Where every program of the lab logs."""
        return self.state_dir / 'log'

    @staticmethod
    def sha256(path: pathlib.Path) -> str:
        """Hash a file."""
        return machine.sha256(path)

    # Private

    @property
    def _known(self) -> record.Record:
        if self._record is None:
            raise process.LabError('the lab is not up')
        return self._record

    @property
    def _account(self) -> account.Account:
        return account.Account(self.swift)

    def _daemon(self, name: str) -> process.Daemon:
        return process.Daemon(name, self.state_dir)

    def _start(self) -> None:
        with report.phase(
                'Keystone, Swift and Glance' if self._cloud else 'Swift'):
            servers = self._daemon('servers')
            servers.start(
                [sys.executable, '-m', 'tests.functional.lab.servers',
                 *self._servers()],
                lambda: 'all are up' in servers.log_tail(),
                cwd=paths.REPOSITORY)
            if self._faults:
                self._proxy = faulty_store.Proxy(
                    self.swift.url, self.ports['storage'])
        with report.phase('machines and their BMCs'):
            for each in self.machines.values():
                each.create_disk()
            self._daemon('http').start(
                [sys.executable, '-m', 'tests.functional.lab.httpd',
                 str(self.ports['http']), str(self.state_dir / 'www')],
                lambda: programs.listens(self.ports['http']),
                cwd=paths.REPOSITORY)
            self.bmc.start(list(self.machines.values()))
        with report.phase('Ironic'):
            self.ironic.configure()
            self.ironic.start()

    def _take_down(self, keep_files: bool) -> None:
        """End what is on record here, whoever began it, and however."""
        for booted in self._booted:
            booted.stop()
        self._booted = []
        if self._proxy is not None:
            self._proxy.stop()
            self._proxy = None
        # Ironic first, so that it does not mourn the others in its log.
        self._daemon('ironic').stop()
        bmc_.Bmc(self.state_dir, port=0).stop()
        for path in sorted((self.state_dir / 'run').glob('*.json')):
            self._daemon(path.stem).stop()
        if not keep_files:
            shutil.rmtree(self.state_dir, ignore_errors=True)
            self._record = None

    @property
    def _access(self) -> access.Access:
        url = f'http://127.0.0.1:{self.ports["ironic"]}'
        if not self.is_cloud:
            return access.Standalone(self.swift, url)
        return access.Cloud(
            self.cloud, self._swift_url(ironic_.HOST),
            f'http://{ironic_.HOST}:{self.ports["glance"]}')

    def _servers(self) -> list[str]:
        """Return what to start, and with what arguments."""
        if not self.is_cloud:
            return ['swift', json.dumps(self._swift_arguments())]
        return ['cloud', json.dumps(self._cloud_arguments())]

    def _swift_url(self, host: str) -> str:
        """Return the root of Swift as it is told to those who use it."""
        name = 'storage' if self._known.faults else 'swift'
        return f'http://{host}:{self.ports[name]}'

    @property
    def _swift_ports(self) -> dict[str, int]:
        return {'proxy': self.ports['swift'],
                **{name: self.ports[name] for name in (
                    'memcached', 'account', 'container', 'object')}}

    def _swift_arguments(self) -> dict[str, typing.Any]:
        return {
            'directory': str(self.state_dir / 'swift'),
            'ports': self._swift_ports,
            'public_url': self._swift_url(ironic_.HOST),
        }

    def _cloud_arguments(self) -> dict[str, typing.Any]:
        return {
            'directory': str(self.state_dir / 'cloud'),
            'ports': {**self._swift_ports,
                      'keystone': self.ports['keystone'],
                      'glance': self.ports['glance']},
            'swift_url': self._swift_url('127.0.0.1'),
            'secret': self._known.cloud_secret,
            'services': {'baremetal':
                         f'http://127.0.0.1:{self.ports["ironic"]}'},
        }

    def _publish(self, image: osimage.OsImage, disk: ramdisk.Ramdisk,
                 port: int) -> node_.Files:
        """Put the OS image on the file server, and say where all is."""
        return node_.Files(
            kernel=f'file://{disk.kernel}',
            ramdisk=f'file://{disk.initramfs}',
            image_raw=str(image.raw),
            image_url=self._serve('os.qcow2', image.qcow2, port),
            image_sha256=machine.sha256(image.qcow2))

    def _serve(self, name: str, path: pathlib.Path, port: int) -> str:
        folder = self.state_dir / 'www/images'
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).symlink_to(path)
        return f'http://{ironic_.HOST}:{port}/images/{name}'
