# SPDX-License-Identifier: Apache-2.0
"""Images of bare metal: a real cloud with Keystone, Glance and Swift.

A user takes a snapshot of his project's node, and Ironic, as it comes,
deploys the image on another one. The tests go on from each other's end.
"""
import hashlib
import json

import pytest

from tests.functional import canary
from tests.functional.lab import process

# The conductor makes an image raw, unless told not to, and then the ramdisk
# fetches each byte of it: that takes minutes on two cores.
DEPLOY_TIMEOUT_S = 900.0
pytestmark = pytest.mark.timeout(2 * DEPLOY_TIMEOUT_S)

NOTE = 'written before the snapshot'
STEPS = [{'interface': 'deploy', 'step': 'snapshot',
          'args': {'name': 'golden', 'destination': 'glance'}}]
PUBLICATION_TIMEOUT_S = 300.0


def published(node):
    """Return the record of the node's last image, once it is decided."""
    def last():
        return node.show()['driver_internal_info'].get(
            'snapshot_publications', [{}])[-1]
    process.wait_until(lambda: last().get('status') in ('active', 'failed'),
                       'the image', PUBLICATION_TIMEOUT_S)
    return last()


@pytest.fixture(scope='module')
def golden(cloud_lab):
    """The image that a member of the owning project has asked for."""
    node = cloud_lab.node()
    node.shell(f'echo "{NOTE}" > /root/note && sync')
    since = node.console.mark()
    cloud_lab.ironic.cli('node', 'service', node.name, '--service-steps',
                         json.dumps(STEPS), user='alice')
    node.wait('active')
    node.console.wait_up(since)
    record = published(node)
    assert record['status'] == 'active', record['reason']
    return cloud_lab.cloud.connection('alice').image.get_image(
        record['image_id'])


def test_the_owning_project_sees_it(cloud_lab, golden):
    assert golden.status == 'active'
    assert golden.name == 'golden'
    assert golden.visibility == 'private'
    assert golden.owner_id == cloud_lab.cloud.project_id('alpha')
    assert golden.disk_format == 'qcow2'
    seen = {user: [image.id for image in
                   cloud_lab.cloud.connection(user).image.images()]
            for user in ('alice', 'rita', 'bob')}
    assert seen == {'alice': [golden.id], 'rita': [golden.id], 'bob': []}


def test_the_download_is_what_glance_says(cloud_lab, golden):
    digest = hashlib.new(golden.hash_algo)
    size = 0
    answer = cloud_lab.cloud.connection('alice').image.download_image(
        golden, stream=True)
    for chunk in answer.iter_content(1 << 20):
        digest.update(chunk)
        size += len(chunk)
    assert digest.hexdigest() == golden.hash_value
    assert size == golden.size


def test_properties(cloud_lab, golden):
    """What a user needs to choose an image, and Nova to deploy it; the rest
    has its own tests.
    """
    node = cloud_lab.node()
    assert golden.min_disk == -(-node.machine.disk_bytes >> 30)
    assert golden.os_distro == 'debian'
    assert golden.architecture == 'x86_64'
    assert golden.properties['hw_firmware_type'] == 'bios'
    assert golden.properties['ironic_snapshot_node'] == node.uuid
    assert golden.properties['ironic_snapshot_consistency'] == 'clean'
    assert golden.properties['ironic_snapshot_verified'] == 'hash'


@pytest.fixture(scope='module')
def target(cloud_lab):
    """A larger machine, with nothing but Ironic's own interfaces."""
    node = cloud_lab.node('node-1')
    node.enroll(driver='redfish', deploy_interface='direct',
                owner=cloud_lab.cloud.project_id('alpha'))
    node.provide()
    return node


@pytest.mark.parametrize('image', ('raw', 'qcow2'))
def test_ironic_deploys_it(cloud_lab, golden, target, image):
    """As what the ramdisk gets, it boots and has the files."""
    cloud_lab.ironic.set_options(
        {'DEFAULT': {'force_raw_images': image == 'raw'}})
    cloud_lab.ironic.restart()
    if target.show()['provision_state'] == 'active':
        target.undeploy()
    target.deploy(timeout=DEPLOY_TIMEOUT_S, image_source=golden.id)
    assert target.shell('cat /root/note').strip() == NOTE
    shown = target.show()['instance_info']
    assert shown['image_disk_format'] == image


def test_no_secret_anywhere(cloud_lab, golden):
    """In no log of any service, at level DEBUG, and in no database."""
    secrets = canary.secrets(cloud_lab)
    assert len(secrets) > 10
    assert canary.search(cloud_lab, cloud_lab.node(), secrets) == []
