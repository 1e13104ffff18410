# SPDX-License-Identifier: Apache-2.0
"""What Nova's driver reads is what the conductor side writes."""
import types

from ironic.common import states
import pytest

from ironic_snapshot import attempt
from ironic_snapshot import publication_record
from ironic_snapshot import record
from ironic_snapshot.nova import node_state

IMAGE = '33333333-3333-4333-8333-333333333333'
OURS = [{'interface': 'deploy', 'step': 'snapshot',
         'args': {'image_id': IMAGE}}]
OTHERS = [{'interface': 'deploy', 'step': 'snapshot'}]


def node(state, **fields):
    """A node as openstacksdk shows it."""
    info = {name: fields.pop(name) for name in (
        'snapshot', 'service_prepared_for', 'snapshot_publications',
        'service_steps') if name in fields}
    return types.SimpleNamespace(**{
        'provision_state': state, 'driver_internal_info': info,
        'reservation': None, 'last_error': None, **fields})


def publication(status, image=IMAGE, reason=''):
    return {publication_record.KEY: [publication_record.Publication(
        snapshot='s', container='c', generation='g', image_id=image,
        project='p', method='import', status=status,
        reason=reason).to_dict()]}


def test_states_are_those_of_ironic():
    assert node_state.ACTIVE == states.ACTIVE
    assert node_state.SERVICE_FAILED == states.SERVICEFAIL
    assert node_state.SERVICED | {node_state.SERVICE_FAILED} == (
        states.SERVICING_STATES)
    assert node_state.ABORTABLE == {states.SERVICEWAIT, states.SERVICEHOLD}


@pytest.mark.parametrize(('status', 'shown'), [
    (record.FAILED, 'the disk vanished'),
    (record.ABORTED, 'the disk vanished'),
    (attempt.COMMITTED, 'servicing ended without an image'),
])
def test_reason_of_an_attempt(status, shown):
    found = types.SimpleNamespace(driver_internal_info={})
    found.set_driver_internal_info = found.driver_internal_info.__setitem__
    attempt.Attempt(status, reason='the disk vanished').note(found)
    assert node_state.read(
        node(states.ACTIVE, **found.driver_internal_info),
        IMAGE) == node_state.NodeState(False, failure=shown)


def test_way_back_is_marked_by_the_conductor():
    found = types.SimpleNamespace(driver_internal_info={}, save=lambda: None)
    found.set_driver_internal_info = found.driver_internal_info.__setitem__
    attempt.set_prepared(found, for_snapshot=True)
    assert node_state.is_serviced(
        node(states.ACTIVE, **found.driver_internal_info))


@pytest.mark.parametrize(('fields', 'serviced'), [
    ({'state': states.SERVICING}, True),
    ({'state': states.SERVICEWAIT}, True),
    ({'state': states.SERVICEHOLD}, True),
    ({'state': states.ACTIVE}, False),
    # Held with half of a snapshot restored.
    ({'state': states.SERVICEFAIL, 'service_prepared_for': 'snapshot'},
     False),
    ({'state': states.SERVICEFAIL, 'reservation': 'conductor'}, True),
    ({'state': states.DEPLOYWAIT, 'service_prepared_for': 'snapshot'},
     False),
])
def test_serviced(fields, serviced):
    assert node_state.is_serviced(node(**fields)) is serviced


@pytest.mark.parametrize(('state', 'fields', 'wanted'), [
    # A moment after the request.
    (states.SERVICING, {}, node_state.NodeState(True)),
    (states.SERVICEWAIT, {'service_steps': OURS},
     node_state.NodeState(True)),
    (states.SERVICEWAIT, {'service_steps': OTHERS}, node_state.NodeState(
        False, failure='servicing ended without an image')),
    (states.SERVICEWAIT, publication(publication_record.WAITING),
     node_state.NodeState(True)),
    # What stands in the way is no failure yet.
    (states.ACTIVE, publication(publication_record.WAITING, reason='busy'),
     node_state.NodeState(False)),
    (states.ACTIVE, publication(publication_record.IMPORTING),
     node_state.NodeState(False, publishing=True)),
    (states.ACTIVE, publication(publication_record.VERIFYING),
     node_state.NodeState(False, publishing=True)),
    (states.SERVICING, publication(publication_record.ACTIVE),
     node_state.NodeState(True, publishing=True, published=True)),
    (states.ACTIVE, publication(publication_record.FAILED, reason='no room'),
     node_state.NodeState(False, failure='no room')),
    (states.ACTIVE, publication(publication_record.ACTIVE, image='another'),
     node_state.NodeState(
         False, failure='servicing ended without an image')),
    # Of this request, while the reason of an attempt may be an older one.
    (states.SERVICEFAIL,
     {'last_error': 'no such image',
      'snapshot': {'status': 'failed', 'reason': 'the disk vanished'}},
     node_state.NodeState(False, failure='no such image')),
])
def test_read(state, fields, wanted):
    assert node_state.read(node(state, **fields), IMAGE) == wanted
