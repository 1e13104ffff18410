# SPDX-License-Identifier: Apache-2.0
"""Create image, create backup and delete of Nova on bare metal.

Nova's compute API and manager, Ironic's API and conductor, Glance, Keystone
and Swift are real; see :mod:`tests.servers.nova_process` and
:mod:`tests.contract.ironic_process` for what is not.
"""
import functools
import json
import pathlib
import subprocess
import tempfile

import pytest

from tests.contract import nova_base
from tests.servers import nova as nova_server
from tests.servers.faulty_http import FaultyProxy


@pytest.fixture(scope='module')
def ironic(tmp_path_factory):
    server = nova_base.BareMetal(tmp_path_factory.mktemp('ironic'))
    yield server
    server.stop()


@pytest.fixture(scope='module')
def ironic_proxy(ironic):
    with FaultyProxy(ironic.url) as proxy:
        yield proxy


@pytest.fixture(scope='module')
def glance_proxy(cloud):
    with FaultyProxy(cloud.glance.url) as proxy:
        yield proxy


@pytest.fixture(scope='module')
def started_nova(tmp_path_factory, ironic_proxy, glance_proxy):
    server = nova_server.Nova(tmp_path_factory.mktemp('nova') / 'log',
                              ironic_proxy.url, glance_proxy.url)
    yield server
    server.stop()


@pytest.fixture
def nova(started_nova, ironic, ironic_proxy, glance_proxy):
    yield started_nova
    ironic_proxy.clear()
    glance_proxy.clear()
    ironic.say('release_way_back')


@pytest.fixture(scope='module')
def users(cloud):
    """Nova's context of each user."""
    found = {}
    for name in ('alice', 'bob', 'admin'):
        found[name] = {**nova_server.context_of(cloud.session(name)),
                       'admin': name == 'admin'}
    return found


@pytest.fixture
def make_machine(ironic, nova, users):
    """Gives nodes with a server of alice."""
    made = []

    def make(**fields):
        made.append(
            nova_base.Machine(ironic, nova, users['alice'], **fields))
        return made[-1]
    yield make
    for machine in made:
        machine.forget()


@pytest.fixture
def machine(make_machine):
    return make_machine()


def find_image(cloud, user, image):
    """An image as Glance tells a user, or None."""
    response = cloud.session(user).get(
        f'{cloud.glance.url}/v2/images/{image}', raise_exc=False)
    assert response.status_code in (200, 404), response.text
    return response.json() if response.ok else None


@functools.cache
def small_disk():
    """Glance looks whether it is a qcow2 image."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'disk.qcow2'
        subprocess.run(['qemu-img', 'create', '-q', '-f', 'qcow2', path,
                        '1M'], check=True)
        return path.read_bytes()


def upload(cloud, image):
    """What Glance's import does."""
    cloud.session('admin').put(
        f'{cloud.glance.url}/v2/images/{image}/file', data=small_disk(),
        headers={'Content-Type': 'application/octet-stream'})


def complete(cloud, machine, image):
    """Everything goes well from here on."""
    machine.publish(image, 'importing')
    machine.finish()
    upload(cloud, image)
    machine.ironic.wait(machine.node, 'active')
    machine.publish(image, 'active')
    return machine.wait_idle()


def test_create_image(cloud, ironic, machine):
    ironic.say('hold_way_back')
    image = machine.create_image(name='(web) 1 / after update')
    assert ironic.say('received')[-1] == {
        'destination': 'glance', 'image_id': image,
        'name': 'web_ 1 _ after update'}
    found = find_image(cloud, 'alice', image)
    wanted = {
        'status': 'queued', 'disk_format': 'qcow2',
        'container_format': 'bare', 'name': '(web) 1 / after update',
        'visibility': 'private', 'image_type': 'snapshot',
        'instance_uuid': machine.server, 'owner_id': found['owner'],
        'image_location': 'snapshot', 'image_state': 'available',
        'base_image_ref': 'base', 'os_type': 'linux', 'min_disk': 1,
        # Ironic would take one with a kernel for that of a partition.
        'img_type': 'whole-disk', 'kernel_id': None}
    assert {name: found.get(name) for name in wanted} == wanted

    # What the commit writes; the node is captured, and not back yet.
    machine.publish(image, 'waiting')
    machine.publish(image, 'importing')
    machine.nova.wait(machine.server, 'image_uploading')
    machine.finish()
    upload(cloud, image)
    nova_server.wait_for(machine.state, lambda state: state == 'servicing')
    ironic.say('release_way_back')
    ironic.wait(machine.node, 'active')
    # The machine is back, and the image is not verified yet.
    machine.publish(image, 'verifying')
    assert machine.show()['task_state'] == 'image_uploading'
    machine.publish(image, 'active')
    assert machine.wait_idle() == {
        'task_state': None, 'vm_state': 'active', 'power_state': 1,
        'fault': None}
    assert ironic.say('received')[-1]['image_id'] == image
    assert find_image(cloud, 'alice', image)['status'] == 'active'
    assert find_image(cloud, 'bob', image) is None


