# SPDX-License-Identifier: Apache-2.0
"""Images in a real Glance, made of real snapshots."""
import hashlib
import json
import threading
from unittest import mock
import urllib.parse
import uuid

from ironic.common import states
import pytest
import requests

from ironic_snapshot import attempt
from ironic_snapshot import background
from ironic_snapshot import clone
from ironic_snapshot import publication
from ironic_snapshot import publication_record
from ironic_snapshot.targets import glance as glance_target
from ironic_snapshot.targets import swift as swift_target
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import published
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import swift_links
from ironic_snapshot_core.units import MiB
from tests.contract import node_disk
from tests.contract import publication_base
from tests.contract import snapshot_base
from tests.servers.faulty_http import FaultyProxy
from tests.servers.glance import CONTAINER
from tests.servers.glance import GlanceServer


class BothMethods:
    """What holds whichever way the image is made."""

    def test_image(self):
        origin = str(uuid.uuid4())
        self.node.instance_info = {'image_source': origin}
        self.node.instance_uuid = str(uuid.uuid4())
        self.node.save()
        self.config(image_properties={'cloud': 'lab'}, group='snapshot')
        self.assertEqual('waiting', self.take(name='golden').status)
        self.assertEqual(1, len(self.leases()))
        found = self.publish()
        self.assertEqual(('active', ''), (found.status, found.reason))
        self.assertEqual(found.image_id, self.record.result['image_id'])
        self.assertEqual(attempt.COMMITTED, self.record.status)
        image = self.image()
        self.assert_good(image)
        self.assertEqual(
            ('golden', self.node.owner, 'private', False, 'qcow2', 'bare', 1),
            (image.name, image.owner, image.visibility, image.is_hidden,
             image.disk_format, image.container_format, image.min_disk))
        properties = image.to_dict()['properties']
        self.assertEqual({
            'ironic_snapshot_id': self.record.snapshot,
            'ironic_snapshot_node': self.node.uuid,
            'ironic_snapshot_consistency': 'clean',
            'ironic_snapshot_verified': 'hash',
            'base_image_ref': origin, 'image_type': 'snapshot',
            'cloud': 'lab'},
            {name: properties.get(name) for name in (
                'ironic_snapshot_id', 'ironic_snapshot_node',
                'ironic_snapshot_consistency', 'ironic_snapshot_verified',
                'base_image_ref', 'image_type', 'cloud')})
        self.assertEqual(self.node.instance_uuid, image.instance_uuid)
        # Another project has nothing of it.
        self.assertIsNone(
            self.bob.find_image(image.id, ignore_missing=True))
        self.assertEqual([], self.leases())
        record = published.get(
            self.store, self.lineage, image.id, self.key)
        self.assertEqual(image.hash_value, record.hash)
        self.assert_no_secret()

    def test_image_that_was_created_before(self):
        image = self.given(min_disk=3)
        self.take(image_id=image)
        found = self.publish()
        self.assertEqual(('active', image), (found.status, found.image_id))
        found = self.image(image)
        self.assert_good(found)
        self.assertEqual(('given', 3), (found.name, found.min_disk))
        self.assertEqual(
            ('backup', self.record.snapshot, 'hash'), (
                found.to_dict()['properties']['image_type'],
                found.to_dict()['properties']['ironic_snapshot_id'],
                found.to_dict()['properties']['ironic_snapshot_verified']))

    def test_snapshot_is_deleted_first(self):
        self.take()
        before = self.captured()
        first = self.publish().image_id
        # It builds upon the first, and has packs of it.
        data = bytearray(self.disk.read_bytes())
        data[:512] = bytes(512)
        self.disk.write_bytes(data)
        self.take()
        second = self.publish().image_id
        later = self.captured()
        self.assertTrue(self.record.result['shared_bytes'])
        for snapshot in self.snapshots():
            self.delete_snapshot(snapshot.id)
        self.assertEqual([], self.snapshots())
        self.assertEqual(before, self.bytes_of(first))
        self.assertEqual(later, self.bytes_of(second))
        # Each image goes alone, too.
        self.glance.delete_image(first)
        self.prune()
        self.assertEqual(later, self.bytes_of(second))
        self.glance.delete_image(second)
        self.prune()
        self.assertEqual([], list(self.store.list(self.lineage.prefix)))

    def stored(self):
        """Bytes that Swift keeps, of snapshots and of images."""
        glance_s = swift_target.SwiftTarget(CONTAINER).store
        return [sum(each.size for each in store.list('')
                    if each.kind == base.PLAIN)
                for store in (self.store, glance_s)]

    def test_what_a_second_image_costs(self):
        self.take()
        self.publish()
        before = self.stored()
        # One cluster changes.
        data = bytearray(self.disk.read_bytes())
        data[5 * MiB:5 * MiB + 9] = b'something'
        self.disk.write_bytes(data)
        self.take()
        self.publish()
        snapshots, images = (
            after - before for after, before in zip(
                self.stored(), before, strict=True))
        self.assertLess(snapshots, 3 * MiB)
        self.assertEqual(
            {'import': self.image().size, 'link': 0}[self.method], images)

    def test_image_is_deleted_first(self):
        self.take()
        image = self.publish().image_id
        first = self.record.snapshot
        before = self.captured()
        node_disk.fill(self.disk, seed=2)
        self.take()
        self.publish()
        self.glance.delete_image(image)
        self.prune()
        self.assertEqual(before, self.captured(first))
        self.assert_image_is_the_disk(self.record.snapshot)
        self.delete_snapshot(first)
        self.assert_image_is_the_disk(self.record.snapshot)
        self.assert_good(self.image())

    def test_snapshot_is_not_deleted_meanwhile(self):
        self.take()
        with pytest.raises(errors.SnapshotInUse):
            self.delete_snapshot()
        self.prune()
        self.publish()
        self.assert_good(self.image())

    def test_conductor_that_dies(self):
        """Before and after each request that changes something."""
        self.take()
        images = glance_target.GlanceTarget
        for name in ('create', self.request_of_method, 'update'):
            work = getattr(images, name)
            for after in (False, True):
                def die(*args, after=after, work=work, **options):
                    if after:
                        work(*args, **options)
                    raise snapshot_base.Died
                # What was done in the background is lost as well.
                with (mock.patch.object(images, name, die),
                      mock.patch.object(publication, 'WORKS',
                                        background.Works())):
                    self.assertRaises(
                        snapshot_base.Died, self.look_until,
                        lambda found: False)
                self.restart_conductor()
        self.assertEqual('active', self.publish().status)
        self.assert_good(self.image())
        self.assertEqual(1, len([
            image for image in self.alice.images()
            if (image.to_dict()['properties'] or {}).get(
                'ironic_snapshot_id') == self.record.snapshot]))

    def test_glance_that_is_away_for_a_while(self):
        self.take()
        with self.glance_down():
            found = self.look()
            self.assertEqual('waiting', found.status)
            self.assertIn('the connection failed', found.reason)
        self.assertEqual(('active', ''), (
            self.publish().status, self.publication.reason))

    def test_glance_that_does_not_come_back(self):
        self.take()
        self.look()
        with self.glance_down():
            self.clock.advance(7 * 3600)
            self.assertEqual('failed', self.look().status)
            self.assertTrue(self.publication.leftover)
        self.assertFalse(self.look().open)
        self.assert_publication_failed('[image-overdue]')
        self.assert_no_image()

    def test_wrong_data(self):
        with mock.patch.object(publication, '_read_hash',
                               return_value='0' * 128):
            self.take()
            self.publish()
        self.assert_publication_failed(self.code_of_wrong_data)
        self.assert_no_image()

    def test_image_that_goes_away(self):
        self.take()
        self.look()
        self.glance.delete_image(self.publication.image_id)
        self.publish()
        self.assert_publication_failed('[image-missing]')

    def test_damaged_snapshot(self):
        self.take()
        pack = next(each for each in self.store.list(self.lineage.prefix)
                    if 'pack-' in each.name)
        data = bytearray(self.store.get(pack.name, pack.size))
        data[100] ^= 1
        self.store.put(pack.name, bytes(data))
        self.publish()
        self.assertIn(pack.name, self.publication.reason)
        self.assertEqual('failed', self.publication.status)
        self.assert_no_image()

    def test_larger_than_glance_takes(self):
        self.config(image_size_cap=1000, group='snapshot')
        self.take()
        self.publish()
        self.assert_publication_failed('[image-too-large]')
        self.assert_no_image()


