# SPDX-License-Identifier: Apache-2.0
"""What Glance is told of an image."""

import dataclasses

import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_core import image_properties
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core.units import GiB
from tests.unit.core import test_manifest

BASE = 'ffffffff-0000-4000-8000-000000000006'
INSTANCE = 'abababab-0000-4000-8000-000000000007'
SYSTEM = manifests.SystemRecord('debian', '12', 'x86_64', 'uefi', True)

FULL = test_manifest.make(
    dataclasses.replace(test_manifest.REPORT, system=SYSTEM),
    node=manifests.NodeRecord(test_manifest.B, 'node-1', INSTANCE))
#: Of which nothing is known that need not be.
BARE = test_manifest.make(test_manifest.INCREMENTAL)

#: Of the image of Nova's that a snapshot is put into. The server was once
#: made of another snapshot, which had a parent.
NOVA = {
    'id': BASE, 'name': 'nightly', 'status': 'queued', 'min_disk': 8,
    'min_ram': 512, 'visibility': 'shared', 'disk_format': None,
    'container_format': None, 'image_type': 'backup', 'backup_type': 'daily',
    'instance_uuid': INSTANCE, 'base_image_ref': BASE, 'os_distro': 'ubuntu',
    'hw_disk_bus': 'virtio', 'ironic_snapshot_id': BASE,
    'ironic_snapshot_parent': BASE, 'ironic_snapshot_verified': 'hash'}


def test_a_new_image():
    found = image_properties.new(
        FULL, visibility='shared', base_image=BASE, own={'team': 'metal'})
    assert found == {
        'name': 'golden',
        'visibility': 'shared',
        'disk_format': 'qcow2',
        'container_format': 'bare',
        'min_disk': 10,
        'min_ram': 0,
        'image_type': 'snapshot',
        'instance_uuid': INSTANCE,
        'base_image_ref': BASE,
        'os_distro': 'debian',
        'os_version': '12',
        'architecture': 'x86_64',
        'hw_firmware_type': 'uefi',
        'hw_boot_mode': 'uefi',
        'os_secure_boot': 'required',
        'ironic_snapshot_id': FULL.id,
        'ironic_snapshot_node': test_manifest.B,
        'ironic_snapshot_lineage': f'{test_manifest.B}/{test_manifest.C}',
        'ironic_snapshot_sequence': '0',
        'ironic_snapshot_consistency': 'clean',
        'ironic_snapshot_degraded': 'true',
        'ironic_snapshot_created_at': '2026-01-31T12:10:00Z',
        'ironic_snapshot_software': 'agent 1.0, conductor 2.0',
        'team': 'metal',
    }


def test_what_is_not_known_is_not_said():
    found = image_properties.new(BARE, name='other')
    assert found['name'] == 'other'
    assert found['visibility'] == 'private'
    assert found['ironic_snapshot_parent'] == test_manifest.PARENT
    assert not {'instance_uuid', 'base_image_ref', 'os_distro', 'os_version',
                'architecture', 'hw_firmware_type', 'hw_boot_mode',
                'os_secure_boot'} & set(found)
    assert 'ironic_snapshot_parent' not in image_properties.new(FULL)


@pytest.mark.parametrize('system,expected', [
    (manifests.SystemRecord(firmware='bios', secure_boot=False),
     {'hw_firmware_type': 'bios', 'hw_boot_mode': 'bios',
      'os_secure_boot': 'disabled'}),
    (manifests.SystemRecord(distro='fedora'), {'os_distro': 'fedora'}),
])
def test_what_is_known_of_a_system(system, expected):
    known = image_properties.new(dataclasses.replace(BARE, system=system))
    unknown = image_properties.new(BARE)
    assert known == {**unknown, **expected}


@pytest.mark.parametrize('size,expected', [
    (GiB, 1), (GiB + 512, 2), (512 * 1000, 1)])
