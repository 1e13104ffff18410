# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

from ironic.common import exception
import pytest

from ironic_snapshot import arguments

REFUSED = [
    ('not an object', [], 'must be a JSON object'),
    ('unknown', {'nmae': 'x'}, '\'nmae\''),
    ('two unknown', {'url': 'http://x', 'path': '/etc'}, '\'path\', \'url\''),
    ('name: number', {'name': 5}, 'must be of type string'),
    ('name: null', {'name': None}, 'must be of type string'),
    ('name: list', {'name': ['a']}, 'must be of type string'),
    ('name: empty', {'name': ''}, '127 letters'),
    ('name: too long', {'name': 'a' * 128}, '127 letters'),
    ('name: path', {'name': '../../etc/passwd'}, '127 letters'),
    ('name: slash', {'name': 'a/b'}, '127 letters'),
    ('name: newline', {'name': 'golden\n'}, '127 letters'),
    ('name: control', {'name': 'gol\x00den'}, '127 letters'),
    ('name: not ASCII', {'name': 'gölden'}, '127 letters'),
    ('description: too long', {'description': 'x' * 1001}, '1000 characters'),
    ('description: control', {'description': 'a\x1b[0m'}, 'on one line'),
    ('cluster: string', {'cluster_size': '65536'}, 'must be of type integer'),
    ('cluster: boolean', {'cluster_size': True}, 'must be of type integer'),
    ('cluster: odd', {'cluster_size': 1000}, 'must be one of'),
    ('cluster: negative', {'cluster_size': -65536}, 'must be one of'),
    ('cluster: NaN', {'cluster_size': float('nan')}, 'must be of type'),
    ('cluster: huge', {'cluster_size': 10 ** 400}, 'must be one of'),
    ('compression: unknown', {'compression': 'lz4'}, 'must be one of'),
    ('compression: case', {'compression': 'ZSTD'}, 'must be one of'),
    ('level: zero', {'compression_level': 0}, 'zstd 1 to 19'),
    ('level: float', {'compression_level': 1.5}, 'must be of type integer'),
    ('level: zlib', {'compression': 'zlib', 'compression_level': 10},
     'ends at 9'),
    ('level: none', {'compression': 'none', 'compression_level': 1},
     'has no level'),
    ('shutdown: unknown', {'shutdown': 'maybe'}, 'must be one of'),
    ('shutdown: boolean', {'shutdown': False}, 'must be of type string'),
    ('grant', {'grant': {'secret': 'x'}}, 'unknown argument'),
]


@pytest.mark.parametrize('args, text', [case[1:] for case in REFUSED],
                         ids=[case[0] for case in REFUSED])
def test_refuses(args, text):
    with pytest.raises(exception.InvalidParameterValue) as caught:
        arguments.parse(args)
    message = str(caught.value)
    assert text in message
    assert 'deploy.snapshot' in message
    assert '\n' not in message and '\x00' not in message
    assert len(message) < 600


def test_names_every_fault():
    with pytest.raises(exception.InvalidParameterValue) as caught:
        arguments.parse({'name': 1, 'shutdown': 2, 'bogus': 3})
    for name in ('"name"', '"shutdown"', "'bogus'"):
        assert name in str(caught.value)


def test_defaults():
    for nothing in (None, {}):
        asked = arguments.parse(nothing)
        assert asked == arguments.SnapshotArguments(
            name=None, description='', cluster_size=256 * 1024,
            compression='zstd', compression_level=1, shutdown='soft')


def test_level_follows_the_compression():
    assert arguments.parse({'compression': 'none'}).compression_level is None
    assert arguments.parse(
        {'compression_level': 19}).compression_level == 19


def test_requested_finds_our_steps_only():
    steps = [{'interface': 'deploy', 'step': 'snapshot',
              'args': {'name': 'one'}},
             {'interface': 'deploy', 'step': 'other', 'args': {'name': 7}},
             {'interface': 'raid', 'step': 'snapshot'},
             {'step': 'reboot'}]
    node = SimpleNamespace(driver_internal_info={'service_steps': steps})
    assert [asked.name for asked in arguments.requested(node)] == ['one']


def test_every_argument_is_described():
    for name, info in arguments.ARGSINFO.items():
        assert info['description'].endswith('.'), name
        assert info['required'] is False
