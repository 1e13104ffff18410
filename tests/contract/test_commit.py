# SPDX-License-Identifier: Apache-2.0
"""What a ramdisk may have done to its objects before the commit."""
import dataclasses
import struct
import uuid

import pytest
import requests

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import commit
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import grant
from ironic_snapshot_core import layout
from ironic_snapshot_core import prune
from ironic_snapshot_core.clock import ManualClock
from ironic_snapshot_core.clock import SystemClock
from ironic_snapshot_core.digest import DEFAULT_DIGEST
from ironic_snapshot_core.manifest import CaptureReport
from ironic_snapshot_core.manifest import HeadRecord
from ironic_snapshot_core.manifest import NodeRecord
from ironic_snapshot_core.manifest import ObjectRecord
from ironic_snapshot_core.manifest import Unreadable
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import memory
from ironic_snapshot_core.store.auth import TokenAuth
from ironic_snapshot_core.store.swift import SwiftStore
from ironic_snapshot_core.store.swift_container import ensure_container
from ironic_snapshot_core.units import MiB
from tests import faults
from tests import uncommitted
from tests.contract import node_disk

KEY = b'k' * 32


class Upload:
    """A capture that is uploaded and waits for its commit."""

    def __init__(self, swift, tmp_path):
        self.swift = swift
        token = swift.token()
        auth = TokenAuth(lambda: token, lambda: None)
        self.url = f'{swift.storage_url}/commit-{uuid.uuid4()}'
        key = ensure_container(self.url, auth)
        self.store = SwiftStore(self.url, auth)
        self.headers = {'X-Auth-Token': token}
        self.lineage = layout.Lineage(str(uuid.uuid4()), str(uuid.uuid4()))
        self.disk = tmp_path / 'disk.raw'
        node_disk.fill(self.disk, seed=1)
        self.key = key
        self.again()

    def again(self):
        """Capture it, as another snapshot."""
        self.snapshot = str(uuid.uuid4())
        self.prefix = layout.attempt_prefix(self.lineage, self.snapshot)
        result = node_disk.capture(self.disk, {
            'protocol': 1, 'snapshot': self.snapshot, 'name': 'x',
            'lineage': dataclasses.asdict(self.lineage),
            'cluster_size': 65536, 'codec': 'zstd', 'codec_level': 1,
            'digest': 'blake3-256', 'pack_size': MiB,
            'workers': 0, 'memory_limit': 0,
            'grant': grant.mint(
                self.url, self.key, int(SystemClock().time()) + 600,
                [('PUT', self.prefix), ('GET', self.prefix)]).to_dict()})
        self.report = ObjectRecord(**result['report'])

    def commit(self, key=KEY):
        return commit.commit(self.store, commit.Intent(
            self.lineage, self.snapshot, self.report, facts={
                'sequence': 1, 'name': 'x', 'description': '', 'project': None,
                'node': NodeRecord(self.lineage.node, None, None),
                'consistency': 'clean',
                'started_at': '2026-01-01T00:00:00Z',
                'created_at': '2026-01-01T00:00:01Z'}), key)

    def rewrite_report(self, **changes):
        """What a ramdisk that lies would have reported."""
        name = self.prefix + layout.REPORT
        report = CaptureReport.from_bytes(self.store.get(name, MiB))
        data = dataclasses.replace(report, **changes).to_bytes()
        self.store.put(name, data)
        self.report = record(data)

    def read(self, name):
        return self.store.get(self.prefix + name, 64 * MiB)

    def refused(self, code, text):
        """The commit fails with this, and nothing is listed."""
        with pytest.raises(errors.Error) as caught:
            self.commit()
        assert caught.value.code == code
        assert text in str(caught.value)
        with pytest.raises(errors.ObjectMissing):
            self.store.stat(layout.manifest_name(self.lineage,
                                                 self.snapshot))


def record(data):
    return ObjectRecord(len(data), base.md5(data),
                        DEFAULT_DIGEST.digest(data).hex())


@pytest.fixture
def upload(swift, tmp_path):
    return Upload(swift, tmp_path)


def test_committed_once(upload):
    manifest = upload.commit()
    assert manifest.sequence == 1
    assert upload.commit() == manifest
    assert node_disk.committed(
        upload.store, upload.lineage, KEY) == [manifest]


def test_object_is_missing(upload):
    for name in ('pack-000001', 'pack-000003', 'head', 'index', 'map',
                 'report'):
        upload.again()
        upload.store.delete(upload.prefix + name)
        upload.refused('object-missing', name)


