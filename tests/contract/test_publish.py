# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot publish`` into a real Glance."""

import dataclasses
import hashlib
import json
import pathlib
import signal
import subprocess
import uuid

import pytest
from openstack import exceptions

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import image_properties
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import units
from ironic_snapshot_core.store import directory
from tests import disks
from tests.contract import cli
from tests.servers import keystone
from tests.servers import nova
from tests.servers.faulty_http import FaultyProxy
from tests.servers.glance import GlanceServer

MiB = units.MiB
#: More than the buffers of the connections on the way.
SIZE = 24 * MiB


@pytest.fixture(scope='module')
def example(tmp_path_factory):
    """A directory with two snapshots; the second has parts of packs."""
    folder = tmp_path_factory.mktemp('publish')
    disk, repo = folder / 'disk.raw', folder / 'repo'
    content = bytearray(disks.random_bytes(SIZE) + bytes(MiB))
    for name in ('first', 'golden'):
        disk.write_bytes(content)
        cli.succeed('capture', disk, repo, f'--name={name}')
        content[5 * MiB : 7 * MiB] = disks.random_bytes(2 * MiB, seed=1)
    return repo


@pytest.fixture
def copy(example, tmp_path):
    """The repository once more, to be damaged."""
    subprocess.run(['cp', '-a', example, tmp_path / 'repo'], check=True)
    return tmp_path / 'repo'


@pytest.fixture(scope='module')
def variables(cloud):
    """The environment of a user of the cloud."""

    def make(user='alice', **changes):
        return cli.environment(**{
            f'OS_{name.upper()}': value
            for name, value in cloud.credentials(user).items()
        } | changes)

    return make


@pytest.fixture(scope='module')
def env(variables):
    return variables()


@pytest.fixture(scope='module')
def images(cloud):
    """The images that alice sees."""
    return cloud.connection('alice').image


@pytest.fixture
def untouched(images):
    """In the end there are no more images than in the beginning."""
    before = {each.id for each in images.images()}
    yield
    assert {each.id for each in images.images()} == before


@pytest.fixture
def proxy(cloud):
    with FaultyProxy(cloud.glance.url) as found:
        yield found


@pytest.fixture
def proxied(proxy, variables):
    """The environment of alice, who comes by way of the proxy."""
    return variables(OS_IMAGE_ENDPOINT_OVERRIDE=proxy.url)


@pytest.fixture
def given(images):
    """An image as Nova creates it, before it has any data."""
    answer = images.post('/images', json={
        'name': 'nightly', 'min_disk': 8, 'image_type': 'backup',
        'ironic_snapshot_parent': str(uuid.uuid4())})  # fmt: skip
    assert answer.status_code == 201
    yield answer.json()['id']
    images.delete(f'/images/{answer.json()["id"]}')


def download(images, id):
    data = images.download_image(id, stream=False).content
    return hashlib.sha512(data).hexdigest(), data


def exported(repo, name):
    done = subprocess.run(
        [*cli.COMMAND, 'export', repo, name, '-'],
        capture_output=True, check=True)  # fmt: skip
    return done.stdout


def fail(code, *args, **options):
    """Publish, in vain; give the error, and what else there is to say."""
    done = cli.run('publish', *args, **options)
    assert done.returncode == 1, done.stderr
    assert done.stdout == ''
    *notes, line = done.stderr.splitlines()
    # The database of this Glance can be locked for a moment.
    notes = [each for each in notes if 'Trying again' not in each]
    assert line.startswith(f'ironic-snapshot: error: [{code}] '), done.stderr
    return line, notes


def test_an_image_is_the_snapshot(example, env, images, cloud, tmp_path):
    found = cli.read(
        'publish', example, 'golden', '--property=team=metal', env=env
    )
    image = images.get_image(found['image'])
    assert image.status == 'active'
    assert (image.name, image.visibility) == ('golden', 'private')
    assert image.owner_id == cloud.project_id('alpha') == found['project']
    assert (image.disk_format, image.container_format) == ('qcow2', 'bare')
    assert image.min_disk == 1
    flat = images.get(f'/images/{image.id}').json()
    assert flat['team'] == 'metal'
    assert flat['ironic_snapshot_consistency'] == 'offline'
    assert flat['ironic_snapshot_verified'] == found['verified'] == 'hash'
    assert image_properties.snapshot_of(flat) == found['snapshot']
    shown = cli.read('show', example, 'golden')
    assert flat['ironic_snapshot_parent'] == shown['parent']
    # Of older packs it has parts.
    assert shown['shared_packs'] > 0
    value, data = download(images, image.id)
    assert data == exported(example, 'golden')
    assert value == image.hash_value == found['os_hash_value']
    assert len(data) == image.size == found['size']
    (tmp_path / 'image').write_bytes(data)
    cli.qemu_img('check', '-f', 'qcow2', tmp_path / 'image')
    # It is nobody else's.
    with pytest.raises(exceptions.NotFoundException):
        cloud.connection('bob').image.get_image(image.id)
    images.delete_image(image.id)
    # The snapshot has not suffered.
    assert cli.succeed('verify', example, 'golden', '--data')


