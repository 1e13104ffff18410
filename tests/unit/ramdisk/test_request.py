# SPDX-License-Identifier: Apache-2.0
"""The arguments of the step: what is taken, what is refused."""

import copy

import pytest

from ipa_snapshot_hardware import arguments as step_arguments
from ipa_snapshot_hardware import request
from ironic_snapshot_core import errors
from ironic_snapshot_core import grant
from ironic_snapshot_core import layout

NODE = '11111111-1111-4111-8111-111111111111'
GENERATION = '22222222-2222-4222-8222-222222222222'
SNAPSHOT = '33333333-3333-4333-8333-333333333333'
LINEAGE = layout.Lineage(NODE, GENERATION)
URL = 'https://swift.example/v1/AUTH_p/ironic-snapshots'


def mint(*methods, prefix=None):
    prefix = prefix or layout.attempt_prefix(LINEAGE, SNAPSHOT)
    methods = methods or ('PUT', 'GET')
    return grant.mint(
        URL, 'key', 2_000_000_000, [(each, prefix) for each in methods]
    )


def arguments(**changes):
    args = {
        'protocol': 1,
        'snapshot': SNAPSHOT,
        'name': 'golden',
        'lineage': {'node': NODE, 'generation': GENERATION},
        'cluster_size': 262144,
        'codec': 'zstd',
        'codec_level': 1,
        'digest': 'blake3-256',
        'pack_size': 67108864,
        'workers': 0,
        'memory_limit': 0,
        'grant': mint().to_dict(),
    }
    args.update(changes)
    return {k: v for k, v in args.items() if v is not ...}


def take(args):
    given = step_arguments.take_grant(args)
    return request.parse(args, given)


def test_what_the_conductor_sends():
    found = take(arguments())
    assert found.snapshot == SNAPSHOT
    assert found.lineage == LINEAGE
    assert found.prefix == layout.attempt_prefix(LINEAGE, SNAPSHOT)
    assert found.codec.id == 'zstd'
    assert found.codec.level == 1
    assert found.digest.id == 'blake3-256'
    assert (found.workers, found.memory_limit) == (0, 0)


def test_limits_may_be_left_out():
    found = take(arguments(workers=..., memory_limit=...))
    assert (found.workers, found.memory_limit) == (0, 0)


def test_what_may_be_left_out():
    found = take(arguments())
    assert (found.all_blocks, found.skip_gaps) == (False, False)
    assert (found.allow_bad_sectors, found.adaptive_level) == (False, False)
    assert (found.bandwidth_limit, found.io_priority) == (0, 'normal')
    assert found.slice_seconds == 60


def test_what_may_be_asked_for():
    found = take(
        arguments(
            codec_level=None,
            all_blocks=True,
            skip_gaps=True,
            allow_bad_sectors=True,
            adaptive_level=True,
            bandwidth_limit=1 << 20,
            io_priority='idle',
            slice_seconds=5,
        )
    )
    assert (found.all_blocks, found.skip_gaps) == (True, True)
    assert (found.allow_bad_sectors, found.adaptive_level) == (True, True)
    assert (found.bandwidth_limit, found.io_priority) == (1 << 20, 'idle')
    assert found.slice_seconds == 5


def test_a_codec_without_levels():
    found = take(arguments(codec='none', codec_level=None))
    assert found.codec.id == 'none'