def test_object_is_another(upload):
    for name in ('pack-000002', 'head', 'index', 'map'):
        upload.again()
        data = bytearray(upload.read(name))
        data[-1] ^= 1
        upload.store.put(upload.prefix + name, data)
        upload.refused('corrupted', name)


def test_object_is_shorter(upload):
    upload.store.put(upload.prefix + 'pack-000001', b'x')
    upload.refused('corrupted', '1 bytes instead of')


def test_object_will_expire(upload):
    name = upload.prefix + 'pack-000001'
    requests.post(f'{upload.url}/{name}', timeout=10, headers={
        **upload.headers, 'X-Delete-After': '3600'}).raise_for_status()
    upload.refused('corrupted', 'expiry date')


def test_object_is_a_symlink(upload):
    name = upload.prefix + 'pack-000001'
    copy = f'v1/elsewhere-{uuid.uuid4()}'
    upload.store.put(copy, upload.read('pack-000001'))
    container = upload.url.rsplit('/', 1)[1]
    requests.put(f'{upload.url}/{name}', timeout=10, headers={
        **upload.headers, 'Content-Length': '0',
        'X-Symlink-Target': f'{container}/{copy}'}).raise_for_status()
    upload.refused('corrupted', 'not a plain object')


def test_report_is_another(upload):
    data = upload.read(layout.REPORT)
    upload.store.put(upload.prefix + layout.REPORT, data[:-1])
    upload.refused('corrupted', 'not the report that the capture named')


def test_report_is_no_report(upload):
    for data in (b'{}', b'[]', b'\x00' * 100, b'{"version": 99}'):
        upload.store.put(upload.prefix + layout.REPORT, data)
        upload.report = record(data)
        with pytest.raises((errors.Corrupted, errors.UnsupportedVersion)):
            upload.commit()


def test_report_of_another_snapshot(upload):
    other = str(uuid.uuid4())
    # It builds upon this one, as far as it says.
    upload.rewrite_report(
        snapshot=other, parent=upload.snapshot, full_reason=None)
    upload.refused('corrupted', f'it is about snapshot {other}')


def test_report_names_packs_of_others(upload):
    report = CaptureReport.from_bytes(upload.read(layout.REPORT))
    own, = report.attempts
    other = dataclasses.replace(own, id=str(uuid.uuid4()))
    stranger = dataclasses.replace(report.packs[0], attempt=other.id)
    upload.rewrite_report(packs=report.packs[1:])
    upload.refused('corrupted', 'not one of this capture')
    upload.rewrite_report(packs=(stranger, *report.packs[1:]),
                          attempts=(other, own), parent=other.id,
                          full_reason=None)
    upload.refused('corrupted', 'which was not chosen')


@pytest.mark.parametrize('position, layout_, value', [
    (8, '>Q', 4096),       # backing file
    (72, '>Q', 1 << 2),    # external data file
    (24, '>Q', 1 << 30),   # another size
    (60, '>I', 1),         # internal snapshots
    (32, '>I', 2),         # encryption
    (104, '>B', 7),        # unknown compression
    (112, '>I', 0x44415441),  # header extension: name of a data file
])
def test_head_leads_elsewhere(upload, position, layout_, value):
    head = bytearray(upload.read(layout.HEAD))
    struct.pack_into(layout_, head, position, value)
    upload.store.put(upload.prefix + layout.HEAD, head)
    upload.rewrite_report(head=HeadRecord(
        upload.prefix + layout.HEAD,
        **dataclasses.asdict(record(bytes(head)))))
    with pytest.raises(errors.Corrupted):
        upload.commit()


def test_head_is_anothers(upload):
    # Whoever captures cannot make an image begin with any object it likes.
    head = bytes(upload.read(layout.HEAD))
    elsewhere = upload.prefix.replace('attempts', 'others') + layout.HEAD
    upload.store.put(elsewhere, head)
    upload.rewrite_report(head=HeadRecord(
        elsewhere, **dataclasses.asdict(record(head))))
    with pytest.raises(errors.Corrupted, match='its head is neither'):
        upload.commit()


def test_manifest_was_changed(upload):
    upload.commit()
    name = layout.manifest_name(upload.lineage, upload.snapshot)
    data = upload.store.get(name, MiB)
    upload.store.put(name, data.replace(b'"name":"x"', b'"name":"y"'))
    with pytest.raises(errors.Corrupted, match='changed'):
        upload.commit()


