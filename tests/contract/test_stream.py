# SPDX-License-Identifier: Apache-2.0
"""Images that are sent straight to Glance: conductor, ramdisk and cloud.

There is no Swift: nobody listens where it should be.
"""
import subprocess
import threading
from unittest import mock

from ironic.common import states
from keystoneauth1 import noauth
from keystoneauth1 import session
from keystoneauth1.identity import v3
import pytest
import requests

from ipa_snapshot_hardware import upload
from ironic_snapshot import attempt
from ironic_snapshot import upload_credential
from ironic_snapshot_core import errors
from ironic_snapshot_core import upload_grant
from tests import disks
from tests.contract import conductor_base
from tests.contract import publication_base
from tests.contract import stream_ramdisk

pytestmark = disks.needs_qemu_img


class StreamTestCase(publication_base.PublicationTestCase):
    """A conductor without a Swift."""

    method = 'stream'

    def setUp(self):
        super().setUp()
        self.config(auth_url='http://127.0.0.1:9/v3', group='snapshot')
        self.config(slice_interval=20, group='snapshot')
        self.ramdisk = stream_ramdisk.StreamRamdisk(self.disk)
        self.addCleanup(self.ramdisk.stop)
        self.agent.run = self.ramdisk.step

    def secrets(self):
        return self.agent.secrets | {
            conductor_base.MANIFEST_KEY,
            *(self.cloud.credentials(user)['password']
              for user in ('ironic', 'glance'))}

    def take(self, **args):
        """A whole stream: the agent is ready, then sends."""
        self.request({'destination': 'glance', **args})
        self.heartbeat()
        self.heartbeat()
        self.heartbeat()

    def credentials(self):
        """Application credentials of Ironic's user."""
        session = self.cloud.session('ironic')
        found = session.get(
            f'{self.cloud.keystone.auth_url}/users/{session.get_user_id()}'
            '/application_credentials').json()
        return found['application_credentials']

    def assert_image_reads_as_the_disk(self, image):
        """Sound, and byte for byte the disk."""
        path = self.tmp / 'image.qcow2'
        data = self.bytes_of(image)
        path.write_bytes(data)
        self.assertEqual(image.size, len(data))
        subprocess.run(['qemu-img', 'check', '-q', path], check=True)
        subprocess.run(['qemu-img', 'compare', '-q', '-f', 'raw', '-F',
                        'qcow2', self.disk, path], check=True)

    def assert_failed(self, text):
        """One clear error, no image, no credential; the tenant has it."""
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertIn(text, self.node.last_error or '')
        self.assertNotIn('\n', self.node.last_error)
        self.assertEqual(attempt.FAILED, self.record.status)
        self.assert_runs_own_system()
        self.assertEqual([], self.credentials())
        self.assert_no_secret()


