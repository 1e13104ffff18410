# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

from ironic.common import exception
import pytest

from ironic_snapshot import restore_arguments as arguments
from ironic_snapshot.conf import CONF

LEAST = {'snapshot': 'golden', 'confirm': 'node-0'}
REFUSED = [
    ('not an object', [], 'must be a JSON object'),
    ('nothing', {}, "'snapshot', 'confirm' is missing"),
    ('not confirmed', {'snapshot': 'x'}, "'confirm' is missing"),
    ('unknown', {**LEAST, 'url': 'http://x'}, "unknown argument 'url'"),
    ('snapshot: path', {**LEAST, 'snapshot': '../x'}, 'its id, or its name'),
    ('snapshot: number', {**LEAST, 'snapshot': 5}, 'must be of type string'),
    ('snapshot: empty', {**LEAST, 'snapshot': ''}, 'its id, or its name'),
    ('snapshot: newline', {**LEAST, 'snapshot': 'a\n'}, 'its id, or'),
    ('confirm: true', {**LEAST, 'confirm': True}, 'must be of type string'),
    ('confirm: huge', {**LEAST, 'confirm': 'x' * 256}, 'once more'),
    ('identity', {**LEAST, 'identity': 'new'}, "must be one of ['keep'"),
    ('serial: empty', {**LEAST, 'target_serial': ''}, 'Serial number'),
    ('serial: control', {**LEAST, 'target_serial': 'a\x00'}, 'Serial number'),
    ('serial: long', {**LEAST, 'target_serial': 'a' * 256}, 'Serial number'),
    ('before: number', {**LEAST, 'before_restore': 1},
     'must be of type boolean or string'),
    ('before: path', {**LEAST, 'before_restore': 'a/b'}, 'true, or a name'),
    ('bandwidth', {**LEAST, 'bandwidth_limit': 0}, '1 to 1000000'),
    ('priority', {**LEAST, 'io_priority': 'x'}, 'must be one of'),
    ('shutdown', {**LEAST, 'shutdown': 'x'}, 'must be one of'),
]


@pytest.mark.parametrize('args, text', [each[1:] for each in REFUSED],
                         ids=[each[0] for each in REFUSED])
def test_refused(args, text):
    with pytest.raises(exception.InvalidParameterValue) as caught:
        arguments.parse(args)
    message = str(caught.value)
    assert text in message
    assert message.startswith('Service step deploy.restore: ')
    assert message.isprintable()
    assert len(message) < 500


def test_defaults():
    assert arguments.parse(LEAST) == arguments.RestoreArguments(
        snapshot='golden', confirm='node-0', identity=None,
        target_serial=None, before=None, bandwidth_limit=0,
        io_priority='normal', shutdown='soft')


@pytest.mark.parametrize('asked, before', [
    (False, None), (True, {'destination': 'swift'}),
    ('safe', {'destination': 'swift', 'name': 'safe'})])
def test_before(asked, before):
    assert arguments.parse(
        {**LEAST, 'before_restore': asked}).before == before


def test_before_is_limited_likewise():
    found = arguments.parse({**LEAST, 'before_restore': True,
                             'bandwidth_limit': 7, 'io_priority': 'idle'})
    assert found.before == {'destination': 'swift', 'bandwidth_limit': 7,
                            'io_priority': 'idle'}


def test_the_operator_s_limit():
    CONF.set_override('bandwidth_limit', 10, group='snapshot')
    try:
        assert arguments.parse(LEAST).bandwidth_limit == 10
        with pytest.raises(exception.InvalidParameterValue):
            arguments.parse({**LEAST, 'bandwidth_limit': 11})
    finally:
        CONF.clear_override('bandwidth_limit', group='snapshot')


def test_requested():
    step = {'interface': 'deploy', 'step': 'restore', 'args': LEAST}
    node = SimpleNamespace(driver_internal_info={'service_steps': [
        {'interface': 'deploy', 'step': 'snapshot'}, step,
        {'interface': 'raid', 'step': 'restore'}]})
    assert arguments.requested(node) == [arguments.parse(LEAST)]
    node.driver_internal_info['service_steps'] = None
    assert arguments.requested(node) == []


def test_every_argument_is_described():
    for name, info in arguments.SCHEMA.argsinfo.items():
        assert info['description'].endswith(('.', ').'))
        assert info['required'] is (name in LEAST)