# What goes wrong

def fail_capture(ironic, machine, image):
    ironic.say('fail', node=machine.node,
               reason='snapshot: the disk vanished.')


def fail_publication(ironic, machine, image):
    machine.publish(image, 'importing')
    machine.finish()
    ironic.wait(machine.node, 'active')
    machine.publish(image, 'failed', reason='Glance has no room.')


def abort(ironic, machine, image):
    ironic.provision(machine.node, 'abort')


def do_nothing(ironic, machine, image):
    """Hours pass."""


@pytest.mark.parametrize(('happen', 'why'), [
    (fail_capture, 'the disk vanished'),
    (fail_publication, 'Glance has no room'),
    (abort, 'servicing ended without an image'),
    (do_nothing, 'have passed; raise'),
])
def test_failure_deletes_the_image_and_leaves_the_node_active(
        cloud, ironic, machine, happen, why):
    if happen is do_nothing:
        machine.nova.say('set_option', name='timeout', value=600)
    try:
        image = machine.create_image()
        happen(ironic, machine, image)
        found = machine.wait_idle()
    finally:
        machine.nova.say('set_option', name='timeout', value=86400)
    assert why in found['fault']
    assert machine.node in found['fault']
    assert found['vm_state'] == 'active'
    assert find_image(cloud, 'alice', image) is None
    ironic.wait(machine.node, 'active')
    # And it can be done again.
    complete(cloud, machine, machine.create_image())


def refuse_step(ironic, machine):
    ironic.say('refuse', reason='No such image of this project')


def be_captured_already(ironic, machine):
    ironic.provision(machine.node, 'service', service_steps=[
        {'interface': 'deploy', 'step': 'snapshot',
         'args': {'destination': 'swift'}}])
    ironic.wait(machine.node, 'service wait')


def be_locked(ironic, machine):
    ironic.say('change', node=machine.node, reservation='another')


def be_in_maintenance(ironic, machine):
    ironic.say('change', node=machine.node, maintenance=True)


@pytest.mark.parametrize(('happen', 'why', 'state'), [
    (refuse_step, 'No such image of this project', 'active'),
    (be_captured_already, 'in the state "service wait"', 'service wait'),
    (be_locked, 'is locked by host another', 'active'),
    (be_in_maintenance, 'it is in maintenance', 'active'),
])
def test_refusal_deletes_the_image_and_leaves_the_node_alone(
        cloud, ironic, machine, happen, why, state):
    happen(ironic, machine)
    image = machine.nova.say(
        'create_image', server=machine.server, user=machine.user)
    found = nova_server.wait_for(machine.show, lambda found: found['fault'])
    assert why in found['fault']
    machine.wait_idle()
    assert find_image(cloud, 'alice', image) is None
    assert machine.state() == state


@pytest.mark.parametrize(('status', 'why'), [
    (403, 'Forbidden'), (504, 'Gateway Timeout'),
])
def test_step_that_ironic_does_not_take(cloud, ironic_proxy, machine, status,
                                        why):
    ironic_proxy.rule(method='PUT', match='/states/provision', status=status)
    image = machine.nova.say(
        'create_image', server=machine.server, user=machine.user)
    found = nova_server.wait_for(machine.show, lambda found: found['fault'])
    assert f'Ironic says "{why}"' in found['fault']
    assert machine.state() == 'active'
    assert find_image(cloud, 'alice', image) is None


