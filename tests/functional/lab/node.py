# SPDX-License-Identifier: Apache-2.0
"""A node of the lab: the machine and what Ironic knows of it."""

import collections.abc
import dataclasses
import pathlib
import time
import typing
import uuid

from tests.functional.lab import ironic
from tests.functional.lab import machine
from tests.functional.lab import process

POLL_S = 0.5
#: A real deployment takes 95 s on two cores, a snapshot about 60 s.
WAIT_TIMEOUT_S = 420.0
POWER_TIMEOUT_S = 120.0

#: States that a request ends in when it went wrong.
FAILED = ('service failed', 'deploy failed', 'adopt failed', 'clean failed',
          'error')

Progress = collections.abc.Callable[[float, str], None]


def image_info(url: str, sha256: str) -> dict[str, object]:
    """Return the instance_info that deploys a qcow2 image."""
    return {'image_source': url, 'image_checksum': sha256,
            'image_disk_format': 'qcow2', 'image_type': 'whole-disk'}


@dataclasses.dataclass(frozen=True, slots=True)
class Files:
    """What nodes boot and are deployed with."""

    kernel: str         #: URL of the ramdisk's kernel
    ramdisk: str        #: URL of its initramfs
    image_raw: str      #: path of the OS image, as it goes on a disk
    image_url: str      #: where Ironic and the agent fetch it, as qcow2
    image_sha256: str   #: of the latter