@pytest.mark.parametrize(
    ('changes', 'code'),
    [
        ({'protocol': 2}, 'unsupported-version'),
        ({'protocol': True}, 'unsupported-version'),
        ({'protocol': '1'}, 'unsupported-version'),
        ({'protocol': ...}, 'unsupported-version'),
        ({'url': 'http://evil.example'}, 'invalid-value'),
        ({'snapshot': ...}, 'invalid-value'),
        ({'snapshot': 5}, 'invalid-value'),
        ({'snapshot': '../x'}, 'invalid-name'),
        ({'snapshot': SNAPSHOT.upper().replace('3', 'A')}, 'invalid-name'),
        ({'name': ''}, 'invalid-value'),
        ({'name': 'x' * 256}, 'invalid-value'),
        ({'name': 'a\nb'}, 'invalid-value'),
        ({'name': None}, 'invalid-value'),
        ({'lineage': NODE}, 'invalid-value'),
        ({'lineage': {'node': NODE}}, 'invalid-value'),
        (
            {'lineage': {'node': NODE, 'generation': GENERATION, 'x': 1}},
            'invalid-value',
        ),
        ({'lineage': {'node': NODE, 'generation': 'x'}}, 'invalid-name'),
        ({'lineage': {'node': NODE, 'generation': 1}}, 'invalid-name'),
        ({'cluster_size': 0}, 'invalid-value'),
        ({'cluster_size': 32768}, 'invalid-value'),
        ({'cluster_size': 4 << 20}, 'invalid-value'),
        ({'cluster_size': 262145}, 'invalid-value'),
        ({'cluster_size': 262144.0}, 'invalid-value'),
        ({'cluster_size': True}, 'invalid-value'),
        ({'codec': 'xz'}, 'unsupported-feature'),
        ({'codec': ['zstd']}, 'invalid-value'),
        ({'codec_level': 99}, 'invalid-value'),
        ({'codec_level': '1'}, 'invalid-value'),
        ({'codec_level': -1}, 'invalid-value'),
        ({'digest': 'md5'}, 'unsupported-feature'),
        ({'pack_size': 1}, 'invalid-value'),
        ({'pack_size': 2 << 30}, 'invalid-value'),
        ({'pack_size': (64 << 20) + 1}, 'invalid-value'),
        ({'workers': -1}, 'invalid-value'),
        ({'workers': float('nan')}, 'invalid-value'),
        ({'workers': 10**9}, 'invalid-value'),
        ({'memory_limit': -1}, 'invalid-value'),
        ({'all_blocks': 1}, 'invalid-value'),
        ({'skip_gaps': None}, 'invalid-value'),
        ({'allow_bad_sectors': 'true'}, 'invalid-value'),
        ({'adaptive_level': 0}, 'invalid-value'),
        ({'adaptive_level': True}, 'invalid-value'),
        (
            {'adaptive_level': True, 'codec': 'zlib', 'codec_level': None},
            'invalid-value',
        ),
        ({'bandwidth_limit': -1}, 'invalid-value'),
        ({'bandwidth_limit': 1}, 'invalid-value'),
        ({'bandwidth_limit': (1 << 40) + 1}, 'invalid-value'),
        ({'bandwidth_limit': 1e6}, 'invalid-value'),
        ({'io_priority': 'urgent'}, 'invalid-value'),
        ({'io_priority': 2}, 'invalid-value'),
        ({'slice_seconds': 0}, 'invalid-value'),
        ({'slice_seconds': 3601}, 'invalid-value'),
        ({'slice_seconds': True}, 'invalid-value'),
        ({'grant': ...}, 'invalid-value'),
        ({'grant': None}, 'invalid-value'),
        ({'grant': {}}, 'unsupported-version'),
        ({'grant': mint('GET').to_dict()}, 'invalid-value'),
        ({'grant': mint('PUT').to_dict()}, 'invalid-value'),
        ({'grant': mint(prefix='v1/other/').to_dict()}, 'invalid-value'),
    ],
)
def test_anything_else_is_refused(changes, code):
    with pytest.raises(errors.Error) as caught:
        take(arguments(**changes))
    assert caught.value.code == code


def test_the_grant_is_emptied_even_when_the_rest_is_wrong():
    args = arguments(codec='xz')
    given = args['grant']
    secret = given['permissions'][0]['secret']
    with pytest.raises(errors.UnsupportedFeature):
        take(args)
    assert given == {}
    assert secret not in repr(args)


