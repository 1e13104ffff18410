# SPDX-License-Identifier: Apache-2.0
"""What the holder of a grant cannot do, shown on a real Swift.

The requests here are made by hand: a hostile ramdisk does not use our store.
"""

import pytest
import requests

from ironic_snapshot_core import errors
from ironic_snapshot_core import grant
from ironic_snapshot_core.store import auth
from ironic_snapshot_core.store import swift as swift_store
from ironic_snapshot_core.store import swift_container
from tests.contract import conftest
from tests.servers.swift import SwiftServer

MINE = 'v1/node1/'


@pytest.fixture
def objects(container):
    """Somebody else's object, and one of ours."""
    store = container.store()
    store.put('v1/node10/secret', b'secret')
    store.put('v1/node1/mine', b'mine')
    return store


def query(container, method, prefix=MINE):
    permission, = container.grant((method, prefix)).permissions
    return {'temp_url_sig': permission.secret,
            'temp_url_expires': str(container.expires),
            'temp_url_prefix': prefix}


def ask(container, method, name, granted, headers=None, data=None, **params):
    return requests.request(
        method, f'{container.url}/{name}', timeout=60, data=data,
        params={**granted, **params}, headers=headers or {})


def test_a_put_grant_writes_below_its_prefix_only(container, objects):
    granted = query(container, 'PUT')
    assert ask(container, 'PUT', 'v1/node1/x', granted,
               data=b'x').status_code == 201
    for name in ('v1/node10/secret', 'v1/node1', 'v1/node2/x', 'x'):
        assert ask(container, 'PUT', name, granted,
                   data=b'x').status_code == 401, name
    assert objects.get('v1/node10/secret', 10) == b'secret'


def test_a_prefix_without_its_slash_would_cover_others_too(container):
    # Why one cannot be minted.
    with pytest.raises(errors.InvalidName):
        grant.mint(container.url, container.key, container.expires,
                   [('PUT', 'v1/node1')])


@pytest.mark.parametrize('method', ['GET', 'DELETE', 'POST', 'COPY'])
def test_a_put_grant_does_nothing_but_put(container, objects, method):
    granted = query(container, 'PUT')
    assert ask(container, method, 'v1/node1/mine',
               granted).status_code == 401
    assert objects.get('v1/node1/mine', 10) == b'mine'


@pytest.mark.parametrize('method', ['PUT', 'DELETE', 'POST', 'COPY'])
def test_a_get_grant_does_nothing_but_get(container, objects, method):
    granted = query(container, 'GET')
    assert ask(container, 'GET', 'v1/node1/mine', granted).content == b'mine'
    assert ask(container, method, 'v1/node1/mine',
               granted).status_code == 401
    assert objects.get('v1/node1/mine', 10) == b'mine'


def test_neither_grant_lists_the_container(container, objects):
    for method in ('GET', 'PUT'):
        response = requests.get(
            container.url, params=query(container, method), timeout=60)
        assert response.status_code == 401


def test_a_put_grant_copies_nothing(container, objects):
    source = f'{container.url.rsplit("/", 1)[1]}/v1/node10/secret'
    response = ask(container, 'PUT', 'v1/node1/stolen',
                   query(container, 'PUT'),
                   headers={'X-Copy-From': source, 'Content-Length': '0'})
    # Swift 2.38 refuses it; older ones have to be told to drop the header.
    if response.status_code == 400:
        with pytest.raises(errors.ObjectMissing):
            objects.stat('v1/node1/stolen')
    else:
        assert objects.get('v1/node1/stolen', 10) == b''


def test_in_a_swift_nobody_hardened_packs_may_expire(tmp_path):
    # Why operators are told which headers to remove, and why a commit looks
    # for objects that expire.
    with SwiftServer(tmp_path, incoming_remove_headers=None) as swift:
        found = conftest.Container(
            f'{swift.storage_url}/c', '', swift.token())
        found.key = swift_container.ensure_container(
            found.url, found.token_auth())
        response = ask(found, 'PUT', 'v1/node1/pack', query(found, 'PUT'),
                       headers={'X-Delete-After': '600'}, data=b'x')
        assert response.status_code == 201
        assert found.store().stat('v1/node1/pack').expires