class Node:
    """One node; its machine is there before it is."""

    def __init__(self, hardware: machine.Machine, service: ironic.Ironic,
                 bmc_url: str, files: Files) -> None:
        self.machine = hardware
        self.name = hardware.name
        self.uuid = hardware.uuid
        self.console = hardware.console
        self.disk_path = hardware.disk_path
        self._ironic = service
        self._bmc_url = bmc_url
        self._files = files
        self._client: typing.Any = None

    # Making it a node

    def enroll(self, driver: str = 'redfish-snapshot',
               deploy_interface: str = 'direct-snapshot',
               **fields: object) -> None:
        """Create the node and its port, and make it manageable.

        :param fields: of the node, on top of the lab's.
        """
        arguments = (
            'console=ttyS0 ipa-debug=1 snapshot-lab-shell=1 '
            'ipa-advertise-host=127.0.0.1 '
            f'ipa-advertise-port={self.machine.agent_port}')
        self.client.create_node(**{
            'name': self.name, 'uuid': self.uuid, 'driver': driver,
            'deploy_interface': deploy_interface,
            'boot_interface': 'redfish-virtual-media',
            'inspect_interface': 'no-inspect',
            'driver_info': {
                'redfish_address': self._bmc_url,
                'redfish_system_id': f'/redfish/v1/Systems/{self.uuid}',
                'redfish_username': 'admin', 'redfish_password': 'password',
                'deploy_kernel': self._files.kernel,
                'deploy_ramdisk': self._files.ramdisk,
                'kernel_append_params': arguments,
            },
            'properties': {
                'cpu_arch': 'x86_64', 'capabilities': 'boot_mode:bios',
                'root_device': {'serial': self.machine.serial},
            }, **fields})
        self.client.create_port(address=self.machine.mac,
                                node_id=self.uuid)
        self.client.set_node_provision_state(self.uuid, 'manage')
        self.wait('manageable')

    def deploy(self, progress: Progress | None = None,
               timeout: float = WAIT_TIMEOUT_S,
               **instance_info: object) -> None:
        """Deploy as Ironic does, from an empty disk.

        :param timeout: seconds that it may take.
        :param instance_info: what; by default the lab's OS image.
        """
        self.machine.create_disk()
        if self.show()['provision_state'] == 'manageable':
            self.provide()
        self._set_instance(instance_info)
        since = self.console.mark()
        self.client.set_node_provision_state(self.uuid, 'active')
        self.wait('active', timeout, progress)
        self.console.wait_up(since)

    def provide(self) -> None:
        """Offer it for deployment."""
        self.client.set_node_provision_state(self.uuid, 'provide')
        self.wait('available')

    def undeploy(self) -> None:
        """Take it away from its user."""
        self.client.set_node_provision_state(self.uuid, 'deleted')
        self.wait('available')

    def adopt(self) -> None:
        """Make the node active with the OS image already on its disk.

        A quarter of the time of :meth:`deploy`; what Ironic then knows of
        the node is the same.
        """
        self.machine.create_disk(pathlib.Path(self._files.image_raw))
        self._set_instance()
        since = self.console.mark()
        self.client.set_node_provision_state(self.uuid, 'adopt')
        self.wait('active')
        self.power_on()
        self.console.wait_up(since)

    def _set_instance(
            self, instance_info: dict[str, object] | None = None) -> None:
        self.client.update_node(
            self.uuid, instance_id=str(uuid.uuid4()),
            instance_info=instance_info or image_info(
                self._files.image_url, self._files.image_sha256))

    # Asking things of it

    def service(self, steps: list[dict[str, object]]) -> None:
        """Request service steps; see :meth:`wait` for their end."""
        # openstacksdk 4.22 has no argument for service steps.
        answer = self.client.put(
            f'/nodes/{self.uuid}/states/provision', microversion='1.87',
            json={'target': 'service', 'service_steps': steps})
        if not answer.ok:
            raise process.LabError(
                f'{self.name}: service refused: {answer.text}')

    def snapshot(self, **arguments: object) -> None:
        """Request the service step that takes a snapshot."""
        self.service([{'interface': 'deploy', 'step': 'snapshot',
                       'args': arguments}])

    def restore(self, snapshot: str, **arguments: object) -> None:
        """Request the service step that restores a snapshot."""
        self.service([{'interface': 'deploy', 'step': 'restore', 'args': {
            'snapshot': snapshot, 'confirm': self.name, **arguments}}])

    def abort(self) -> None:
        """Abort what the node waits for, or leave a failed state."""
        self.client.set_node_provision_state(self.uuid, 'abort')

    def wait(self, state: str, timeout: float = WAIT_TIMEOUT_S,
             progress: Progress | None = None,
             tick: collections.abc.Callable[[], None] | None = None
             ) -> dict[str, typing.Any]:
        """Wait for a provision state.

        :param progress: told of each change: seconds since the call, text.
        :param tick: called between two looks at the node.
        :returns: the node as it then was.
        :raises LabError: it ended in a failure, or not in time.
        """
        started, told = time.monotonic(), ''
        while True:
            node = self.show()
            seconds = time.monotonic() - started
            text = f'{node["provision_state"]} ({node["power_state"]})'
            if text != told and progress is not None:
                progress(seconds, text)
            told = text
            settled = node['target_provision_state'] is None
            if node['provision_state'] == state and (
                    settled or state.endswith('wait')):
                return node
            if node['provision_state'] in FAILED and seconds > POLL_S:
                raise process.LabError(
                    f'{self.name} is in state {node["provision_state"]}, '
                    f'not {state}: {node["last_error"]}')
            if seconds > timeout:
                raise process.LabError(
                    f'{self.name} is not {state} after {timeout:.0f} s but '
                    f'{text}: {node["last_error"]}')
            if tick is not None:
                tick()
            time.sleep(POLL_S)

    def show(self) -> dict[str, typing.Any]:
        """Return the node as the API shows it."""
        answer = self.client.get(f'/nodes/{self.uuid}', microversion='1.90')
        answer.raise_for_status()
        return typing.cast(dict[str, typing.Any], answer.json())

    def history(self) -> list[dict[str, typing.Any]]:
        """Return the node's history, in full."""
        answer = self.client.get(f'/nodes/{self.uuid}/history?detail=true',
                                 microversion='1.90')
        answer.raise_for_status()
        return typing.cast(list[dict[str, typing.Any]],
                           answer.json()['history'])

    # The machine

    def power_on(self) -> None:
        """Switch the machine on."""
        self._set_power('power on', 'power on')

    def power_off(self, *, soft: bool = False) -> None:
        """Switch the machine off.

        :param soft: ask its operating system, by the power button.
        """
        self._set_power('soft power off' if soft else 'power off',
                        'power off')

    def _set_power(self, target: str, expected: str) -> None:
        self.client.set_node_power_state(self.uuid, target)

        def reached() -> bool:
            node = self.show()
            return (node['power_state'] == expected
                    and node['target_power_state'] is None)
        process.wait_until(reached, f'{self.name}: {target}',
                           POWER_TIMEOUT_S)

    def shell(self, command: str,
              timeout: float = machine.SHELL_TIMEOUT_S) -> str:
        """Run a command in what the machine has booted.

        :raises LabError: no answer in time, or a status other than 0.
        """
        return self.machine.shell.run(command, timeout)

    def disk_sha256(self) -> str:
        """Hash the disk as the machine sees it. It must be off."""
        return machine.sha256(self.disk_path)

    @property
    def client(self) -> typing.Any:
        """openstacksdk's bare metal proxy."""
        if self._client is None:
            self._client = self._ironic.client()
        return self._client
