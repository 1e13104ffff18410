# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

from ironic.common import exception
import pytest

from ironic_snapshot import clone

ID = '0c8f1a52-6f0e-4c0b-9b52-3a1f52c1d7aa'


def node(**fields):
    return SimpleNamespace(instance_info=fields, driver_internal_info={})


@pytest.mark.parametrize('fields, requested', [
    ({}, False),
    (None, False),
    ({'image_source': 'x', 'snapshots': 1}, False),
    ({'snapshot': ID}, True),
    ({'snapshot': None}, True),
    # Whoever writes that wants a snapshot.
    ({'snapshot_nodes': ID}, True)])
def test_requested(fields, requested):
    assert clone.is_requested(SimpleNamespace(
        instance_info=fields, driver_internal_info={})) is requested


def test_image_that_is_a_snapshot():
    found = node(image_source='an image')
    found.driver_internal_info['snapshot_image'] = {
        'image': 'an image', 'snapshot': ID}
    assert clone.parse(found) == clone.CloneRequest(ID, None, 'keep')
    # Another one is asked for now.
    found.instance_info['image_source'] = 'another image'
    assert not clone.is_requested(found)


@pytest.mark.parametrize('fields, found', [
    ({'snapshot': ID}, (ID, None, 'reset')),
    ({'snapshot': ID, 'snapshot_identity': 'keep'}, (ID, None, 'keep')),
    ({'snapshot': 'a name', 'snapshot_node': ID, 'capabilities': {}},
     ('a name', ID, 'reset'))])
def test_parse(fields, found):
    assert clone.parse(node(**fields)) == clone.CloneRequest(*found)


@pytest.mark.parametrize('text, fields', [
    ('an "image_source": unset', {'snapshot': ID, 'image_source': 'x'}),
    ("unknown field 'snapshot_name'", {'snapshot': ID, 'snapshot_name': 1}),
    ('neither the id nor the name', {'snapshot': 7}),
    ('neither the id nor the name', {'snapshot': '../x'}),
    ('neither the id nor the name', {'snapshot_node': ID}),
    ('for a name set "snapshot_node"', {'snapshot': 'golden'}),
    ('"snapshot_node" is not the UUID', {
        'snapshot': 'golden', 'snapshot_node': 'node-0'}),
    ('"snapshot_node" is not the UUID', {
        'snapshot': 'golden', 'snapshot_node': 5}),
    ('"snapshot_identity" is none of', {
        'snapshot': ID, 'snapshot_identity': []})])
def test_refused(text, fields):
    with pytest.raises(exception.InvalidParameterValue) as caught:
        clone.parse(node(**fields))
    assert text in str(caught.value)
    assert '\n' not in str(caught.value)