class ImportTest(BothMethods, publication_base.PublicationTestCase):
    """By web-download: an independent copy."""

    request_of_method = 'import_from'
    code_of_wrong_data = '[image-mismatch]'

    def through(self, url):
        """Have Glance import by way of a proxy."""
        path = urllib.parse.urlsplit(swift_target._endpoint()).path
        self.config(import_endpoint=f'{url}{path}', group='snapshot')

    def test_hidden_until_it_is_verified(self):
        self.take()
        with mock.patch.object(publication.WORKS, 'ask', return_value=None):
            self.look_until(lambda found: found.status == 'verifying')
        image = self.image()
        self.assertEqual(('active', True), (image.status, image.is_hidden))
        self.assertNotIn(image.id, [each.id for each in self.alice.images()])
        self.publish()
        self.assertIn(image.id, [each.id for each in self.alice.images()])

    def test_verified_by_its_size_only(self):
        self.config(verify_image=False, group='snapshot')
        self.take(visibility='shared')
        with mock.patch.object(publication, '_read_hash') as read:
            self.publish()
        self.assertFalse(read.called)
        image = self.image()
        self.assert_good(image)
        self.assertEqual('shared', image.visibility)
        self.assertEqual('size', image.to_dict()['properties'][
            'ironic_snapshot_verified'])

    def test_wrong_data_in_an_image_that_was_created_before(self):
        image = self.given()
        with mock.patch.object(publication, '_read_hash',
                               return_value='0' * 128):
            self.take(image_id=image)
            self.publish()
        self.assert_publication_failed('[image-mismatch]')
        self.assertEqual('deactivated', self.image(image).status)

    def test_truncated_download(self):
        with FaultyProxy(self.cloud.swift.url) as proxy:
            self.through(proxy.url)
            proxy.rule(match='disk.qcow2', truncate=1000, times=None)
            self.take()
            self.publish()
        self.assert_publication_failed('[image-import-failed]')
        self.assert_no_image()

    def test_download_that_is_not_what_was_stored(self):
        with FaultyProxy(self.cloud.swift.url) as proxy:
            self.through(proxy.url)
            # Inside a cluster, where no reader of the format sees it.
            proxy.rule(match='disk.qcow2', method='GET', flip=2_000_000,
                       times=None)
            self.take()
            self.publish()
        self.assert_publication_failed('[image-mismatch]')
        self.assert_no_image()

    def test_glance_does_not_reach_swift(self):
        self.through('http://127.0.0.1:9')
        self.take()
        self.publish()
        self.assert_publication_failed('[image-import-failed]')
        self.assert_no_image()

    def test_glance_does_not_allow_the_host(self):
        self.through('http://localhost:1')
        self.take()
        self.publish()
        self.assert_publication_failed('does not pass filtering')
        self.assert_no_image()

    def test_quota(self):
        with FaultyProxy(self.cloud.glance.url) as proxy:
            self.with_glance_behind(proxy)
            proxy.rule(match='images/.*/import', status=413, times=None,
                       body=json.dumps({'message': 'Over quota.'}))
            self.take()
            self.publish()
            self.assert_publication_failed(
                'Over quota (HTTP 413); delete images')
        self.assert_no_image()

    def test_quota_that_is_known(self):
        with FaultyProxy(self.cloud.glance.url) as proxy:
            self.with_glance_behind(proxy)
            self.take()
            proxy.rule(match='info/usage', status=200, times=None,
                       body=json.dumps({'usage': {'image_size_total': {
                           'limit': 10, 'usage': 10}}}))
            self.publish()
            self.assert_publication_failed('leaves 0 bytes')
        self.assert_no_image()

    def test_answers_that_come_and_go(self):
        with FaultyProxy(self.cloud.glance.url) as proxy:
            self.with_glance_behind(proxy)
            self.take()
            for nth in (2, 4, 6):
                proxy.rule(status=503, nth=nth)
            self.assertEqual('active', self.publish().status)
        self.assert_good(self.image())

    def test_import_of_two_hours(self):
        """The token that it was begun with has gone meanwhile."""
        with FaultyProxy(self.cloud.swift.url) as proxy:
            self.through(proxy.url)
            proxy.rule(match='disk.qcow2', method='GET', delay_s=1.5)
            with FaultyProxy(self.cloud.glance.url) as glance:
                self.with_glance_behind(glance)
                self.take()
                self.assertEqual('importing', self.look().status)
                session, auth, url = glance_target.connection()
                token = session.get_token(auth)
                session.delete(
                    f'{self.cloud.keystone.auth_url}/auth/tokens', auth=auth,
                    headers={'X-Subject-Token': token})
                # As soon as it has forgotten that it knew the token.
                glance.rule(status=401, headers={
                    'WWW-Authenticate': 'Keystone'})
                self.clock.advance(2 * 3600)
                self.assertEqual('importing', self.look().status)
                self.assertNotEqual(token, session.get_token(auth))
                self.assertEqual('active', self.publish().status)
        self.assert_good(self.image())
        self.assert_no_secret()