def test_damaged_manifest_does_not_stop_the_next(upload):
    test_manifest_was_changed(upload)
    upload.again()
    assert upload.commit().id == upload.snapshot


def test_manifest_of_another_key(upload):
    upload.commit()
    with pytest.raises(errors.Corrupted, match='another key'):
        upload.commit(b'q' * 32)


def test_manifest_copied_from_another_snapshot(upload):
    manifest = upload.commit()
    data = upload.store.get(
        layout.manifest_name(upload.lineage, upload.snapshot), MiB)
    upload.again()
    upload.store.put(layout.manifest_name(upload.lineage, upload.snapshot),
                     data)
    with pytest.raises(errors.Corrupted, match='another snapshot'):
        upload.commit()
    assert manifest.id != upload.snapshot


def test_checkpoints_go_with_the_commit(upload):
    names = [upload.prefix + layout.checkpoint_name(number)
             for number in (1, 2, 3)]
    for name in names:
        upload.store.put(name, b'x')
    upload.rewrite_report(checkpoints=3)
    upload.commit()
    for name in names:
        with pytest.raises(errors.ObjectMissing):
            upload.store.stat(name)


def test_checkpoints_that_cannot_be_deleted_do_not_matter(
        upload, monkeypatch):
    upload.rewrite_report(checkpoints=3)

    def refuse(name):
        raise errors.StoreUnavailable('delete', name, 'no answer')
    monkeypatch.setattr(upload.store, 'delete', refuse)
    assert upload.commit().id == upload.snapshot


def test_unreadable_sectors_degrade_the_snapshot(upload):
    assert not upload.commit().degraded
    upload.again()
    holes = (Unreadable(512, 1024),)
    upload.rewrite_report(unreadable=holes)
    manifest = upload.commit()
    assert manifest.degraded
    assert manifest.unreadable == holes
    again, = [each for each in node_disk.committed(
        upload.store, upload.lineage, KEY) if each.degraded]
    assert again == manifest


# With a parent. What is uploaded is small, and made by hand.

@pytest.fixture
def world():
    return uncommitted.World(memory.MemoryStore())


@pytest.fixture
def first(world):
    return world.take([1, 2, 3, 4])


def refused(world, intent, error, text):
    before = world.names('/snapshots/')
    with pytest.raises(error, match=text):
        world.commit(intent)
    assert world.names('/snapshots/') - before <= {
        layout.image_name(intent.lineage, intent.snapshot)}


def test_parent_is_told_and_its_packs_are_shared(world, first):
    child = world.take([1, 2, 3, 5], first)
    assert (child.parent, child.full_reason) == (first.id, None)
    assert (first.parent, first.full_reason) == (None, 'it was asked for')
    older = [pack for pack in child.packs if pack.attempt == first.id]
    assert older and {pack.generations for pack in older} == {2}
    assert [each.id for each in child.attempts] == [first.id, child.id]
    world.assert_all_whole()


def test_parent_of_another_lineage(world, first):
    other = layout.Lineage(str(uuid.uuid4()), str(uuid.uuid4()))
    child = world.take([1, 2, 6], first, lineage=other)
    assert [each.lineage for each in child.attempts] == [
        first.lineage, other]
    world.delete(first)
    world.prune()
    world.assert_whole(child)


def test_nothing_is_new(world, first):
    child = world.take([1, 2, 3, 4], first)
    assert [each.id for each in child.attempts] == [first.id]
    assert world.take([0, 0], child).attempts == ()
    world.assert_all_whole()


def test_parent_that_was_passed_over(world, first):
    intent = world.upload([1, 7])
    intent = dataclasses.replace(intent, parent=first, full_reason=None)
    intent = world.report(intent, dataclasses.replace(
        world.reported(intent), full_reason='its map was damaged'))
    world.delete(first)
    found = world.commit(intent)
    assert (found.parent, found.full_reason) == (None, 'its map was damaged')