class SuccessTest(StreamTestCase):

    def test_an_image(self):
        before = self.disk.read_bytes()
        self.take(name='golden', visibility='shared')
        self.assertEqual(states.ACTIVE, self.node.provision_state,
                         self.node.last_error)
        self.assert_runs_own_system()
        self.assertEqual(attempt.COMMITTED, self.record.status)
        self.assertEqual(before, self.disk.read_bytes())
        image = self.image(self.record.result['image_id'])
        self.assertEqual(
            ('active', 'golden', 'shared', self.node.owner, 'qcow2', 1, False),
            (image.status, image.name, image.visibility, image.owner_id,
             image.disk_format, image.min_disk, image.is_hidden))
        self.assertEqual('hash', image.properties['ironic_snapshot_verified'])
        self.assertEqual('x86_64', image.architecture)
        self.assertEqual('uefi', image.properties['hw_firmware_type'])
        self.assertNotIn('ironic_snapshot_id', image.properties)
        self.assert_image_reads_as_the_disk(image)
        self.assertLess(image.size, len(before) / 2)
        self.assertIsNone(self.bob.find_image(image.id))
        self.assertEqual([], self.credentials())
        self.assertEqual('active', self.publication.status)
        self.assert_no_secret()

    def test_without_compression_the_disk_is_read_once(self):
        self.take(compression='none', cluster_size=65536)
        image = self.image(self.record.result['image_id'])
        self.assert_image_reads_as_the_disk(image)
        # As much as was in use, and zeroes that were.
        self.assertGreater(image.size, len(self.disk.read_bytes()))

    def test_an_image_that_was_created_before(self):
        given = self.given(ironic_snapshot_id='of the base image')
        self.take(image_id=given)
        self.assertEqual(states.ACTIVE, self.node.provision_state,
                         self.node.last_error)
        image = self.image(given)
        self.assertEqual(('active', 'given'), (image.status, image.name))
        self.assertNotIn('ironic_snapshot_id', image.properties)
        self.assert_image_reads_as_the_disk(image)

    def test_an_agent_that_restarts_begins_anew(self):
        self.request({'destination': 'glance'})
        self.heartbeat()
        self.ramdisk.stop()
        self.agent.restart()
        self.ramdisk = stream_ramdisk.StreamRamdisk(self.disk)
        self.agent.run = self.ramdisk.step
        self.heartbeat()   # it is another one, and begins
        self.heartbeat()   # and gets a credential
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state,
                         self.node.last_error)
        self.assert_image_reads_as_the_disk(
            self.image(self.record.result['image_id']))

    def test_the_credential_comes_when_it_is_needed(self):
        self.request({'destination': 'glance'})
        self.heartbeat()
        self.assertEqual('', self.agent.received[-1]['args']['upload'][
            'secret'])
        self.assertEqual([], self.credentials())
        self.agent.run = lambda args: None   # still at it
        self.heartbeat()
        upload = self.agent.received[-1]['args']['upload']
        image = upload['url'].split('/')[-2]
        self.assertEqual(1, len(self.credentials()))
        endpoint = self.cloud.glance.url
        for method, url, expected in (
                ('PUT', upload['url'], 415),
                ('GET', upload['url'], 401),
                ('DELETE', f'{endpoint}/v2/images/{image}', 401),
                ('GET', f'{endpoint}/v2/images', 401),
                ('POST', f'{endpoint}/v2/images', 401),
                ('PUT', f'{endpoint}/v2/images/{self.node.uuid}/file', 401),
                ('GET', f'{self.cloud.keystone.auth_url}/users', 401)):
            answer = requests.request(
                method, url, timeout=10, data=b'', headers={
                    'X-Auth-Token': upload['secret'],
                    'Content-Type': 'text/plain'})
            self.assertEqual(expected, answer.status_code, (method, url))
        self.abort()
        self.heartbeat()
        self.assertEqual([], self.credentials())
        self.assert_no_image()
        self.assert_no_secret()


    def test_an_upload_of_two_hours(self):
        """The credential is needed when it begins, and not again."""
        self.config(stall_timeout=0, group='snapshot')
        go_on = threading.Event()
        self.addCleanup(go_on.set)
        self.ramdisk.make_sink = Meddling
        Meddling.work = staticmethod(go_on.wait)
        self.agent.run = lambda args: self.ramdisk.step(
            {**args, 'slice_seconds': 1})
        self.request({'destination': 'glance'})
        self.heartbeat()
        self.heartbeat()
        for _ in range(2):
            self.clock.advance(3600)
            self.heartbeat()
        self.assertEqual('send', self.record.progress.phase)
        self.assertEqual(1, len([
            each for each in self.agent.received
            if each['args']['upload']['secret']]))
        # What expires is gone for Keystone just like this.
        self.delete_credentials()
        go_on.set()
        self.heartbeat()
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state,
                         self.node.last_error)
        self.assert_image_reads_as_the_disk(
            self.image(self.record.result['image_id']))

    def delete_credentials(self):
        session = self.cloud.session('ironic')
        for each in self.credentials():
            session.delete(
                f'{self.cloud.keystone.auth_url}/users/'
                f'{session.get_user_id()}/application_credentials/'
                f'{each["id"]}')


class FailureTest(StreamTestCase):

    def test_what_goes_wrong_while_it_is_sent(self):
        """The image has no end, so it is none."""
        self.ramdisk.make_sink = Meddling
        Meddling.work = staticmethod(self.write_to_the_disk)
        self.take()
        self.assert_failed('it was written to')
        self.assert_no_image()

    def write_to_the_disk(self):
        data = bytearray(self.disk.read_bytes())
        data[:4096] = b'\xff' * 4096
        self.disk.write_bytes(data)

    def test_a_given_image_stays_queued(self):
        given = self.given()
        self.ramdisk.make_sink = Meddling
        Meddling.work = staticmethod(self.write_to_the_disk)
        self.take(image_id=given)
        self.assert_failed('it was written to')
        self.assertEqual('queued', self.image(given).status)

    def test_an_image_that_is_deleted_meanwhile(self):
        self.ramdisk.make_sink = Meddling
        Meddling.work = staticmethod(lambda: self.glance.delete_image(
            self.record.publication['image_id']))
        self.take()
        self.assert_failed('image')

    def test_another_hash_than_was_sent(self):
        def lie(args):
            result = self.ramdisk.step(args)
            if 'image' in result:
                result['image']['hash'] = 'a' * 128
            return result
        self.agent.run = lie
        self.take()
        self.assert_failed('[image-mismatch]')
        self.assert_no_image()

    def test_nonsense_of_the_agent(self):
        self.agent.run = lambda args: {
            'protocol': 1, 'snapshot': args['snapshot'], 'more': False,
            'image': {'id': 'x'}}
        self.take()
        self.assert_failed('[corrupted]')
        self.assert_no_image()

    def test_another_hashing_algorithm(self):
        self.config(glance_hash='sha256', group='snapshot')
        self.take()
        self.assert_failed('glance_hash')
        self.assert_no_image()