def test_an_invalid_grant_is_emptied_and_not_shown():
    given = copy.deepcopy(mint().to_dict())
    given['permissions'][0]['secret'] = 'canary'
    with pytest.raises(errors.InvalidValue) as caught:
        step_arguments.take_grant({'grant': given})
    assert given == {}
    assert 'canary' not in str(caught.value)


PARENT = {
    'snapshot': '44444444-4444-4444-8444-444444444444',
    'lineage': {'node': NODE, 'generation': SNAPSHOT},
    'manifest': {'size': 1000, 'digest': 'ab' * 32},
}
OF_PARENT = (
    f'v1/{NODE}/{SNAPSHOT}/snapshots/{PARENT["snapshot"]}/'
)


def with_parent(prefix=OF_PARENT, **changes):
    own = layout.attempt_prefix(LINEAGE, SNAPSHOT)
    given = grant.mint(
        URL,
        'key',
        2_000_000_000,
        [('PUT', own), ('GET', own), ('GET', prefix)],
    )
    return arguments(grant=given.to_dict(), **({'parent': PARENT} | changes))


def test_a_parent():
    found = take(with_parent(redundancy=16))
    assert found.parent == request.ParentRequest(
        PARENT['snapshot'], layout.Lineage(NODE, SNAPSHOT), 1000, 'ab' * 32
    )
    assert (found.full_reason, found.redundancy) == (None, 16)
    assert take(with_parent(full_reason=None)).full_reason is None


def test_no_parent():
    found = take(arguments(parent=None, full_reason='it is the first'))
    assert (found.parent, found.full_reason) == (None, 'it is the first')
    assert found.redundancy == 0
    assert take(arguments()).full_reason == 'asked for'


@pytest.mark.parametrize(
    ('name', 'value'),
    [
        ('parent', 'auto'),
        ('parent', PARENT | {'name': 'golden'}),
        ('parent', {k: v for k, v in PARENT.items() if k != 'manifest'}),
        ('parent', PARENT | {'snapshot': 1}),
        ('parent', PARENT | {'snapshot': 'not-a-uuid'}),
        ('parent', PARENT | {'lineage': NODE}),
        ('parent', PARENT | {'lineage': {'node': NODE}}),
        ('parent', PARENT | {'manifest': 'ab' * 32}),
        ('parent', PARENT | {'manifest': {'size': 1000}}),
        (
            'parent',
            PARENT | {'manifest': {'size': 0, 'digest': 'ab' * 32}},
        ),
        (
            'parent',
            PARENT | {'manifest': {'size': 2**40, 'digest': 'ab' * 32}},
        ),
        (
            'parent',
            PARENT | {'manifest': {'size': True, 'digest': 'ab' * 32}},
        ),
        (
            'parent',
            PARENT | {'manifest': {'size': 1000, 'digest': 'AB' * 32}},
        ),
        (
            'parent',
            PARENT | {'manifest': {'size': 1000, 'digest': 'ab' * 31}},
        ),
        ('parent', PARENT | {'manifest': {'size': 1000, 'digest': None}}),
        ('full_reason', 'there is a parent'),
        ('redundancy', -1),
        ('redundancy', 1001),
        ('redundancy', True),
        ('redundancy', None),
    ],
)
def test_a_wrong_parent(name, value):
    with pytest.raises((errors.InvalidValue, errors.InvalidName)):
        take(with_parent(**{name: value}))


@pytest.mark.parametrize('reason', [None, '', 7, 'a\nb', 'x' * 1001])
def test_a_wrong_reason_for_having_none(reason):
    with pytest.raises(errors.InvalidValue, match='full_reason'):
        take(arguments(parent=None, full_reason=reason))


@pytest.mark.parametrize(
    'prefix',
    [
        OF_PARENT.replace('snapshots', 'attempts'),
        OF_PARENT.replace(SNAPSHOT, GENERATION),
    ],
)
def test_a_grant_that_does_not_cover_the_parent(prefix):
    with pytest.raises(errors.InvalidValue, match=f'GET below {OF_PARENT}'):
        take(with_parent(prefix))