def test_from_swift(env, images, tmp_path):
    disk = tmp_path / 'disk.raw'
    disk.write_bytes(disks.random_bytes(3 * MiB))
    repo = f'swift:snapshots-{uuid.uuid4()}'
    cli.succeed('capture', disk, repo, '--name=golden', env=env)
    text = cli.succeed(
        'publish', repo, 'golden', '--name=mine', '--visibility=shared',
        env=env)  # fmt: skip
    first, *rest = text.splitlines()
    assert first.startswith('Published "golden" (')
    id = first.split()[-1]
    image = images.get_image(id)
    assert (image.name, image.visibility) == ('mine', 'shared')
    assert download(images, id)[0] == image.hash_value
    assert [line.split(':')[0].strip() for line in rest] == [
        'Name', 'Visibility', 'Project', 'Size', 'Virtual size',
        'Verified by', 'Time']  # fmt: skip
    images.delete_image(id)
    cli.succeed('delete', repo, 'golden', '--yes', env=env)


def test_an_image_that_was_created_before(example, env, images, given):
    found = cli.read(
        'publish', example, 'first', f'--image-id={given}', env=env
    )
    assert (found['image'], found['name']) == (given, 'nightly')
    flat = images.get(f'/images/{given}').json()
    assert flat['status'] == 'active'
    assert (flat['min_disk'], flat['image_type']) == (8, 'backup')
    assert flat['disk_format'] == 'qcow2'
    # It was that of the snapshot of which the server was made.
    assert 'ironic_snapshot_parent' not in flat
    assert image_properties.snapshot_of(flat) == found['snapshot']
    assert download(images, given)[1] == exported(example, 'first')
    # It cannot be filled once more, nor is it harmed.
    line, notes = fail(
        'image-unsuitable', example, 'golden', f'--image-id={given}', env=env
    )
    assert 'it is active' in line and not notes
    assert images.get(f'/images/{given}').json() == flat


def test_what_the_manifest_tells(copy, env, images, tmp_path):
    """As one that a conductor has written of a node."""
    store = directory.DirectoryStore(copy)
    shown = cli.read('show', copy, 'golden')
    manifest = catalogue.find(store, shown['snapshot'], None)
    store.put(layout.manifest_name(
        manifest.lineage, manifest.id), dataclasses.replace(
        manifest, project='elsewhere',
        unreadable=(manifests.Unreadable(0, 512),),
        node=manifests.NodeRecord(manifest.id, 'n', manifest.parent),
        system=manifests.SystemRecord('debian', '12', 'x86_64', 'uefi', True),
    ).to_bytes(b'secret'))  # fmt: skip
    (tmp_path / 'key').write_text('secret')
    done = cli.run(
        'publish', copy, 'golden', '--json', '--manifest-key',
        tmp_path / 'key', env=env)  # fmt: skip
    assert done.returncode == 0, done.stderr
    degraded, project = done.stderr.splitlines()
    assert 'the snapshot is degraded' in degraded
    assert 'the snapshot belongs to project elsewhere, the image' in project
    flat = images.get(f'/images/{json.loads(done.stdout)["image"]}').json()
    images.delete(f'/images/{flat["id"]}')
    assert flat['instance_uuid'] == manifest.parent
    assert flat['ironic_snapshot_degraded'] == 'true'
    assert (flat['os_distro'], flat['os_version']) == ('debian', '12')
    assert flat['hw_firmware_type'] == 'uefi'


def test_an_image_that_is_not_there(example, env):
    line, notes = fail(
        'image-missing', example, 'golden', f'--image-id={uuid.uuid4()}',
        env=env)  # fmt: skip
    assert '404' in line and not notes


@pytest.mark.parametrize('user', ['bob', 'rita'])
def test_who_may_not(example, variables, images, given, user, untouched):
    """One of another project, and one who may only look."""
    line, _ = fail(
        'image-missing' if user == 'bob' else 'image-refused',
        example, 'golden', f'--image-id={given}', env=variables(user),
    )  # fmt: skip
    assert given in line
    if user == 'rita':
        line, notes = fail(
            'image-refused', example, 'golden', env=variables(user)
        )
        assert '403' in line and not notes
    assert images.get(f'/images/{given}').json()['status'] == 'queued'


