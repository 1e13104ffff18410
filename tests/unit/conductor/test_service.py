# SPDX-License-Identifier: Apache-2.0
from ironic.common import exception
from keystoneauth1 import exceptions as keystone_exceptions
import pytest

from ironic_snapshot import attempt
from ironic_snapshot import service
from ironic_snapshot_core import errors

PASSING = [
    errors.StoreUnavailable('put', 'x', 'no answer', 503),
    errors.ObjectMismatch('put', 'x', 'another etag'),
    exception.AgentConnectionFailed(reason='no route'),
    exception.AgentInProgress(node='n', command='c', error='busy'),
    keystone_exceptions.ConnectFailure('no route'),
    keystone_exceptions.ConnectTimeout('too late'),
]
LASTING = [
    errors.AccessDenied('put', 'x', 'no', 403),
    errors.StoreFull('put', 'x', 'no room', 507),
    errors.ContainerMissing('put', 'x', 'gone', 404),
    errors.Corrupted('x', 'another digest'),
    errors.Stalled('nothing was read', 900),
    exception.AgentAPIError(node='n', status=400, error='what?'),
    exception.NodeServicingFailure('lost too often'),
    keystone_exceptions.Unauthorized('who?'),
    KeyError('x'),
]


@pytest.mark.parametrize('error, passing', [
    *((error, True) for error in PASSING),
    *((error, False) for error in LASTING)],
    ids=lambda value: type(value).__name__)
def test_what_the_next_heartbeat_may_find_gone(error, passing):
    assert service.is_passing(error) is passing


def test_command_is_handled_once():
    this = attempt.Attempt(attempt.RUNNING, handled='a')
    assert service.is_handled(this, {'id': 'a'})
    assert not service.is_handled(this, {'id': 'b'})


@pytest.mark.parametrize('command', [
    {}, {'id': None}, {'id': ''}, {'id': 7}, {'id': ['a']},
    {'id': 'x' * 65}])
def test_command_without_a_proper_id_is_never_handled(command):
    this = attempt.Attempt(attempt.RUNNING)
    assert not service.is_handled(this, command)


def test_idle():
    for name, status, idle in (
            ('get_service_steps', 'SUCCEEDED', True),
            ('get_something', 'FAILED', True),
            ('get_something', 'RUNNING', False),
            ('execute_service_step', 'SUCCEEDED', False),
            ('execute_service_step', 'RUNNING', False)):
        assert service.is_idle([{'command_name': name,
                                 'command_status': status}]) is idle
