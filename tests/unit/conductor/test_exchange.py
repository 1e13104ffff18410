# SPDX-License-Identifier: Apache-2.0
from ironic.common import exception
from keystoneauth1 import exceptions as keystone_exceptions
import pytest

from ironic_snapshot import attempt
from ironic_snapshot import exchange
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
    assert exchange.is_passing(error) is passing


def test_command_is_handled_once():
    this = attempt.Attempt(attempt.RUNNING, handled='a')
    assert exchange.is_handled(this, {'id': 'a'})
    assert not exchange.is_handled(this, {'id': 'b'})


@pytest.mark.parametrize('command', [
    {}, {'id': None}, {'id': ''}, {'id': 7}, {'id': ['a']},
    {'id': 'x' * 65}])
def test_command_without_a_proper_id_is_never_handled(command):
    this = attempt.Attempt(attempt.RUNNING)
    assert not exchange.is_handled(this, command)


def test_idle():
    for name, status, idle in (
            ('get_service_steps', 'SUCCEEDED', True),
            ('get_something', 'FAILED', True),
            ('get_something', 'RUNNING', False),
            ('execute_service_step', 'SUCCEEDED', False),
            ('execute_service_step', 'RUNNING', False)):
        commands = [{'command_name': name, 'command_status': status}]
        assert exchange.is_idle(commands, 'service') is idle


STEP = {'interface': 'deploy', 'step': 'restore'}


@pytest.mark.parametrize('changes, ended', [
    ({}, True),
    ({'command_status': 'RUNNING'}, False),
    ({'command_name': 'get_service_steps'}, False),
    ({'command_result': None}, False),
    ({'command_result': {'service_step': {
        'interface': 'deploy', 'step': 'snapshot'}}}, False),
    # A failure is the step's, whatever it says.
    ({'command_status': 'FAILED', 'command_result': None}, True)])
def test_ended_command(changes, ended):
    command = {'command_name': 'execute_service_step',
               'command_status': 'SUCCEEDED',
               'command_result': {'service_step': STEP}, **changes}
    assert exchange.ended_command(
        [{}, command], STEP, 'service') == (command if ended else None)


def test_result():
    result = {'protocol': 1, 'snapshot': 's', 'operation': 'o', 'more': True}
    assert exchange.check_result(result, snapshot='s', operation='o')
    assert not exchange.check_result({**result, 'more': False}, snapshot='s')
    for wrong in (None, [], {**result, 'more': 1}, {**result, 'protocol': 2},
                  {**result, 'operation': 's'}):
        with pytest.raises((errors.Corrupted, errors.UnsupportedVersion)):
            exchange.check_result(wrong, snapshot='s', operation='o')


@pytest.mark.parametrize('value, found', [
    (0, 0), (1.5, 1.5), (-1, None), (10 ** 10, None), (True, None),
    ('1', None), (None, None), (float('nan'), None)])
def test_seconds(value, found):
    assert exchange.check_seconds(value) == found