class LinkTest(BothMethods, publication_base.PublicationTestCase):
    """Over links: nothing is copied."""

    method = 'link'
    request_of_method = 'add_location'
    # Glance itself sees that the hash is another.
    code_of_wrong_data = '[image-import-failed]'

    def test_links_and_nothing_else_are_deleted_with_the_image(self):
        self.take()
        self.prune()
        before = {each.name for each in self.store.list(self.lineage.prefix)
                  if '/leases/' not in each.name}
        image = self.publish().image_id
        self.glance.delete_image(image)
        # What tells of it goes with the next prune.
        self.assertEqual(
            {*before, layout.record_name(self.lineage, image)},
            {each.name for each in self.store.list(self.lineage.prefix)})
        self.prune()
        self.assertEqual(
            before,
            {each.name for each in self.store.list(self.lineage.prefix)})

    def test_location_that_glance_does_not_take(self):
        self.take()
        self.config(glance_location=self.location().replace(
            'swift+http:', 'swift:'), group='snapshot')
        self.publish()
        self.assertEqual('failed', self.publication.status)
        self.assert_no_image()
        self.assertEqual([], list(self.store.list(layout.published_prefix(
            self.lineage, self.publication.image_id))))
        self.assert_no_secret()

    def test_glance_without_an_interface_for_services(self):
        """Locations are added as before 2023.2."""
        with (GlanceServer(
                self.tmp / 'glance', self.cloud.keystone, store='swift',
                credentials=self.cloud.credentials('glance'),
                options={'DEFAULT': {'show_multiple_locations': True}},
                ) as older, FaultyProxy(older.url) as proxy):
            proxy.rule(method='POST', match='/locations$', status=404,
                       times=None)
            self.with_glance_behind(proxy)
            self.take()
            self.assertEqual('active', self.publish().status,
                             self.publication)
            url = f'{older.url}/v2/images/{self.publication.image_id}'
            headers = {'X-Auth-Token': self.cloud.session(
                'alice').get_token()}
            data = requests.get(f'{url}/file', headers=headers, timeout=60)
            self.assertEqual(self.captured(), data.content)
            image = requests.get(url, headers=headers, timeout=60).json()
            self.assertEqual(
                hashlib.sha512(data.content).hexdigest(),
                image['os_hash_value'])
            self.assertEqual(204, requests.delete(
                url, headers=headers, timeout=60).status_code)
        self.prune()
        self.assertEqual([], list(self.store.list(layout.published_prefix(
            self.lineage, self.publication.image_id))))

    def test_given_up_while_it_is_linked(self):
        """What is linked too late goes as well."""
        self.take()
        link, begun, go = (
            published.link, threading.Event(), threading.Event())

        def wait(*args, **options):
            begun.set()
            assert go.wait(60)
            return link(*args, **options)
        with mock.patch.object(published, 'link', wait):
            self.look()
            self.assertTrue(begun.wait(60))
            work, = publication.WORKS._works.values()
            self.clock.advance(7 * 3600)
            self.look()
            self.assert_publication_failed('[image-overdue]')
            go.set()
            self.assertTrue(work.done.wait(60))
        self.assert_no_image()
        self.assertEqual([], list(self.store.list(layout.published_prefix(
            self.lineage, self.publication.image_id))))

    def test_more_links_than_swift_deletes(self):
        self.take()
        with mock.patch.object(published, 'MAX_LINKS', 1):
            self.publish()
        self.assert_publication_failed('use the method "import"')
        self.assert_no_image()