class TestCredentials:
    def test_none(self, example, tmp_path):
        line, _ = fail(
            'credentials-missing', example, 'golden',
            env=cli.environment(HOME=str(tmp_path)),
        )  # fmt: skip
        assert 'Glance' in line and 'OS_CLOUD' in line
        assert 'ST_AUTH' not in line

    def test_a_wrong_password(self, example, variables):
        line, _ = fail(
            'credentials-missing', example, 'golden',
            env=variables(OS_PASSWORD='canary'),
        )  # fmt: skip
        assert 'canary' not in line

    def test_secrets_are_not_shown(self, example, env, images):
        done = cli.run(
            'publish', example, 'first', '--json', '--debug', env=env
        )
        assert done.returncode == 0, done.stderr
        images.delete(f'/images/{json.loads(done.stdout)["image"]}')
        assert 'X-Auth-Token' in done.stderr
        assert env['OS_PASSWORD'] not in done.stderr
        # As all of this Keystone's tokens begin.
        assert 'gAAAA' not in done.stderr

    def test_no_glance(self, example, variables):
        line, _ = fail(
            'credentials-missing', example, 'golden',
            env=variables(OS_REGION_NAME='nowhere'),
        )  # fmt: skip
        assert 'Glance' in line


def test_without_the_packages_for_glance(example, env):
    done = cli.run_python(
        'import sys\n'
        'sys.modules["openstack"] = None\n'
        'from ironic_snapshot_cli import main\n'
        f'sys.exit(main.main(["publish", "{example}", "golden"]))\n',
        env=env,
    )
    assert done.returncode == 1
    assert 'install "ironic-snapshot[cli]"' in done.stderr


def own(repo, pattern):
    """The last object of this kind that the second snapshot has stored."""
    found = cli.read('show', repo, 'golden')
    (folder,) = repo.glob(f'v1/*/*/attempts/{found["snapshot"]}')
    return sorted(folder.glob(pattern))[-1]