def lies(report):
    """What a report may say that the parent does not."""
    older = [pack for pack in report.packs
             if pack.attempt != report.snapshot]
    pack, *rest = report.packs
    assert pack in older

    def with_pack(**changes):
        return {'packs': (dataclasses.replace(pack, **changes), *rest)}
    old, own = report.attempts
    elsewhere = layout.Lineage(str(uuid.uuid4()), str(uuid.uuid4()))
    new = rest[-1]

    def with_new(**changes):
        return {'packs': (*report.packs[:-1],
                          dataclasses.replace(new, **changes))}
    return [
        ('is not one of the parent', with_pack(name='pack-000009')),
        ('is not one of the parent', with_pack(size=2 * pack.size)),
        ('is not one of the parent', with_pack(etag='0' * 32)),
        ('is not one of the parent', with_pack(clusters=pack.clusters + 1)),
        ('is not one of the parent', with_pack(generations=1)),
        ('is not one of the parent', with_pack(generations=3)),
        ('its attempts', {'attempts': (
            dataclasses.replace(old, lineage=elsewhere), own)}),
        ('its attempts', {'attempts': (
            dataclasses.replace(old, index=own.index), own)}),
        ('its attempts', {'attempts': (
            old, dataclasses.replace(own, lineage=elsewhere))}),
        ('pack 1 is not one of this', with_new(start=new.size, length=0)),
        ('pack 1 is not one of this', with_new(length=0)),
        ('pack 1 is not one of this', with_new(generations=2)),
        ('pack 1 is not one of this', with_new(name='pack-000002')),
        ('which was not chosen', {'parent': str(uuid.uuid4())}),
        ('not like those of the parent', {'codec': 'zlib'}),
    ]


def test_report_lies_about_its_parent(world, first):
    intent = world.upload([1, 2, 3, 5], first)
    report = world.reported(intent)
    for text, changes in lies(report):
        refused(world, world.report(
            intent, dataclasses.replace(report, **changes)),
            errors.Corrupted, text)
    world.report(intent, report)
    world.assert_whole(world.commit(intent))


def test_report_names_a_pack_of_a_snapshot_that_is_not_the_parent(
        world, first):
    second = world.take([8, 9])
    intent = world.upload([8, 9], second)
    refused(world, dataclasses.replace(intent, parent=first),
            errors.Corrupted, 'which was not chosen')
    refused(world, dataclasses.replace(intent, parent=None),
            errors.Corrupted, 'which was not chosen')


@pytest.mark.parametrize('name', [layout.INDEX, 'pack-000001'])
def test_object_of_the_parent_is_missing_or_another(world, first, name):
    intent = world.upload([1, 2, 3, 5], first)
    name = layout.attempt_prefix(first.lineage, first.id) + name
    data = world.store.get(name, 64 * MiB)
    world.store.put(name, data[::-1])
    refused(world, intent, errors.Corrupted, 'not what was uploaded')
    world.store.delete(name)
    refused(world, intent, errors.ObjectMissing, name)
    world.delete(first)
    refused(world, intent, errors.ParentGone, 'has been deleted')


def test_spares_are_looked_at(world, first):
    made = world.history.capture(
        uncommitted.disk([1, 2, 3, 4]), first,
        again=[(first.id, 'pack-000001')])
    spare, = [pack for pack in made.packs if pack.spare]
    intent = world.intent_of(made, first)
    name = layout.attempt_prefix(first.lineage, first.id) + spare.name
    data = world.store.get(name, 64 * MiB)
    world.store.delete(name)
    refused(world, intent, errors.ObjectMissing, name)
    world.store.put(name, data)
    found = world.commit(intent)
    assert name in set(catalogue.objects(found))
    assert found.image.size == found.head.size + sum(
        pack.length for pack in found.packs)


def test_parent_is_condemned(world, first):
    intent = world.upload([1, 2, 3, 5], first)
    name = layout.attempt_prefix(first.lineage, first.id) + 'pack-000001'
    world.store.put(layout.CONDEMNED, document.encode(
        prune.Condemned({name: 1})))
    refused(world, intent, errors.ParentGone, 'is condemned')


def test_attempt_is_condemned(world):
    intent = world.upload([1])
    # Its lease has expired.
    world.lease(intent, expires_in=-1)
    world.prune(uncommitted.HOUR)
    refused(world, intent, errors.AttemptCondemned, 'compare the clocks')


def test_commit_that_stood_still_looks_again(world):
    intent = world.upload([1, 2])
    name = layout.attempt_prefix(
        intent.lineage, intent.snapshot) + 'pack-000001'
    clock = ManualClock()
    slow = faults.Faults()

    def wait():
        clock.advance(commit.STALE_S + 1)
        world.store.delete(name)
    # The image is there, and a day has passed.
    slow.on('stat', 'disk.qcow2').call(wait)
    with pytest.raises(errors.ObjectMissing, match=name):
        world.commit(
            intent, faults.FaultyStore(world.store, slow), clock=clock)
    assert world.listed() == []
    slow.assert_all_fired()