class Meddling(upload.Upload):
    """Something happens when the first piece is about to be sent."""

    work = None

    def send(self, pieces, size):
        def meddle():
            first = next(pieces)
            self.work()
            yield first
            yield from pieces
        super().send(meddle(), size)


class RefusedTest(StreamTestCase):
    """What cannot end well is said before the node is touched."""

    def assert_refused(self, text, **args):
        self.request({'destination': 'glance', **args})
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertIn(text, self.node.last_error)
        self.assert_abort_does_not_boot()
        self.assertEqual([], self.credentials())

    def test_a_parent(self):
        self.assert_refused('"parent"', parent=self.node.uuid)

    def test_a_level_that_is_chosen_on_the_way(self):
        self.assert_refused('auto', compression='auto')

    def test_plain_http(self):
        self.config(require_https=True, group='snapshot')
        self.assert_refused('[snapshot]ramdisk_glance_endpoint')

    def test_an_image_of_another_project(self):
        image = self.bob.create_image(
            name='hers', allow_duplicates=True, container=None)
        self.assert_refused('[image-unsuitable]', image_id=image.id)

    def test_glance_down(self):
        with self.glance_down():
            self.assert_refused('[glance-unavailable]')

    def test_no_access_rules_and_no_token(self):
        with self.without_access_rules():
            self.assert_refused('[snapshot]stream_token')

    def test_a_glance_that_does_not_keep_to_them(self):
        with mock.patch.object(upload_credential.Issuer, '_glance',
                               lambda *args: 200):
            self.assert_refused('does not keep to the access rules')

    def test_a_token_where_that_is_allowed(self):
        self.config(stream_token=True, group='snapshot')
        with self.without_access_rules():
            self.take()
        self.assertEqual(states.ACTIVE, self.node.provision_state,
                         self.node.last_error)
        self.assert_image_reads_as_the_disk(
            self.image(self.record.result['image_id']))
        self.assert_no_secret()

    def without_access_rules(self):
        """An old Keystone: it makes the credential and knows no rules."""
        call = upload_credential.Issuer._call

        def forget(issuer, method, name='', **options):
            if method == 'POST':
                del options['json']['application_credential']['access_rules']
            return call(issuer, method, name, **options)
        return mock.patch.object(upload_credential.Issuer, '_call', forget)


def test_paths_of_a_glance_behind_a_prefix(cloud):
    """Whether it sees the prefix depends on what is in front of it."""
    mine = cloud.session('ironic')
    image = '33333333-3333-4333-8333-333333333333'
    issuer = upload_credential.Issuer(
        mine, mine.auth, 'https://cloud.example/image', False)
    issuer.issue(image, 600)
    url = (f'{cloud.keystone.auth_url}/users/{mine.get_user_id()}'
           '/application_credentials')
    made, = mine.get(url).json()['application_credentials']
    assert sorted((each['service'], each['method'], each['path'])
                  for each in made['access_rules']) == [
        ('image', 'PUT', f'/image/v2/images/{image}/file'),
        ('image', 'PUT', f'/v2/images/{image}/file')]
    assert not made['unrestricted']
    issuer.revoke(image)
    assert mine.get(url).json()['application_credentials'] == []


@pytest.mark.parametrize('allowed', [False, True])
def test_a_glance_without_keystone(allowed):
    """There are no rules, so it is like an old one."""
    auth = noauth.NoAuth(endpoint='http://127.0.0.1:9')
    issuer = upload_credential.Issuer(
        session.Session(auth), auth, 'http://127.0.0.1:9', allowed)
    image = '33333333-3333-4333-8333-333333333333'
    issuer.revoke(image)
    if allowed:
        issuer.check()
        assert issuer.issue(image, 600)
        return
    for work in (issuer.check, lambda: issuer.issue(image, 600)):
        with pytest.raises(errors.ImageRefused, match='stream_token'):
            work()


def test_a_keystone_that_is_away():
    auth = v3.Password('http://127.0.0.1:9/v3', username='x', password='y')
    issuer = upload_credential.Issuer(
        session.Session(auth), auth, 'http://127.0.0.1:9', False)
    with pytest.raises(errors.GlanceUnavailable) as caught:
        issuer.check()
    assert caught.value.__context__ is None


def test_an_upload_that_nobody_takes():
    """One clear error, and no word of the library's."""
    image = '33333333-3333-4333-8333-333333333333'
    auth = upload_grant.UploadAuth(upload_grant.UploadGrant(
        f'http://127.0.0.1:9/v2/images/{image}/file', 'canary'))
    with upload.Upload(auth) as sink:
        with pytest.raises(errors.GlanceUnavailable) as caught:
            sink.send(iter([b'x']), 1)
    assert caught.value.__context__ is None
    assert 'canary' not in str(caught.value) + repr(auth.grant)
    assert image in str(caught.value)
