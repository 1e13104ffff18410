# SPDX-License-Identifier: Apache-2.0
"""A real conductor that makes real images in a real Glance.

As :mod:`tests.contract.snapshot_base`, with Swift and Glance under a real
Keystone. The node belongs to the project alpha, of alice.
"""
import contextlib
import hashlib
from unittest import mock

from ironic.common import driver_factory
from ironic.common import states
import pytest

from ironic_snapshot import background
from ironic_snapshot import publication
from ironic_snapshot import publication_record
from ironic_snapshot.targets import glance as glance_target
from ironic_snapshot_core import layout
from ironic_snapshot_core import prune
from ironic_snapshot_core.clock import SystemClock
from tests.contract import conductor_base
from tests.contract import snapshot_base
from tests.servers.glance import CONTAINER

# So often is looked, and a moment waited in between, until something is
# worse than slow.
_LOOKS = 400
_PAUSE_S = 0.05


class PublicationTestCase(snapshot_base.SnapshotTestCase):
    """A conductor in a cloud, and how images come to be there."""

    method = 'import'

    @pytest.fixture(autouse=True)
    def _parts(self, cloud, tmp_path, caplog):
        self.cloud = cloud
        self.tmp = tmp_path
        self.caplog = caplog

    def setUp(self):
        super().setUp()
        glance_target.forget_connection()
        self.addCleanup(glance_target.forget_connection)
        # An instance is none of a Nova here.
        self.config(send_power_notifications=False, group='nova')
        # Nothing that another test has left in the background.
        patcher = mock.patch.object(publication, 'WORKS', background.Works())
        patcher.start()
        self.addCleanup(patcher.stop)
        self.hold_clock()
        self.node.owner = self.cloud.project_id('alpha')
        self.node.save()
        # As SwiftTarget makes it of the project.
        self.prefix = self.container
        self.container = f'{self.container}-{self.node.owner}'
        self.config(glance_method=self.method, group='snapshot',
                    glance_location=self.location())
        if self.method == 'link':
            self.make_container()
        self.alice = self.cloud.connection('alice').image
        self.bob = self.cloud.connection('bob').image
        self.glance = self.cloud.connection('ironic').image

    def set_credentials(self):
        for group in ('snapshot', 'glance'):
            self.set_plugin(group, 'password')
            self.config(group=group, **self.cloud.credentials('ironic'))
        # A default that is forgotten with the values of another test.
        self.config(service_type='image', group='glance')

    def make_container(self):
        """Glance makes it with its first image, which may not be yet."""
        self.cloud.connection('glance').object_store.create_container(
            CONTAINER)

    def location(self):
        """What Glance itself would write, up to and with the container."""
        return self.cloud.glance.location

    # What happens

    def take(self, **args):
        """A whole snapshot, without anybody who looks after its image."""
        self.request({'destination': 'glance', **args})
        self.heartbeat()
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state,
                         self.node.last_error)
        return self.publication

    def look(self):
        """The periodic of the deploy interface, once."""
        interface = driver_factory.get_interface(
            driver_factory.get_hardware_type(self.driver), 'deploy',
            self.deploy_interface)
        interface._publish(self.service, self.context)
        self.node.refresh()
        return self.publication

    def publish(self):
        """Look until it has ended."""
        return self.look_until(lambda found: not found.open)

    def look_until(self, done):
        """Look until something is so."""
        for _ in range(_LOOKS):
            found = self.look()
            if done(found):
                return found
            publication.WORKS.wait(10)
            # Glance is at work, and tells nobody when it is done.
            self.pause(_PAUSE_S)
        self.fail(f'it stays like that: {found}')

    pause = staticmethod(SystemClock().sleep)

    def given(self, user=None, **fields):
        """The id of an image without data, as Nova creates it for alice."""
        answer = (user or self.alice).post('/images', json={
            'name': 'given', 'image_type': 'backup', **fields})
        assert answer.status_code == 201, answer.text
        return answer.json()['id']

    def delete_snapshot(self, snapshot=None):
        """As the operator does, and prune at once."""
        prune.delete(self.store, self.lineage,
                     snapshot or self.record.snapshot, self.key,
                     self.clock.time())
        return self.prune()

    def prune(self):
        return prune.prune(self.store, self.key, self.clock.time(), 0)

    # What there is

    @property
    def publication(self):
        found = publication_record.load(self.node)
        return found[-1] if found else None

    def image(self, image=None):
        """The image as alice sees it."""
        return self.alice.get_image(image or self.publication.image_id)

    def bytes_of(self, image):
        """What alice downloads."""
        return self.alice.download_image(image).content

    def captured(self, snapshot=None):
        """What the image of a snapshot reads as in Swift."""
        return b''.join(self.store.iter_bytes(layout.image_name(
            self.lineage, snapshot or self.record.snapshot)))

    def assert_good(self, image, snapshot=None):
        """Active, and what was captured, byte for byte."""
        self.assertEqual('active', image.status)
        data = self.bytes_of(image)
        self.assertEqual(self.captured(snapshot), data)
        self.assertEqual(image.size, len(data))
        self.assertEqual(
            image.hash_value, hashlib.new(image.hash_algo, data).hexdigest())

    def assert_publication_failed(self, text):
        """One clear error; no image; the snapshot is whole."""
        found = self.publication
        self.assertEqual('failed', found.status)
        self.assertIn(text, found.reason)
        self.assertNotIn('\n', self.node.last_error)
        self.assertIn(text, self.node.last_error)
        self.assertIn('ironic-snapshot publish', self.node.last_error)
        self.assertFalse(found.open)
        self.assertEqual([], self.leases())
        self.assertEqual([self.record.snapshot], [
            each.id for each in self.snapshots()])
        self.assert_image_is_the_disk(self.record.snapshot)
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assert_no_secret()

    def assert_no_image(self):
        """Nobody has one, not even a hidden one."""
        found = self.glance.find_image(
            self.publication.image_id, ignore_missing=True)
        self.assertIsNone(found)

    def secrets(self):
        return super().secrets() | {
            self.cloud.credentials(user)['password']
            for user in ('ironic', 'glance')}

    @contextlib.contextmanager
    def glance_down(self):
        """Nobody listens where Glance should be."""
        glance_target.forget_connection()
        self.config(endpoint_override='http://127.0.0.1:9', group='glance')
        yield
        self.config(endpoint_override=None, group='glance')
        glance_target.forget_connection()

    def with_glance_behind(self, proxy):
        """The conductor reaches Glance by way of a proxy."""
        glance_target.forget_connection()
        self.config(endpoint_override=proxy.url, group='glance')

    @property
    def key(self):
        return conductor_base.MANIFEST_KEY.encode()
