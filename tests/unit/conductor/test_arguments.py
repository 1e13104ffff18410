# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

from ironic.common import exception
import pytest

from ironic_snapshot import arguments
from ironic_snapshot.conf import CONF

PARENT = '0c8f1a52-6f0e-4c0b-9b52-3a1f52c1d7aa'

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
    ('level: auto', {'compression': 'auto', 'compression_level': 3},
     'auto chooses its own'),
    ('all_blocks: string', {'all_blocks': 'yes'}, 'must be of type boolean'),
    ('all_blocks: number', {'all_blocks': 1}, 'must be of type boolean'),
    ('skip_gaps: null', {'skip_gaps': None}, 'must be of type boolean'),
    ('bad sectors: string', {'allow_bad_sectors': 'true'},
     'must be of type boolean'),
    ('contradiction', {'all_blocks': True, 'skip_gaps': True},
     'ask for one of them'),
    ('bandwidth: zero', {'bandwidth_limit': 0}, '1 to 1000000'),
    ('bandwidth: huge', {'bandwidth_limit': 10 ** 6 + 1}, '1 to 1000000'),
    ('bandwidth: boolean', {'bandwidth_limit': True},
     'must be of type integer'),
    ('bandwidth: text', {'bandwidth_limit': '10M'},
     'must be of type integer'),
    ('priority: unknown', {'io_priority': 'realtime'}, 'must be one of'),
    ('parent: word', {'parent': 'latest'}, 'a UUID in lower case'),
    ('parent: empty', {'parent': ''}, 'a UUID in lower case'),
    ('parent: case', {'parent': PARENT.upper()}, 'a UUID in lower case'),
    ('parent: braces', {'parent': f'{{{PARENT}}}'}, 'a UUID in lower case'),
    ('parent: no dashes', {'parent': PARENT.replace('-', '')},
     'a UUID in lower case'),
    ('parent: short', {'parent': PARENT[:8]}, 'a UUID in lower case'),
    ('parent: newline', {'parent': f'{PARENT}\n'}, 'a UUID in lower case'),
    ('parent: more', {'parent': f'{PARENT}/../x'}, 'a UUID in lower case'),
    ('parent: AUTO', {'parent': 'AUTO'}, 'a UUID in lower case'),
    ('parent: null', {'parent': None}, 'must be of type string'),
    ('parent: boolean', {'parent': False}, 'must be of type string'),
    ('parent: list', {'parent': [PARENT]}, 'must be of type string'),
    ('redundancy', {'redundancy': 3}, 'unknown argument'),
    ('destination: unknown', {'destination': 's3'}, 'must be one of'),
    ('destination: URL', {'destination': 'https://x/'}, 'must be one of'),
    ('image: name', {'destination': 'glance', 'image_id': 'golden'},
     'a UUID in lower case'),
    ('image: newline', {'destination': 'glance', 'image_id': f'{PARENT}\n'},
     'a UUID in lower case'),
    ('image: in Swift', {'image_id': PARENT}, 'the destination is "swift"'),
    ('visibility: public', {'destination': 'glance', 'visibility': 'public'},
     'must be one of'),
    ('visibility: in Swift', {'visibility': 'shared'},
     'the destination is "swift"'),
    ('visibility of another\'s', {
        'destination': 'glance', 'image_id': PARENT, 'visibility': 'shared'},
     'leave one of them out'),
    ('project', {'destination': 'glance', 'project': PARENT},
     'unknown argument'),
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
            compression='zstd', compression_level=1, adaptive_level=False,
            all_blocks=False, skip_gaps=False, allow_bad_sectors=False,
            bandwidth_limit=0, io_priority='normal', parent='auto',
            shutdown='soft', destination='swift', image_id=None,
            visibility='private')
        assert not asked.publishes


@pytest.fixture
def configure():
    """Set options of [snapshot] for one test."""
    names = []

    def configure(**options):
        for name, value in options.items():
            CONF.set_override(name, value, group='snapshot')
            names.append(name)
    yield configure
    for name in names:
        CONF.clear_override(name, group='snapshot')


def test_defaults_are_the_operator_s(configure):
    configure(compression='auto', bandwidth_limit=100, io_priority='idle')
    asked = arguments.parse({})
    assert (asked.compression, asked.compression_level,
            asked.adaptive_level) == ('zstd', None, True)
    assert (asked.bandwidth_limit, asked.io_priority) == (100, 'idle')
    asked = arguments.parse({'compression': 'zlib', 'compression_level': 9,
                             'io_priority': 'low'})
    assert (asked.compression, asked.compression_level,
            asked.adaptive_level) == ('zlib', 9, False)
    assert asked.io_priority == 'low'


def test_destination_is_the_operator_s(configure):
    configure(destination='glance')
    asked = arguments.parse({'image_id': PARENT})
    assert (asked.publishes, asked.image_id) == (True, PARENT)
    assert not arguments.parse({'destination': 'swift'}).publishes


def test_auto_is_zstd_without_a_level():
    asked = arguments.parse({'compression': 'auto'})
    assert (asked.compression, asked.compression_level,
            asked.adaptive_level) == ('zstd', None, True)


def test_limit_of_the_operator_can_only_be_lowered(configure):
    assert arguments.parse({'bandwidth_limit': 500}).bandwidth_limit == 500
    configure(bandwidth_limit=100)
    assert arguments.parse({'bandwidth_limit': 20}).bandwidth_limit == 20
    with pytest.raises(exception.InvalidParameterValue, match='100 MiB/s'):
        arguments.parse({'bandwidth_limit': 101})


@pytest.mark.parametrize('parent, named', [
    ('auto', False), ('none', False), (PARENT, True)])
def test_parent(parent, named):
    asked = arguments.parse({'parent': parent})
    assert asked.parent == parent
    assert asked.names_parent is named


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
    for name, info in arguments.SCHEMA.argsinfo.items():
        assert info['description'].endswith('.'), name
        assert info['required'] is False
