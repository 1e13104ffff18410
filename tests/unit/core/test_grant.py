# SPDX-License-Identifier: Apache-2.0
"""Grants; Swift judges their signatures in the contract tests."""

import copy
import json

import pytest
from oslo_utils import strutils

from ironic_snapshot_core import errors
from ironic_snapshot_core import grant

URL = 'https://swift.example:8080/v1/AUTH_a/snapshots'
KEY = 'a key nobody knows'


def mint(*permissions, **options):
    return grant.mint(URL, KEY, 2_000_000_000, permissions or [
        ('PUT', 'v1/n/g/attempts/s/'), ('GET', 'v1/n/g/attempts/r/')],
        **options)


def test_a_signature_as_swift_makes_it():
    # hmac.new(b'mykey', b'GET\n1400000000\nprefix:/v1/AUTH_a/c/p/', sha256)
    assert grant.sign('mykey', 'GET', '/v1/AUTH_a/c', 1400000000, 'p/') == (
        'a0b3ad6414b6c7cf9815f1e5166e42ea'
        'a58d84609b05885ef09f96623887cdf3')


def test_it_crosses_the_wire():
    granted = mint()
    wire = json.loads(json.dumps(granted.to_dict()))
    assert grant.Grant.take(wire) == granted


def test_taking_it_empties_the_dict():
    wire = mint().to_dict()
    permissions = wire['permissions']
    first = permissions[0]
    grant.Grant.take(wire)
    assert wire == {} and permissions == [] and first == {}


def test_taking_a_bad_one_empties_the_dict_as_well():
    wire = mint().to_dict()
    first = wire['permissions'][0]
    wire['expires'] = 'soon'
    with pytest.raises(errors.InvalidValue):
        grant.Grant.take(wire)
    assert wire == {} and first == {}


def test_a_step_with_a_grant_is_masked_by_oslo():
    granted = mint()
    step = {'step': 'snapshot', 'args': {'grant': granted.to_dict()}}
    masked = json.dumps(strutils.mask_dict_password(step))
    for permission in granted.permissions:
        assert permission.secret not in masked
    assert 'v1/n/g/attempts/s/' in masked


def test_it_is_never_shown():
    granted = mint()
    for permission in granted.permissions:
        for text in (repr(granted), str(granted), f'{granted}',
                     repr(permission), str([permission])):
            assert permission.secret not in text
    assert 'v1/n/g/attempts/s/' in repr(granted)


def test_find():
    granted = mint(('PUT', 'a/'), ('GET', 'b/'))
    put, get = granted.permissions
    assert granted.find('PUT', 'a/x') is put
    assert granted.find('GET', 'b/x/y') is get
    assert granted.find('HEAD', 'a/x') is put
    assert granted.find('HEAD', 'b/x') is get
    for method, name in (('GET', 'a/x'), ('PUT', 'b/x'), ('PUT', 'ab'),
                         ('PUT', 'a'), ('DELETE', 'a/x'), ('HEAD', 'c/x')):
        assert granted.find(method, name) is None


@pytest.mark.parametrize('permission, cls', [
    (('DELETE', 'a/'), errors.InvalidValue),
    (('put', 'a/'), errors.InvalidValue),
    (('PUT', 'a'), errors.InvalidName),
    (('PUT', ''), errors.InvalidName),
    (('PUT', '/'), errors.InvalidName),
    (('PUT', '../'), errors.InvalidName)])
def test_what_cannot_be_granted(permission, cls):
    with pytest.raises(cls):
        mint(permission)


@pytest.mark.parametrize('url', [
    None, 5, '', 'snapshots', 'ftp://h/v1/a/c', 'http:///v1/a/c',
    'http://h/v1/a', 'http://h/v1/a/c/', 'http://h/v1/a//c',
    'http://h/v1/a/c?x=1', 'http://h/v1/a/c#x', 'http://u:p@h/v1/a/c',
    'http://h/v1/a/../c', 'http://h/v1/a/c c', 'http://h:x/v1/a/c',
    'http://h/v1/a/c?', 'http://h/v1/ä/c', 'file:///v1/a/c'])
def test_what_is_no_container_url(url):
    with pytest.raises(errors.InvalidValue) as caught:
        grant.validate_container_url(url)
    assert 'u:p' not in str(caught.value)


def test_container_urls():
    for url in (URL, 'http://[::1]:8080/v1/a/c', 'http://h/swift/v1/a/c'):
        assert grant.validate_container_url(url) == url


def change(*path, to):
    def apply(wire):
        for each in path[:-1]:
            wire = wire[each]
        wire[path[-1]] = to
    return apply


@pytest.mark.parametrize('apply', [
    change('version', to='1'),
    change('version', to=2),
    change('container_url', to='http://h/'),
    change('expires', to='soon'),
    change('expires', to=True),
    change('expires', to=1.5),
    change('expires', to=0),
    change('algorithm', to='md5'),
    change('algorithm', to='sha512'),
    change('algorithm', to=[]),
    change('permissions', to=[]),
    change('permissions', to='PUT'),
    change('permissions', to=[5]),
    change('permissions', to={}),
    change('permissions', 0, 'method', to='DELETE'),
    change('permissions', 0, 'prefix', to='v1/n'),
    change('permissions', 0, 'prefix', to='../'),
    change('permissions', 0, 'secret', to='short'),
    change('permissions', 0, 'secret', to='g' * 64),
    change('permissions', 0, 'secret', to=5),
    change('permissions', 0, 'more', to='x'),
    change('more', to='x'),
    lambda wire: wire.pop('expires'),
    lambda wire: wire['permissions'][1].pop('secret'),
], ids=range(24))
def test_what_is_no_grant_is_refused_without_showing_it(apply):
    wire = mint().to_dict()
    secrets = [each['secret'] for each in wire['permissions']]
    wire = copy.deepcopy(wire)
    apply(wire)
    with pytest.raises(errors.Error) as caught:
        grant.Grant.take(wire)
    assert isinstance(caught.value, (errors.InvalidValue,
                                     errors.UnsupportedVersion))
    for secret in secrets:
        assert secret not in str(caught.value) + repr(caught.value)


@pytest.mark.parametrize('value', [None, 5, 'x', [], [{'version': 1}], {}])
def test_what_is_not_even_a_dict(value):
    with pytest.raises(errors.Error):
        grant.Grant.take(value)