class RefusedTest(publication_base.PublicationTestCase):
    """What cannot become an image is refused before the node is touched."""

    def assert_refused(self, text, **args):
        self.request({'destination': 'glance', **args})
        self.assertEqual(states.SERVICEFAIL, self.node.provision_state)
        self.assertIn(text, self.node.last_error)
        self.assert_abort_does_not_boot()
        self.assertEqual([], publication_record.load(self.node))

    def test_node_of_nobody(self):
        self.node.owner = None
        self.node.save()
        self.assert_refused('neither a lessee nor an owner')

    def test_images(self):
        other = self.given(self.bob)
        with_data = self.given(disk_format='raw', container_format='bare')
        for missing in (other, str(uuid.uuid4())):
            self.assert_refused(
                f'Cannot fill image {missing}: there is none of this id that '
                'belongs to the project of the node.', image_id=missing)
        self.assert_refused('disk_format', image_id=with_data)
        self.assert_refused('destination is "swift"', destination='swift',
                            image_id=other)

    def test_the_same_image_twice(self):
        image = self.given()
        step = {'interface': 'deploy', 'step': 'snapshot',
                'args': {'destination': 'glance', 'image_id': image}}
        self.call('do_node_service', [step, step])
        self.assertIn('image of another snapshot', self.node.last_error)

    def test_glance_is_down(self):
        with self.glance_down():
            self.assert_refused('[glance-unavailable]')

    def test_wrong_credentials(self):
        glance_target.forget_connection()
        self.config(password='wrong', group='glance')
        self.assert_refused('[image-refused]')

    def test_no_import(self):
        with mock.patch.object(glance_target.GlanceTarget, 'methods',
                               return_value=['glance-direct']):
            self.assert_refused('web-download')

    def test_wrong_properties(self):
        self.config(image_properties={'ironic_snapshot_id': 'x'},
                    group='snapshot')
        self.assert_refused('[snapshot]image_properties')

    def test_no_location_to_link_to(self):
        self.config(glance_method='link', glance_location=None,
                    group='snapshot')
        self.assert_refused('[snapshot]glance_location')

    def test_swift_without_links(self):
        self.config(glance_method='link', group='snapshot')
        with mock.patch.object(swift_links, 'offered', return_value=False):
            self.assert_refused('static symlinks')

    def test_by_default(self):
        self.config(destination='glance', group='snapshot')
        self.request({'destination': 'swift'})
        self.heartbeat()
        self.heartbeat()
        self.assertEqual(states.ACTIVE, self.node.provision_state)
        self.assertIsNone(self.publication)
        self.request({})
        self.heartbeat()
        self.heartbeat()
        self.assertEqual('waiting', self.publication.status)