def test_old_ironic(cloud, ironic_proxy, machine):
    """That of Yoga, which has no service steps."""
    ironic_proxy.rule(
        method='GET', match='^/(v1/?)?$', status=200, times=None,
        headers={'Content-Type': 'application/json'}, body=json.dumps({
            'version': {'id': 'v1', 'status': 'CURRENT', 'version': '1.78',
                        'min_version': '1.1', 'links': [
                            {'rel': 'self', 'href': 'v1'}]}}))
    machine.nova.say('reconnect')
    try:
        image = machine.nova.say(
            'create_image', server=machine.server, user=machine.user)
        found = nova_server.wait_for(
            machine.show, lambda found: found['fault'])
    finally:
        machine.nova.say('reconnect')
    assert "version 1.87 of Ironic's API" in found['fault']
    assert find_image(cloud, 'alice', image) is None


def test_step_that_ironic_takes_without_an_answer(cloud, ironic_proxy,
                                                  machine):
    rule = ironic_proxy.rule(method='PUT', match='/states/provision',
                             cut='after')
    complete(cloud, machine, machine.create_image())
    assert rule.seen


@pytest.mark.parametrize('service', ['ironic', 'glance'])
def test_service_away_for_a_while(cloud, ironic_proxy, glance_proxy, machine,
                                  service):
    image = machine.create_image()
    proxy = {'ironic': ironic_proxy, 'glance': glance_proxy}[service]
    rule = proxy.rule(method='GET', match='/v[12]/', status=503, times=None)
    nova_server.wait_for(lambda: rule.seen, lambda seen: seen > 5)
    assert machine.show()['task_state'] == 'image_pending_upload'
    proxy.clear()
    assert complete(cloud, machine, image)['fault'] is None


def test_token_of_the_user_expires(cloud, glance_proxy, machine):
    """The conductor has asked Glance by itself."""
    image = machine.create_image()
    glance_proxy.rule(match='/v2/', status=401, times=None)
    assert complete(cloud, machine, image)['fault'] is None
    assert find_image(cloud, 'alice', image)['status'] == 'active'


def test_deleting_the_image_ends_the_capture(cloud, ironic, machine):
    image = machine.create_image()
    cloud.connection('alice').image.delete_image(image)
    machine.wait_idle()
    ironic.wait(machine.node, 'active')


def test_another_capture_after_ours(cloud, ironic, machine):
    """Ours is lost, and the other one is left alone."""
    machine.create_image()
    ironic.provision(machine.node, 'abort')
    ironic.wait(machine.node, 'active')
    be_captured_already(ironic, machine)
    found = machine.wait_idle()
    assert 'servicing ended without an image' in found['fault']
    assert machine.state() == 'service wait'


# What becomes of the server

def test_delete_of_the_server(cloud, ironic, machine):
    image = machine.create_image()
    ironic.say('hold_way_back')
    machine.nova.say('delete', server=machine.server, user=machine.user)
    # Its own system boots first: the network of the ramdisk goes.
    nova_server.wait_for(
        lambda: ironic.say('show', node=machine.node),
        lambda found: found['provision_state'] == 'active')
    ironic.say('release_way_back')
    ironic.wait(machine.node, 'available')
    nova_server.wait_for(
        lambda: find_image(cloud, 'alice', image), lambda found: not found)


def test_power_sync_leaves_the_way_back_alone(ironic, machine):
    """Also where Nova knows nothing of it: it was begun at Ironic."""
    be_captured_already(ironic, machine)
    machine.nova.say('sync_power', server=machine.server)
    ironic.say('hold_way_back')
    ironic.provision(machine.node, 'abort')
    nova_server.wait_for(
        lambda: ironic.say('show', node=machine.node),
        lambda found: found['power_state'] == 'power off')
    assert machine.state() == 'active'
    machine.nova.say('sync_power', server=machine.server)
    assert machine.show() == {'task_state': None, 'vm_state': 'active',
                              'power_state': 1, 'fault': None}
    ironic.say('release_way_back')
    ironic.wait(machine.node, 'active')
    machine.nova.say('sync_power', server=machine.server)
    assert machine.show()['vm_state'] == 'active'


