# SPDX-License-Identifier: Apache-2.0
"""The arguments of a restore: what is taken, what is refused."""

import pytest

from ipa_snapshot_hardware import arguments as step_arguments
from ipa_snapshot_hardware import restore_request
from ironic_snapshot_core import errors
from ironic_snapshot_core import grant
from ironic_snapshot_core import layout

NODE = '11111111-1111-4111-8111-111111111111'
GENERATION = '22222222-2222-4222-8222-222222222222'
SNAPSHOT = '33333333-3333-4333-8333-333333333333'
OPERATION = '55555555-5555-4555-8555-555555555555'
LINEAGE = layout.Lineage(NODE, GENERATION)
URL = 'https://swift.example/v1/AUTH_p/ironic-snapshots'
PREFIX = f'v1/{NODE}/{GENERATION}/snapshots/{SNAPSHOT}/'


def mint(method='GET', prefix=PREFIX):
    return grant.mint(URL, 'key', 2_000_000_000, [(method, prefix)])


def arguments(**changes):
    args = {
        'protocol': 1,
        'snapshot': SNAPSHOT,
        'lineage': {'node': NODE, 'generation': GENERATION},
        'manifest': {'size': 1000, 'digest': 'ab' * 32},
        'operation': OPERATION,
        'verb': 'rollback',
        'identity': 'keep',
        'grant': mint().to_dict(),
    } | changes
    return {name: value for name, value in args.items() if value is not ...}


def take(args):
    given = step_arguments.take_grant(args)
    return restore_request.parse(args, given)


def test_what_the_conductor_must_send():
    assert take(arguments()) == restore_request.RestoreRequest(
        snapshot=SNAPSHOT,
        lineage=LINEAGE,
        size=1000,
        digest='ab' * 32,
        operation=OPERATION,
        verb='rollback',
        identity='keep',
    )


def test_what_may_be_asked_for():
    options = {
        'verb': 'clone',
        'identity': 'reset',
        'target_serial': 'S3R1AL',
        'workers': 3,
        'memory_limit': 1 << 30,
        'bandwidth_limit': 1 << 20,
        'io_priority': 'idle',
        'slice_seconds': 5,
    }
    found = take(arguments(**options))
    assert {name: getattr(found, name) for name in options} == options


def test_no_serial_number_named():
    assert take(arguments(target_serial=None)).target_serial is None


def test_it_is_known_by_its_operation():
    found = take(arguments())
    assert (found.activity, found.key) == ('restore', OPERATION)


def test_nobody_can_have_the_comparison_left_out():
    with pytest.raises(errors.InvalidValue, match='blank'):
        take(arguments(blank=True))


@pytest.mark.parametrize(
    ('changes', 'code'),
    [
        ({'protocol': 2}, 'unsupported-version'),
        ({'protocol': ...}, 'unsupported-version'),
        ({'device': '/dev/sda'}, 'invalid-value'),
        ({'url': 'http://evil.example'}, 'invalid-value'),
        ({'snapshot': ...}, 'invalid-value'),
        ({'snapshot': '../x'}, 'invalid-name'),
        ({'lineage': NODE}, 'invalid-value'),
        ({'manifest': ...}, 'invalid-value'),
        ({'manifest': 'ab' * 32}, 'invalid-value'),
        ({'manifest': {'size': 0, 'digest': 'ab' * 32}}, 'invalid-value'),
        ({'manifest': {'size': 1, 'digest': 'AB' * 32}}, 'invalid-value'),
        ({'manifest': {'size': 2**40, 'digest': 'ab' * 32}}, 'invalid-value'),
        ({'operation': ...}, 'invalid-value'),
        ({'operation': 7}, 'invalid-value'),
        ({'operation': 'x'}, 'invalid-name'),
        ({'verb': ...}, 'invalid-value'),
        ({'verb': 'wipe'}, 'invalid-value'),
        ({'verb': ['clone']}, 'invalid-value'),
        ({'identity': ...}, 'invalid-value'),
        ({'identity': True}, 'invalid-value'),
        ({'identity': 'forget'}, 'invalid-value'),
        ({'target_serial': ''}, 'invalid-value'),
        ({'target_serial': 5}, 'invalid-value'),
        ({'target_serial': 'a\nb'}, 'invalid-value'),
        ({'target_serial': 'x' * 256}, 'invalid-value'),
        ({'workers': 65}, 'invalid-value'),
        ({'memory_limit': -1}, 'invalid-value'),
        ({'bandwidth_limit': 1}, 'invalid-value'),
        ({'io_priority': 'urgent'}, 'invalid-value'),
        ({'slice_seconds': 0}, 'invalid-value'),
        ({'slice_seconds': 3601}, 'invalid-value'),
        ({'grant': ...}, 'invalid-value'),
        ({'grant': mint('PUT').to_dict()}, 'invalid-value'),
        (
            {
                'grant': mint(
                    prefix=PREFIX.replace(SNAPSHOT, OPERATION)
                ).to_dict()
            },
            'invalid-value',
        ),
    ],
)
def test_anything_else_is_refused(changes, code):
    args = arguments(**changes)
    secrets = [
        each['secret']
        for each in (args.get('grant') or {}).get('permissions', ())
    ]
    with pytest.raises(errors.Error) as caught:
        take(args)
    assert caught.value.code == code
    assert not any(each in str(caught.value) for each in secrets)
    assert 'secret' not in repr(args)