def damage(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


class TestWhatIsWrongInTheRepository:
    @pytest.mark.parametrize(
        'code,harm,pattern',
        [
            ('object-mismatch', damage, 'pack-*'),
            ('object-missing', pathlib.Path.unlink, 'pack-*'),
            ('object-mismatch', damage, 'head'),
        ],
        ids=['another byte', 'no pack', 'another head'],
    )
    def test_no_image_is_made(
        self, copy, env, code, harm, pattern, untouched
    ):
        path = own(copy, pattern)
        harm(path)
        line, notes = fail(code, copy, 'golden', env=env)
        assert str(path.relative_to(copy)) in line
        assert not notes

    def test_an_image_that_was_given_is_queued_again(
        self, copy, env, images, given
    ):
        damage(own(copy, 'pack-*'))
        line, notes = fail(
            'object-mismatch', copy, 'golden', f'--image-id={given}', env=env
        )
        assert notes == [
            f'ironic-snapshot: image {given} is queued, and can be filled '
            'again'
        ]
        assert images.get(f'/images/{given}').json()['status'] == 'queued'


class TestGlanceOnTheWay:
    """What can go wrong between us and Glance, and in Glance."""

    FILE = '/v2/images/.*/file'

    def test_the_connection_breaks(
        self, example, proxy, proxied, untouched
    ):
        proxy.rule(method='PUT', match=self.FILE, cut='within')
        line, notes = fail('glance-unavailable', example, 'golden',
                           env=proxied)  # fmt: skip
        assert 'Cannot upload image' in line and not notes
        # Once: there is but one pass.
        assert sum(each.method == 'PUT' for each in proxy.log) == 1

    def test_an_image_that_was_given_can_be_filled_again(
        self, example, proxy, proxied, images, given
    ):
        proxy.rule(method='PUT', match=self.FILE, cut='within')
        _, notes = fail('glance-unavailable', example, 'golden',
                        f'--image-id={given}', env=proxied)  # fmt: skip
        assert [f'image {given} is queued' in each for each in notes] == [True]
        assert images.get(f'/images/{given}').json()['status'] == 'queued'
        cli.succeed(
            'publish', example, 'golden', f'--image-id={given}', env=proxied
        )
        assert images.get(f'/images/{given}').json()['status'] == 'active'

    def test_a_token_expires_meanwhile(
        self, example, proxy, proxied, images
    ):
        # Glance has looked at it in the beginning only.
        proxy.rule(method='GET', match='/v2/images/[0-9a-f-]+$', status=401)
        found = cli.read('publish', example, 'golden', env=proxied)
        images.delete(f'/images/{found["image"]}')
        assert proxy.log[-3].status == 401

    def test_a_token_that_does_not_do_for_the_upload(
        self, example, proxy, proxied, untouched
    ):
        proxy.rule(method='PUT', match=self.FILE, status=401)
        fail('image-refused', example, 'golden', env=proxied)
        # What was sent once is gone.
        assert sum(each.method == 'PUT' for each in proxy.log) == 1

    def test_somebody_else_answers(self, example, proxy, proxied, untouched):
        proxy.rule(
            method='GET', match='/v2/images/[0-9a-f-]+$', times=None,
            body='<html>log in</html>',
        )  # fmt: skip
        line, _ = fail('glance-unavailable', example, 'golden', env=proxied)
        assert 'is not one of Glance' in line

    def test_glance_is_gone_for_good(self, example, proxy, proxied, images):
        proxy.rule(method='PUT', match=self.FILE, cut='within')
        proxy.rule(method='DELETE', cut='before', times=None)
        _, notes = fail('glance-unavailable', example, 'golden',
                        env=proxied)  # fmt: skip
        # It cannot be helped, but is said, and how to help oneself.
        (note,) = [each for each in notes if 'openstack image' in each]
        id = note.split()[-1]
        assert images.get(f'/images/{id}').json()['status'] != 'active'
        images.delete(f'/images/{id}')

    def test_the_image_is_created_without_an_answer(
        self, example, proxy, proxied, untouched
    ):
        proxy.rule(method='POST', match='/v2/images$', cut='after')
        fail('glance-unavailable', example, 'golden', env=proxied)

    def test_the_image_is_deleted_meanwhile(
        self, example, proxy, proxied, images, untouched
    ):
        rule = proxy.rule(method='PUT', match=self.FILE, delay_s=2)
        before = {each.id for each in images.images()}
        process = start('publish', example, 'golden', env=proxied)
        nova.wait_for(lambda: rule.seen, bool)
        (id,) = {each.id for each in images.images()} - before
        images.delete(f'/images/{id}')
        _, error = process.communicate(timeout=60)
        assert process.returncode == 1
        assert '[image-missing]' in error and id in error
        assert len(error.splitlines()) == 1

    @pytest.fixture
    def another_hash(self, example, proxy):
        """Glance tells one, but for the first time that it is asked."""

        def make(nth):
            return proxy.rule(
                method='GET', match='/v2/images/[0-9a-f-]+$', times=None,
                nth=nth, body=json.dumps({
                    'status': 'active', 'size': self.size(example),
                    'os_hash_algo': 'sha512', 'os_hash_value': 'ab' * 64}),
            )  # fmt: skip

        return make

    def test_glance_has_something_else(
        self, example, another_hash, proxied, untouched
    ):
        another_hash(1)
        line, notes = fail('image-mismatch', example, 'golden', env=proxied)
        assert 'os_hash_value' in line and 'abab' in line
        assert not notes

    @pytest.mark.parametrize('refused', [False, True])
    def test_nobody_is_to_use_what_was_given_by_mistake(
        self, example, another_hash, proxy, proxied, images, given, refused
    ):
        another_hash(2)
        if refused:
            proxy.rule(method='POST', match='/deactivate$', status=403)
        _, notes = fail(
            'image-mismatch', example, 'golden', f'--image-id={given}',
            env=proxied)  # fmt: skip
        (note,) = notes
        assert given in note
        assert ('delete it' if refused else 'is deactivated') in note
        assert images.get(f'/images/{given}').json()['status'] == (
            'active' if refused else 'deactivated'
        )

    def test_somebody_else_fills_what_was_given(
        self, example, proxy, proxied, given
    ):
        proxy.rule(method='PUT', match=self.FILE, status=409)
        line, notes = fail('image-error', example, 'golden',
                           f'--image-id={given}', env=proxied)  # fmt: skip
        assert '409' in line and not notes
        # So it is not for us to do anything about it.
        assert proxy.log[-1].method == 'PUT'

    def test_a_glance_that_tells_no_hash(
        self, example, proxy, proxied, images
    ):
        proxy.rule(
            method='GET', match='/v2/images/[0-9a-f-]+$',
            body=json.dumps({
                'id': 'x', 'name': 'n', 'visibility': 'private',
                'status': 'active', 'size': self.size(example),
                'os_hash_algo': 'sha3-512', 'os_hash_value': 'ab' * 64}),
        )  # fmt: skip
        done = cli.run('publish', example, 'golden', '--json', env=proxied)
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)['verified'] == 'size'
        assert 'only the size of the image was compared' in done.stderr
        (made,) = [
            each.path.split('/')[3]
            for each in proxy.log if each.method == 'PUT'
        ]  # fmt: skip
        flat = images.get(f'/images/{made}').json()
        assert flat['ironic_snapshot_verified'] == 'size'
        images.delete(f'/images/{made}')

    @staticmethod
    def size(repo):
        return cli.read('show', repo, 'golden')['image']['size']