def test_a_disk_must_be_as_large_as_the_captured_one(size, expected):
    manifest = test_manifest.make(dataclasses.replace(
        test_manifest.REPORT, regions=(), unreadable=(),
        disk=dataclasses.replace(test_manifest.DISK, size=size),
        totals=dataclasses.replace(
            test_manifest.TOTALS, virtual_bytes=size)))
    assert image_properties.min_disk(manifest) == expected


def test_all_text_fits():
    manifest = test_manifest.make(
        name='n' * 1000, consistency='c' * 1000,
        software={f'program-{number}': '1.2.3' for number in range(100)})
    found = image_properties.new(manifest)
    assert max(len(str(each)) for each in found.values()) == 255
    software = found['ironic_snapshot_software']
    assert 200 < len(software) <= 255
    assert software.startswith('agent 1.0, program-0 1.2.3, program-1 1.2.3,')
    assert software.endswith(' 1.2.3')


def test_an_image_that_somebody_else_has_created_stays_his():
    found = image_properties.filled(FULL, NOVA, own={'team': 'metal'})
    assert found['disk_format'] == 'qcow2'
    assert found['container_format'] == 'bare'
    assert found['ironic_snapshot_id'] == FULL.id
    assert found['os_distro'] == 'debian'
    assert found['team'] == 'metal'
    assert not {'name', 'visibility', 'min_disk', 'min_ram', 'image_type',
                'instance_uuid', 'base_image_ref', 'hw_disk_bus'} & set(found)
    # Those of the snapshot from which the server was made.
    assert [each for each in found if found[each] is None] == [
        'ironic_snapshot_parent', 'ironic_snapshot_verified']


def test_what_is_as_it_should_be_does_not_change():
    image = image_properties.new(FULL)
    assert image_properties.filled(FULL, {'id': BASE, **image}) == {}
    assert image_properties.filled(FULL, {**image, 'min_disk': 0}) == {
        'min_disk': 10}


def test_changes_as_glance_takes_them():
    assert image_properties.patch(
        NOVA, {'disk_format': 'qcow2', 'a/b~c': '1',
               'ironic_snapshot_parent': None}) == [
        {'op': 'replace', 'path': '/disk_format', 'value': 'qcow2'},
        {'op': 'add', 'path': '/a~1b~0c', 'value': '1'},
        {'op': 'remove', 'path': '/ironic_snapshot_parent'}]


def test_an_image_that_was_verified_is_that_of_its_snapshot():
    image = {'id': BASE, **image_properties.new(FULL)}
    assert image_properties.snapshot_of(image) is None
    image.update(image_properties.verified(BASE, 'hash'))
    assert image['ironic_snapshot_verified'] == 'hash'
    assert image_properties.snapshot_of(image) == FULL.id
    # Of a server that was made of it.
    assert image_properties.snapshot_of({**image, 'id': FULL.id}) is None
    assert image_properties.snapshot_of({'id': BASE, 'name': 'x'}) is None


@pytest.mark.parametrize('name,value,reason', [
    ('owner', 'p', 'it is an attribute of images, not a property'),
    ('min_disk', '0', 'attribute'),
    ('ironic_snapshot_id', 'x', 'names that begin with ironic_snapshot_ or'),
    ('os_glance_failed_import', 'x', 'taken'),
    ('', 'x', 'its name'),
    ('a\nb', 'x', 'its name'),
    ('n' * 256, 'x', 'its name'),
    ('team', 'v' * 256, 'its value'),
    ('team', 'a\0b', 'its value'),
])
def test_properties_that_nobody_may_give(name, value, reason):
    for describe in (
            lambda own: image_properties.new(FULL, own=own),
            lambda own: image_properties.filled(FULL, NOVA, own=own)):
        with pytest.raises(errors.InvalidValue, match=reason):
            describe({'fine': 'x', name: value})


def test_own_properties_come_first():
    own = {'os_distro': 'mine', 'hw_firmware_type': 'bios'}
    assert own.items() <= image_properties.new(FULL, own=own).items()
    assert own.items() <= image_properties.filled(FULL, NOVA, own=own).items()
