# SPDX-License-Identifier: Apache-2.0
"""A stream inside the real agent's command machinery, into a real Glance."""

import json
import uuid

import pytest

from ironic_snapshot import upload_credential
from ironic_snapshot_core import upload_grant
from ironic_snapshot_core.units import MiB
from tests import agent_log
from tests import disks
from tests.contract import agent_commands
from tests.contract import capture_requests as requests
from tests.contract import stream_ramdisk
from tests.contract.agent_commands import BY_SERIAL
from tests.contract.agent_commands import Agent
from tests.contract.agent_commands import device
from tests.contract.agent_commands import node
from tests.contract.agent_commands import step

pytestmark = disks.needs_loop

use = agent_commands.use
output = agent_log.output


class Image:
    """An image without data, and what lets an agent send them."""

    def __init__(self, cloud):
        self._cloud = cloud
        self._session = cloud.session('ironic')
        self.id = str(uuid.uuid4())
        self._session.post(f'{self._url}/v2/images', json={
            'id': self.id, 'name': 'streamed', 'disk_format': 'qcow2',
            'container_format': 'bare',
            'owner': cloud.project_id('alpha')})
        self._issuer = upload_credential.Issuer(
            self._session, self._session.auth, self._url, False)

    @property
    def _url(self):
        return self._cloud.glance.url

    def issue(self):
        """Make a token that is good for this image."""
        return self._issuer.issue(self.id, 600)

    def revoke(self):
        """Take back what was issued."""
        self._issuer.revoke(self.id)

    def grant(self, secret=''):
        return upload_grant.UploadGrant(
            upload_grant.url(self._url, self.id), secret).to_dict()

    def show(self):
        return self._session.get(f'{self._url}/v2/images/{self.id}').json()


@pytest.fixture
def image(cloud):
    found = Image(cloud)
    yield found
    found.revoke()


@pytest.fixture
def loop(tmp_path, use):
    path = tmp_path / 'disk'
    path.write_bytes(disks.draw('AbA-c-', MiB))
    with disks.loop_device(path) as found:
        use(device(found))
        yield found


def run(agent, upload, **changes):
    return agent.run(
        'execute_service_step',
        step=step(stream_ramdisk.arguments(
            upload=upload, memory_limit=0, **changes)),
        node=node(BY_SERIAL),
        ports=[],
    )


def test_an_image_and_no_secret_anywhere(loop, image, output):
    agent = Agent()
    first = run(agent, image.grant())
    assert first['command_status'] == 'SUCCEEDED', first
    answer = first['command_result']['service_result']
    assert (answer['more'], answer['progress']['phase']) == (True, 'ready')
    assert image.show()['status'] == 'queued'
    token = image.issue()
    second = run(agent, image.grant(token))
    assert second['command_status'] == 'SUCCEEDED', second
    answer = second['command_result']['service_result']
    assert len(json.dumps(answer)) <= 1536
    found = image.show()
    assert (found['status'], found['size'], found['os_hash_value']) == (
        'active', answer['image']['size'], answer['image']['hash'])
    assert found['virtual_size'] == 6 * MiB
    assert answer['system']['architecture']
    assert token not in json.dumps([first, second])
    assert token not in output.getvalue()
    # Were the log not seen, nothing would be found in it.
    assert image.id in output.getvalue()


def test_a_wrong_token_and_no_secret_in_the_error(loop, image, output):
    agent = Agent()
    run(agent, image.grant())
    found = run(agent, image.grant(agent_log.CANARY))
    assert found['command_status'] == 'FAILED'
    assert '[image-refused]' in found['command_error']['details']
    assert agent_log.CANARY not in json.dumps(found)
    assert agent_log.CANARY not in output.getvalue()
    assert image.show()['status'] == 'queued'
    assert requests.capture_threads() == []


@pytest.mark.parametrize('upload', [None, {}, {'secret': agent_log.CANARY}])
def test_a_grant_that_is_none(loop, upload, output):
    found = run(Agent(), upload)
    assert found['command_status'] == 'FAILED'
    assert agent_log.CANARY not in json.dumps(found)
    assert agent_log.CANARY not in output.getvalue()