def start(*args, **options):
    return subprocess.Popen(
        [*cli.COMMAND, *map(str, args)], stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options,
    )  # fmt: skip


class TestInterrupted:
    @pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
    def test_in_the_middle(
        self, example, proxy, proxied, untouched, number
    ):
        # Until then, nothing more is taken than fits the buffers.
        rule = proxy.rule(
            method='PUT', match=TestGlanceOnTheWay.FILE, delay_s=20
        )
        process = start('publish', example, 'golden', env=proxied)
        nova.wait_for(lambda: rule.seen, bool)
        process.send_signal(number)
        out, error = process.communicate(timeout=15)
        assert process.returncode == 130
        assert (out, error) == ('', 'ironic-snapshot: interrupted\n')
        # It has asked Glance to delete the image.
        assert [each.method for each in proxy.log][-1] == 'DELETE'
        assert not list(example.glob('v1/*/*/leases/*'))


class TestThereIsNoRoom:
    @pytest.fixture(scope='class')
    def small(self, cloud, tmp_path_factory):
        """A Glance with quotas, which takes small images only."""
        admin = cloud.keystone.system_admin
        identity = cloud.keystone.connection(admin).identity
        (service,) = [
            each.id for each in identity.services() if each.type == 'image'
        ]
        for name, limit in (
            ('image_size_total', 10), ('image_stage_total', 10),
            ('image_count_total', 100), ('image_count_uploading', 100),
        ):  # fmt: skip
            identity.create_registered_limit(
                service_id=service, region_id=keystone.REGION,
                resource_name=name, default_limit=limit)  # fmt: skip
        identity.create_limit(
            service_id=service, region_id=keystone.REGION,
            resource_name='image_size_total', resource_limit=1000,
            project_id=cloud.project_id('alpha'),
        )  # fmt: skip
        (endpoint,) = identity.endpoints(
            service_id=service, interface='public')
        with GlanceServer(
            tmp_path_factory.mktemp('small'), cloud.keystone,
            credentials=cloud.credentials('glance'),
            options={
                'DEFAULT': {'use_keystone_limits': True,
                            'image_size_cap': 10 * MiB},
                'oslo_limit': {'auth_type': 'password', **admin,
                               'auth_url': cloud.keystone.auth_url,
                               'endpoint_id': endpoint.id},
            },
        ) as found:  # fmt: skip
            yield found

    def test_a_quota_is_known_beforehand(self, example, small, variables):
        env = variables('bob', OS_IMAGE_ENDPOINT_OVERRIDE=small.url)
        line, notes = fail('image-too-large', example, 'golden', env=env)
        assert 'image_size_total is 10, of which 0 is used' in line
        assert not notes

    def test_a_limit_is_not(self, example, small, variables):
        env = variables(OS_IMAGE_ENDPOINT_OVERRIDE=small.url)
        line, notes = fail('image-too-large', example, 'golden', env=env)
        assert '(HTTP 413); delete images, or ask' in line
        assert not notes
        assert not list((small.directory / 'images').iterdir())


def test_memory_does_not_depend_on_the_size(env, images, tmp_path):
    """Measured by the process itself, which runs nothing else."""
    peaks = {}
    for size in (2 * MiB, 48 * MiB):
        (tmp_path / 'disk.raw').write_bytes(disks.random_bytes(size))
        cli.succeed(
            'capture', tmp_path / 'disk.raw', tmp_path / 'repo',
            f'--name={size}', '--parent=none')  # fmt: skip
        done = cli.run_python(
            'from ironic_snapshot_cli import main\n'
            'from tests.contract import capture_process\n'
            f'main.main(["publish", "{tmp_path}/repo", "{size}", "--json"])\n'
            'print(capture_process.resident()[1])\n', env=env)  # fmt: skip
        result, peak = done.stdout.splitlines()
        images.delete(f'/images/{json.loads(result)["image"]}')
        peaks[size] = int(peak)
    # Pieces that are read ahead, and those in the hands of the threads.
    assert peaks[48 * MiB] - peaks[2 * MiB] < 12 * MiB
