# SPDX-License-Identifier: Apache-2.0
"""The lab's Ironic: one process with API and conductor."""

import collections.abc
import os
import pathlib
import re
import string
import subprocess
import sys
import typing

import keystoneauth1.exceptions
import openstack

from tests.functional.lab import access as access_
from tests.functional.lab import paths
from tests.functional.lab import process
from tests.servers import programs
from tests.servers import settings

START_TIMEOUT_S = 90.0
#: How many lines are shown when it does not start.
LOG_ERRORS = 30

#: The name that means this machine's loopback to its own processes and to
#: the guests of QEMU's user network alike.
HOST = 'snapshot-lab'

HARDWARE_TYPES = 'redfish,redfish-snapshot,fake-hardware-snapshot'
DEPLOY_INTERFACES = ('direct,custom-agent,direct-snapshot,'
                     'custom-agent-snapshot,fake')

#: An agent that is not heard of for so many seconds is given up. It is less
#: than a ramdisk takes to boot.
IMPATIENT: settings.Options = {'conductor': {'service_callback_timeout': 20}}


class Ironic:
    """Configuration, service and client.

    :param ports: 'ironic' and 'http' of the lab's ports.
    :param access: how it knows its users.
    :param manifest_key: by which manifests are authenticated.
    :param extra: options on top of the lab's: group -> name -> value.
    """

    def __init__(self, state_dir: pathlib.Path,
                 ports: collections.abc.Mapping[str, int], *,
                 access: access_.Access, manifest_key: str,
                 extra: settings.Options | None = None) -> None:
        self.state_dir = state_dir
        self.ports = ports
        self.access = access
        self.manifest_key = manifest_key
        self.extra = extra or {}
        self.daemon = process.Daemon('ironic', state_dir)

    @property
    def url(self) -> str:
        """Root of the API, from this machine."""
        return f'http://127.0.0.1:{self.ports["ironic"]}'

    @property
    def log_path(self) -> pathlib.Path:
        """Where Ironic writes its log, at level DEBUG."""
        return self.state_dir / 'log/ironic.log'

    @property
    def _conf_path(self) -> pathlib.Path:
        return self.state_dir / 'ironic/ironic.conf'

    @property
    def _access_path(self) -> pathlib.Path:
        return self.state_dir / 'ironic/access.conf'

    @property
    def _extra_path(self) -> pathlib.Path:
        return self.state_dir / 'ironic/extra.conf'

    def configure(self) -> None:
        """Write the configuration and create the database."""
        for name in ('ironic/lock', 'ironic/images', 'ironic/tmp', 'www',
                     'log'):
            (self.state_dir / name).mkdir(parents=True, exist_ok=True)
        template = string.Template((paths.FILES / 'ironic.conf').read_text())
        self._conf_path.write_text(template.substitute(
            state=self.state_dir, cache=paths.cache_dir(),
            hardware_types=HARDWARE_TYPES,
            deploy_interfaces=DEPLOY_INTERFACES,
            api_port=self.ports['ironic'], http_port=self.ports['http'],
            manifest_key=self.manifest_key))
        self._access_path.write_text(settings.text(self.access.options()))
        self.set_options(self.extra)
        done = subprocess.run(
            # Ends with this program, so that nothing is left of it.
            ['setpriv', '--pdeathsig', 'KILL',
             *self._program('ironic-dbsync', 'create_schema')],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise process.LabError(
                f'ironic-dbsync failed:\n{done.stdout[-3000:]}')

    def set_options(self, extra: settings.Options) -> None:
        """Set options on top of the template; for the next :meth:`start`."""
        self.extra = extra
        self._extra_path.write_text(settings.text(extra))

    def start(self) -> None:
        """Start Ironic and wait until its conductor takes work."""
        hosts = self.state_dir / 'hosts'
        hosts.write_text(f'127.0.0.1 localhost {HOST}\n')
        try:
            self.daemon.start(
                process.with_binds({hosts: '/etc/hosts'},
                                   self._program('ironic')),
                self._ready, timeout=START_TIMEOUT_S)
        except process.LabError:
            # The end of its log is the debugging of its shutdown.
            raise process.LabError(
                f'Ironic does not start; in {self.log_path}:\n'
                + '\n'.join(self.errors()[-LOG_ERRORS:]))

    def errors(self) -> list[str]:
        """Return the errors in the log so far."""
        text = self.log_path.read_text(errors='replace')
        return re.findall(r'^[-\d]+ [:.\d]+ \d+ (?:ERROR|CRITICAL) .*$',
                          text, re.MULTILINE)

    def stop(self) -> None:
        """Stop Ironic in order."""
        self.daemon.stop()

    def kill(self) -> None:
        """End Ironic as a power cut would: SIGKILL."""
        self.daemon.kill()

    def restart(self) -> None:
        """Stop and start, for example after :meth:`set_options`."""
        self.stop()
        self.start()

    def client(self, user: str = access_.SYSTEM) -> typing.Any:
        """Return openstacksdk's bare metal proxy for this Ironic."""
        return self.access.baremetal(user)

    def exports(self, user: str = access_.SYSTEM) -> list[str]:
        """Return the lines by which a shell becomes a user."""
        return [*(f'export {name}={value}' for name, value
                  in self.access.environment(user).items()),
                f'export PATH={sys.prefix}/bin:$PATH']

    def cli(self, *arguments: str, user: str = access_.SYSTEM) -> str:
        """Run the ``baremetal`` program as a user would.

        :raises subprocess.CalledProcessError: it failed; its output is in
            the exception.
        """
        program = pathlib.Path(sys.executable).parent / 'baremetal'
        return subprocess.run(
            [str(program), *arguments], check=True, text=True,
            capture_output=True, env={
                **os.environ, **self.access.environment(user),
                'PYTHONWARNINGS': 'ignore'}).stdout

    def _program(self, name: str, *arguments: str) -> list[str]:
        return [sys.executable, '-W', 'ignore',
                str(pathlib.Path(sys.executable).parent / name),
                '--config-file', str(self._conf_path),
                '--config-file', str(self._access_path),
                '--config-file', str(self._extra_path), *arguments]

    def _ready(self) -> bool:
        if not programs.listens(self.ports['ironic']):
            return False
        try:
            # It answers before the conductor has registered its drivers.
            return any(self.client().drivers())
        except (openstack.exceptions.SDKException,
                keystoneauth1.exceptions.ClientException):
            return False