def test_power_sync_stops_a_server_that_is_off(ironic, machine):
    ironic.say('change', node=machine.node, power_state='power off')
    machine.nova.say('sync_power', server=machine.server)
    nova_server.wait_for(
        machine.show, lambda found: found['vm_state'] == 'stopped')


def test_restart_of_nova_during_a_capture(cloud, ironic, machine):
    """Nova forgets it; Ironic does not, and power sync keeps out of it."""
    image = machine.create_image()
    machine.nova.say('restart', server=machine.server)
    machine.nova.say('sync_power', server=machine.server)
    assert machine.state() == 'service wait'
    found = complete(cloud, machine, image)
    assert found['vm_state'] == 'active'
    assert find_image(cloud, 'alice', image)['status'] == 'active'


def test_stopped_server_stays_stopped(cloud, ironic, make_machine):
    machine = make_machine(on=False)
    complete(cloud, machine, machine.create_image())
    found = nova_server.wait_for(
        lambda: ironic.say('show', node=machine.node),
        lambda found: found['power_state'] == 'power off')
    machine.nova.say('sync_power', server=machine.server)
    assert machine.show()['vm_state'] == 'stopped'
    assert found['provision_state'] == 'active'


def test_shelve_takes_the_server_off_its_node(cloud, ironic, machine):
    machine.nova.say('shelve', server=machine.server, user=machine.user)
    machine.nova.wait(machine.server, 'shelving_image_pending_upload')
    ironic.wait(machine.node, 'service wait')
    image = ironic.say('received')[-1]['image_id']
    machine.publish(image, 'importing')
    machine.nova.wait(machine.server, 'shelving_image_uploading')
    machine.finish()
    upload(cloud, image)
    ironic.wait(machine.node, 'active')
    machine.publish(image, 'active')
    ironic.wait(machine.node, 'available')
    found = machine.wait_idle()
    assert (found['vm_state'], found['fault']) == ('shelved_offloaded', None)
    assert find_image(cloud, 'alice', image)['status'] == 'active'


# Whose image it is, and how many

def test_image_of_an_administrator_belongs_to_the_project(
        cloud, machine, users):
    image = machine.create_image(user=users['admin'])
    found = find_image(cloud, 'alice', image)
    assert found['owner'] == cloud.project_id('alpha')
    assert found['visibility'] == 'private'
    assert 'instance_owner' not in found
    assert complete(cloud, machine, image)['fault'] is None


def test_backups_rotate(cloud, machine):
    images = []
    for _ in range(3):
        images.append(machine.nova.say(
            'backup', server=machine.server, user=machine.user, rotation=2))
        machine.nova.wait(machine.server, 'image_pending_upload')
        machine.ironic.wait(machine.node, 'service wait')
        found = find_image(cloud, 'alice', images[-1])
        # Nova says "raw" here: what the server was made from.
        assert found['disk_format'] == 'qcow2'
        assert complete(cloud, machine, images[-1])['fault'] is None
    nova_server.wait_for(lambda: find_image(cloud, 'alice', images[0]),
                       lambda found: found is None)
    for image in images[1:]:
        found = find_image(cloud, 'alice', image)
        assert (found['status'], found['image_type'],
                found['backup_type']) == ('active', 'backup', 'daily')


def test_captures_wait_for_a_thread_and_backups_are_refused(
        cloud, ironic, nova, make_machine):
    """Of Nova's pool there are two threads here; of ours, for backups, one."""
    *captured, backed_up, refused = [make_machine() for _ in range(5)]
    images = [nova.say('create_image', server=machine.server,
                       user=machine.user) for machine in captured]
    for machine in captured[:2]:
        nova.wait(machine.server, 'image_pending_upload')
    nova.wait(captured[2].server, 'image_snapshot')
    image = nova.say('backup', server=backed_up.server, user=backed_up.user)
    nova.wait(backed_up.server, 'image_pending_upload')
    nova.say('backup', server=refused.server, user=refused.user)
    found = nova_server.wait_for(
        refused.show, lambda found: found['fault'])
    assert 'max_concurrent_backups' in found['fault']
    assert refused.state() == 'active'
    assert captured[2].state() == 'active'
    for machine, image_id in [*zip(captured, images, strict=True),
                              (backed_up, image)]:
        ironic.wait(machine.node, 'service wait')
        assert complete(cloud, machine, image_id)['fault'] is None
