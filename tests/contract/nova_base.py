# SPDX-License-Identifier: Apache-2.0
"""Servers of a real Nova on the nodes of a real Ironic."""
import sys
import uuid

import requests

from tests.servers import programs
from tests.servers.keystone import REPOSITORY
from tests.servers.nova import TIMEOUT_S
from tests.servers.nova import wait_for


class BareMetal:
    """An Ironic whose nodes do what the test says.

    :param directory: of its database and its log.
    """

    def __init__(self, directory):
        port = programs.free_ports(['ironic'], {})['ironic']
        self.url = f'http://127.0.0.1:{port}'
        self._programs = programs.Programs(directory)
        self._programs.start(
            'ironic', [sys.executable, '-W', 'ignore', '-m',
                       'tests.contract.ironic_process', str(directory),
                       str(port)], cwd=REPOSITORY)
        self._programs.wait_listening('ironic', port)

    def stop(self):
        self._programs.stop()

    def say(self, method, **arguments):
        """Make something happen; see ``ironic_process.Control``."""
        response = requests.post(f'{self.url}/control/{method}',
                                 json=arguments, timeout=TIMEOUT_S)
        assert response.ok, response.text
        return response.json()

    def provision(self, node, target, **body):
        """What an operator asks of a node."""
        response = requests.put(
            f'{self.url}/v1/nodes/{node}/states/provision',
            json={'target': target, **body}, timeout=TIMEOUT_S,
            headers={'X-OpenStack-Ironic-API-Version': 'latest'})
        assert response.ok, response.text

    def wait(self, node, state):
        """Wait until a node is in a state, and nobody works on it."""
        return wait_for(
            lambda: self.say('show', node=node),
            lambda found: found['provision_state'] == state
            and not found['reservation'])


class Machine:
    """A node of Ironic with a server of Nova on it.

    :param user: as in the requests to Nova.
    :param on: whether it runs.
    """

    def __init__(self, ironic, nova, user, on=True):
        self.ironic, self.nova, self.user = ironic, nova, user
        self.node = str(uuid.uuid4())
        self.server = nova.say(
            'create', node=self.node, user=user,
            **({} if on else {'vm_state': 'stopped', 'power_state': 4}))
        ironic.say('create', uuid=self.node, instance_uuid=self.server,
                   power_state='power on' if on else 'power off')

    def create_image(self, **arguments):
        """Begin, and wait until the disk is being captured."""
        image = self.nova.say('create_image', server=self.server, **{
            'user': self.user, **arguments})
        self.ironic.wait(self.node, 'service wait')
        self.nova.wait(self.server, 'image_pending_upload')
        return image

    def publish(self, image, status, **fields):
        """Say how far the conductor is with the publication."""
        self.ironic.say('publish', node=self.node, image_id=image,
                        status=status, **fields)

    def finish(self):
        """The capture ends well."""
        self.ironic.say('finish', node=self.node)

    def forget(self):
        """Whatever still waits for the node ends."""
        self.ironic.say('release_way_back')
        self.ironic.say('change', node=self.node, instance_uuid=None)

    def state(self):
        return self.ironic.say('show', node=self.node)['provision_state']

    def show(self):
        return self.nova.say('show', server=self.server)

    def wait_idle(self):
        """Wait until nothing is done with the server."""
        return self.nova.wait(self.server, None)
