# SPDX-License-Identifier: Apache-2.0
"""Names of objects."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import errors
from ironic_snapshot_core import layout

NODE = 'aaaaaaaa-0000-4000-8000-000000000001'
GENERATION = 'bbbbbbbb-0000-4000-8000-000000000002'
SNAPSHOT = 'cccccccc-0000-4000-8000-000000000003'
LINEAGE = layout.Lineage(NODE, GENERATION)


def test_names_are_as_documented():
    # Changing one of them loses every snapshot there is.
    prefix = f'v1/{NODE}/{GENERATION}/'
    assert LINEAGE.prefix == prefix
    assert layout.node_prefix(NODE) == f'v1/{NODE}/'
    assert layout.attempt_prefix(LINEAGE, SNAPSHOT) == (
        f'{prefix}attempts/{SNAPSHOT}/')
    assert layout.snapshots_prefix(LINEAGE) == f'{prefix}snapshots/'
    assert layout.manifest_name(LINEAGE, SNAPSHOT) == (
        f'{prefix}snapshots/{SNAPSHOT}/manifest')
    assert layout.image_name(LINEAGE, SNAPSHOT) == (
        f'{prefix}snapshots/{SNAPSHOT}/disk.qcow2')
    assert layout.lease_name(LINEAGE, SNAPSHOT) == (
        f'{prefix}leases/{SNAPSHOT}')
    assert layout.pack_name(1) == 'pack-000001'
    assert (layout.INDEX, layout.MAP, layout.HEAD, layout.REPORT) == (
        'index', 'map', 'head', 'report')


def test_every_name_is_good():
    for name in (layout.manifest_name(LINEAGE, SNAPSHOT),
                 layout.image_name(LINEAGE, SNAPSHOT),
                 layout.lease_name(LINEAGE, SNAPSHOT),
                 layout.attempt_prefix(LINEAGE, SNAPSHOT) + 'pack-000001'):
        assert layout.validate_name(name) == name


def test_the_agents_names_and_the_conductors_are_apart():
    agents = layout.attempt_prefix(LINEAGE, SNAPSHOT)
    assert agents.endswith('/')
    for name in (layout.manifest_name(LINEAGE, SNAPSHOT),
                 layout.image_name(LINEAGE, SNAPSHOT),
                 layout.lease_name(LINEAGE, SNAPSHOT)):
        assert not name.startswith(agents)


@pytest.mark.parametrize('name, folder, rest', [
    (layout.manifest_name(LINEAGE, SNAPSHOT), 'snapshots', 'manifest'),
    (layout.image_name(LINEAGE, SNAPSHOT), 'snapshots', 'disk.qcow2'),
    (layout.image_name(LINEAGE, SNAPSHOT) + '.segments/000001', 'snapshots',
     'disk.qcow2.segments/000001'),
    (layout.lease_name(LINEAGE, SNAPSHOT), 'leases', ''),
    (layout.attempt_prefix(LINEAGE, SNAPSHOT) + 'a/b', 'attempts', 'a/b')])
def test_a_name_tells_whose_object_it_is(name, folder, rest):
    assert layout.parse(name) == layout.Place(
        LINEAGE, folder, SNAPSHOT, rest)


@pytest.mark.parametrize('name', [
    layout.CONDEMNED, 'v1', '', f'v2/{NODE}/{GENERATION}/leases/{SNAPSHOT}',
    f'v1/{NODE}/{GENERATION}/leases/{SNAPSHOT}/x',
    f'v1/{NODE}/{GENERATION}/attempts/{SNAPSHOT}',
    f'v1/{NODE}/{GENERATION}/other/{SNAPSHOT}/x',
    f'v1/x/{GENERATION}/leases/{SNAPSHOT}',
    f'v1/{NODE}/{GENERATION}/leases/x'])
def test_what_is_in_no_lineage(name):
    with pytest.raises(errors.InvalidName):
        layout.parse(name)


def test_a_manifests_name_tells_whose_it_is():
    assert layout.parse_manifest_name(
        layout.manifest_name(LINEAGE, SNAPSHOT)) == (LINEAGE, SNAPSHOT)


@pytest.mark.parametrize('change', [
    ('v1', 'v2'), ('snapshots', 'attempts'), ('manifest', 'manifest2'),
    ('manifest', 'manifest/x'), (NODE, 'x'), (SNAPSHOT, SNAPSHOT.upper()),
    (GENERATION + '/', '')])
def test_what_is_no_manifests_name(change):
    name = layout.manifest_name(LINEAGE, SNAPSHOT).replace(*change)
    with pytest.raises(errors.InvalidName):
        layout.parse_manifest_name(name)


@given(st.integers(1, layout.MAX_PACKS))
def test_a_packs_name_tells_its_number(number):
    assert layout.parse_pack_name(layout.pack_name(number)) == number


@pytest.mark.parametrize('number', [0, -1, layout.MAX_PACKS + 1])
def test_packs_there_can_be_none_of(number):
    with pytest.raises(errors.InvalidValue):
        layout.pack_name(number)


@pytest.mark.parametrize('name', [
    '', 'pack-', 'pack-1', 'pack-0000001', 'pack-000000', 'pack-000001/x',
    'x/pack-000001', 'pack-00000a', 'pack-000001\n', 'pack-٠٠٠٠٠١'])
def test_what_is_no_packs_name(name):
    with pytest.raises(errors.InvalidName):
        layout.parse_pack_name(name)


@pytest.mark.parametrize('value', [
    '', 'x', NODE.upper(), NODE.replace('-', ''), '{' + NODE + '}',
    'urn:uuid:' + NODE, NODE + '\n', NODE + '/..', None, 5])
def test_what_is_no_uuid(value):
    with pytest.raises(errors.InvalidName):
        layout.validate_uuid(value)
    with pytest.raises(errors.InvalidName):
        layout.Lineage(NODE, value)
    with pytest.raises(errors.InvalidName):
        layout.attempt_prefix(LINEAGE, value)


@given(st.text(max_size=30))
def test_a_good_name_stays_below_where_it_is(name):
    if not layout.is_name(name):
        return
    assert name.isascii() and name.isprintable()
    assert all(part and part not in ('.', '..') for part in name.split('/'))


@pytest.mark.parametrize('prefix', [
    '', '/', 'a', 'a//', '../', 'a/../', '/a/', 'a b/'])
def test_what_is_no_prefix(prefix):
    with pytest.raises(errors.InvalidName):
        layout.validate_prefix(prefix)
    assert layout.validate_prefix('a/b/') == 'a/b/'