class DeployTest(publication_base.PublicationTestCase):
    """An image that is deployed where its snapshot is known."""

    def setUp(self):
        super().setUp()
        self.take()
        self.publish()
        self.source = self.node
        self.found = self.publication.image_id
        self.snapshot = self.record.snapshot
        self.config(endpoint_override=None, group='glance')

    def prepare(self, image, owner=None):
        """Ironic begins to deploy another node; what it is deployed from."""
        self.node = self.create_node(
            name=None, uuid=str(uuid.uuid4()),
            owner=owner or self.source.owner,
            instance_info={'image_source': image})
        self.prepare_deployment()
        return (clone.parse(self.node).snapshot
                if clone.is_requested(self.node) else None)

    def test_image_is_its_snapshot(self):
        self.assertEqual(self.snapshot, self.prepare(self.found))
        self.assertEqual('keep', clone.parse(self.node).identity)
        self.end_deployment()
        self.assertFalse(clone.is_requested(self.node))
        # Then it is an image as any other.
        beta = self.cloud.project_id('beta')
        self.assertIsNone(self.prepare(self.found, owner=beta))
        self.assertIsNone(self.prepare(str(uuid.uuid4())))
        self.assertIsNone(self.prepare('http://192.0.2.1/image'))
        self.node = self.source
        self.delete_snapshot(self.snapshot)
        self.assertIsNone(self.prepare(self.found))

    def test_image_that_claims_to_be_a_snapshot(self):
        properties = self.image(self.found).to_dict()['properties']
        claimed = self.given(disk_format='raw', container_format='bare', **{
            name: value for name, value in properties.items()
            if name.startswith('ironic_snapshot_')})
        self.assertIsNone(self.prepare(claimed))