def test_a_put_grant_makes_no_object_that_expires(container, objects):
    granted = query(container, 'PUT')
    for headers in ({'X-Delete-After': '600'}, {'X-Delete-At': '4000000000'}):
        response = ask(container, 'PUT', 'v1/node1/pack', granted,
                       headers=headers, data=b'x')
        assert response.status_code == 201
        assert not objects.stat('v1/node1/pack').expires


@pytest.mark.parametrize('header, value', [
    ('X-Object-Manifest', 'c/v1/'), ('X-Symlink-Target', 'c/o')])
def test_a_put_grant_makes_no_object_that_leads_elsewhere(
        container, objects, header, value):
    response = ask(container, 'PUT', 'v1/node1/link',
                   query(container, 'PUT'), headers={header: value})
    assert response.status_code == 400


def test_a_put_grant_makes_no_image(container, objects):
    manifest = b'[{"path": "/%s/v1/node10/secret"}]' % (
        container.url.rsplit('/', 1)[1].encode())
    response = ask(container, 'PUT', 'v1/node1/image',
                   query(container, 'PUT'), data=manifest,
                   **{'multipart-manifest': 'put'})
    # Swift does as if it had; what is there is the document.
    assert response.status_code == 201
    assert objects.get('v1/node1/image', 1000) == manifest


def test_a_dot_dot_in_a_name_leads_nowhere(container, objects):
    session = requests.Session()
    request = requests.Request(
        'PUT', container.url, data=b'x',
        params=query(container, 'PUT')).prepare()
    # As it is; requests would resolve it.
    request.url = request.url.replace(
        '?', '/v1/node1/../node10/secret?', 1)
    session.send(request, timeout=60)
    assert objects.get('v1/node10/secret', 10) == b'secret'


def test_expires_and_prefix_are_part_of_the_signature(container, objects):
    granted = query(container, 'GET')
    for change in ({'temp_url_expires': str(container.expires + 1)},
                   {'temp_url_prefix': 'v1/'},
                   {'temp_url_prefix': 'v1/node10/'}):
        assert ask(container, 'GET', 'v1/node10/secret',
                   {**granted, **change}).status_code == 401


def test_a_grant_of_one_container_is_none_for_another(container, objects):
    granted = query(container, 'GET')
    other = container.url + '-other'
    requests.put(other, headers=container.headers, timeout=60)
    requests.put(f'{other}/v1/node1/mine', data=b'x',
                 headers=container.headers, timeout=60)
    response = requests.get(
        f'{other}/v1/node1/mine', params=granted, timeout=60)
    assert response.status_code == 401


def test_our_own_store_does_not_even_ask(container, objects, proxy):
    store = container.through(proxy).grant_store(('PUT', MINE))
    for call in (lambda: store.put('v1/node10/x', b''),
                 lambda: store.get('v1/node1/mine', 10),
                 lambda: store.delete('v1/node1/mine')):
        with pytest.raises(errors.NotSupported):
            call()
    assert proxy.log == []


def test_a_grant_has_as_many_prefixes_as_needed(container):
    token = container.store()
    token.put('v1/a/1', b'one')
    token.put('v1/b/2', b'two')
    store = container.grant_store(
        ('PUT', 'v1/c/'), ('GET', 'v1/a/'), ('GET', 'v1/b/'))
    assert store.get('v1/a/1', 3) + store.get('v1/b/2', 3) == b'onetwo'
    store.put('v1/c/3', b'three')
    assert store.stat('v1/c/3').size == 5


@pytest.mark.parametrize('algorithm', ['sha256', 'sha512'])
def test_both_algorithms_are_understood(container, algorithm):
    granted = grant.mint(container.url, container.key, container.expires,
                         [('PUT', MINE)], algorithm)
    store = swift_store.SwiftStore(container.url, auth.GrantAuth(granted))
    assert store.put('v1/node1/x', b'x').size == 1
