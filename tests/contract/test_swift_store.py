# SPDX-License-Identifier: Apache-2.0
"""What only a real Swift can show."""

import concurrent.futures
import json
import os
import time

import pytest

from ironic_snapshot_core import buffers
from ironic_snapshot_core import clock
from ironic_snapshot_core import errors
from ironic_snapshot_core.store import auth
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import retry
from ironic_snapshot_core.store import swift as swift_store
from ironic_snapshot_core.store import swift_container
from ironic_snapshot_core.units import KiB, MiB
from tests.contract import store_contract


def test_an_image_of_more_segments_than_one_manifest_takes(container):
    store = container.store()
    wanted, data = store_contract.many_ranges(store)
    image = store.join('image', wanted)
    assert image.size == len(data)
    assert store.stat('image') == image
    assert store.get('image', len(data)) == data
    assert b''.join(store.iter_bytes('image', 100)) == data
    # Across the border between two inner manifests, which count the bytes
    # that are in the image.
    middle = sum(each.used for each in wanted[:1000])
    assert store.get_range('image', middle - 20, 40) == (
        data[middle - 20:middle + 20])
    inner = [f'image.segments/{n:06d}' for n in (1, 2)]
    assert store_contract.names(store.list('image')) == ['image', *inner]
    for name, part in zip(inner, (wanted[:1000], wanted[1000:]),
                          strict=True):
        assert store.stat(name) == base.image_info(name, part)


def test_the_etag_of_ranges_is_what_swift_makes_of_them(container):
    store = container.store()
    info = store.put('p', b'0123456789')
    segments = [store_contract.segment(info, *each)
                for each in ((0, 10), (0, 9), (1, None), (9, 1))]
    answer = container.request(
        'PUT', 'other?multipart-manifest=put', data=json.dumps([
            {'path': f'/{container.url.rsplit("/", 1)[1]}/p',
             'range': each.range} for each in segments]))
    assert answer.headers['Etag'].strip('"') == (
        base.image_info('other', segments).etag)
    assert store.stat('other') == base.image_info('other', segments)


def test_several_buffers_are_sent_at_the_pace(container):
    sizes = []
    store = container.store(pace=sizes.append)
    pieces = [os.urandom(200_000), os.urandom(70_000)]
    store.put('a', buffers.Buffers(pieces))
    assert store.get('a', MiB) == b''.join(pieces)
    assert sum(sizes) == 270_000
    assert max(sizes) <= 64 * KiB


def test_what_is_received_is_paced(container):
    data = os.urandom(600_000)
    container.store().put('a', data)
    sizes = []
    store = container.store(receive_pace=sizes.append)
    assert store.get('a', MiB) == data
    assert store.get_range('a', 1000, 300_000) == data[1000:301_000]
    assert b''.join(store.iter_bytes('a')) == data
    assert sum(sizes) == 1_500_000
    assert max(sizes) == 256 * KiB


def test_who_waits_for_the_pace_can_give_up(container):
    data = os.urandom(MiB)
    container.store().put('a', data)
    waits = iter([errors.Cancelled()])

    def pace(size):
        for error in waits:
            raise error

    store = container.store(receive_pace=pace)
    with pytest.raises(errors.Cancelled):
        store.get('a', MiB)
    # Nothing of it is left for the next to read.
    assert store.get('a', MiB) == data


@pytest.mark.parametrize('rule', [
    {'status': 503}, {'cut': 'before'}, {'cut': 'after'}], ids=str)
def test_several_buffers_are_sent_again(container, proxy, rule):
    proxy.rule(nth=1, **rule)
    sizes = []
    store = retry.RetryingStore(
        container.through(proxy).store(pace=sizes.append),
        retry.RetryPolicy(base_s=0.001, cap_s=0.01))
    pieces = [os.urandom(200_000), os.urandom(70_000)]
    store.put('a', buffers.Buffers(pieces))
    assert container.store().get('a', MiB) == b''.join(pieces)
    assert sum(sizes) > 270_000


def test_deleting_a_large_image_deletes_its_inner_manifests(container):
    store = container.store()
    one = store.put('p/1', b'0123')
    store.join('image', [store_contract.segment(one)] * 1001)
    store.delete('image')
    assert store_contract.names(store.list('')) == ['p/1']


def test_a_deletion_that_was_cut_short_can_be_repeated(container):
    store = container.store()
    one = store.put('p/1', b'0123')
    store.join('image', [store_contract.segment(one)] * 1001)
    container.request('DELETE', 'image')
    store.delete('image')
    assert store_contract.names(store.list('')) == ['p/1']


def test_a_large_image_reports_its_missing_segment(container):
    store = container.store()
    one = store.put('p/1', b'0123')
    gone = base.Segment('p/2', 4, one.etag)
    with pytest.raises(errors.ObjectMissing) as caught:
        store.join('image', [store_contract.segment(one)] * 1000 + [gone])
    assert caught.value.name == 'p/2'


def test_listing_goes_on_over_pages(container, monkeypatch):
    store = container.store()
    for n in range(5):
        store.put(f'a/{n}', b'')
    monkeypatch.setattr(swift_store, 'PAGE', 2)
    assert store_contract.names(store.list('a/')) == [
        f'a/{n}' for n in range(5)]


def test_objects_we_never_make_are_told_apart(container):
    store = container.store()
    store.put('plain', b'0123')
    container.request('PUT', 'symlink', headers={
        'X-Symlink-Target': f'{container.url.rsplit("/", 1)[1]}/plain',
        'Content-Length': '0'})
    container.request('PUT', 'dynamic', headers={
        'X-Object-Manifest': f'{container.url.rsplit("/", 1)[1]}/pl',
        'Content-Length': '0'})
    container.request(
        'PUT', 'doomed', headers={'X-Delete-After': '600'}, data=b'x')
    assert store.stat('plain').kind == base.PLAIN
    assert store.stat('symlink').kind == base.OTHER
    assert store.stat('dynamic').kind == base.OTHER
    doomed = store.stat('doomed')
    assert (doomed.kind, doomed.expires) == (base.PLAIN, True)


def test_an_object_with_a_strange_name_is_not_listed(container):
    store = container.store()
    store.put('a', b'')
    container.request('PUT', 'b%20c~d', data=b'')
    assert store_contract.names(store.list('')) == ['a']


def test_a_missing_container_is_never_created(container):
    container.url += '-gone'
    store = container.store()
    with pytest.raises(errors.ContainerMissing) as caught:
        store.put('a', b'0123')
    assert not caught.value.retryable
    with pytest.raises(errors.ContainerMissing):
        list(store.list(''))
    with pytest.raises(errors.ObjectMissing):
        store.stat('a')
    with pytest.raises(errors.ContainerMissing):
        store.delete('a')


def test_a_quota_is_a_full_store(container):
    container.request(
        'POST', headers={'X-Container-Meta-Quota-Bytes': '1000'})
    with pytest.raises(errors.StoreFull) as caught:
        container.store().put('a', b'x' * 1001)
    assert not caught.value.retryable
    assert '1001 bytes' in str(caught.value)


def test_a_refused_token_is_replaced_once(container):
    tokens = ['AUTH_tkfirst', container.token]
    asked = []
    store = swift_store.SwiftStore(container.url, auth.TokenAuth(
        lambda: tokens[0], lambda: asked.append(tokens.pop(0))))
    data = os.urandom(3 * MiB)
    store.put('a', data)
    assert asked == ['AUTH_tkfirst']
    assert store.get('a', len(data)) == data


def test_two_refused_tokens_are_access_denied(container):
    asked = []
    store = swift_store.SwiftStore(container.url, auth.TokenAuth(
        lambda: 'AUTH_tkbad', lambda: asked.append(1)))
    with pytest.raises(errors.AccessDenied) as caught:
        store.stat('a')
    assert len(asked) == 1
    assert not caught.value.retryable


def test_many_threads_share_a_store(container):
    store = container.store(pool_size=4)
    packs = {f'p/{n}': os.urandom(300_000) for n in range(12)}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda name: store.put(name, packs[name]), packs))
        found = pool.map(lambda name: store.get(name, MiB), packs)
        assert list(found) == list(packs.values())


def test_a_container_is_created_private_with_a_key(swift, container):
    headers = container.request('HEAD').headers
    assert 'X-Container-Read' not in headers
    assert 'X-Container-Write' not in headers
    assert len(container.key) == 64
    again = swift_container.ensure_container(
        container.url, container.token_auth())
    assert again == container.key


def test_an_existing_key_is_kept(container):
    container.request(
        'POST', headers={'X-Container-Meta-Temp-URL-Key': 'mine'})
    assert swift_container.ensure_container(
        container.url, container.token_auth()) == 'mine'


@pytest.mark.parametrize('acl', ['.r:*', '.r:*,.rlistings', '*:*'])
def test_a_public_container_is_refused(container, acl):
    container.request('POST', headers={'X-Container-Read': acl})
    with pytest.raises(errors.InvalidValue) as caught:
        swift_container.ensure_container(
            container.url, container.token_auth())
    assert 'X-Container-Read' in str(caught.value)
    assert container.key not in str(caught.value)


def test_a_key_that_changed_ends_the_grants(container):
    store = container.grant_store(('PUT', 'n/'))
    store.put('n/a', b'')
    container.request(
        'POST', headers={'X-Container-Meta-Temp-URL-Key': 'other'})
    with pytest.raises(errors.AccessDenied):
        store.put('n/a', b'')


def test_a_refusal_of_a_large_object_is_not_a_lost_connection(container):
    # Swift answers before it has read the body.
    store = container.grant_store(('PUT', 'n/'), key='wrong')
    with pytest.raises(errors.AccessDenied):
        store.put('n/a', os.urandom(16 * MiB))


def test_an_expired_grant_is_told_from_a_wrong_one(container):
    past = int(time.time()) - 100
    with pytest.raises(errors.GrantExpired) as caught:
        container.grant_store(('GET', 'n/'), expires=past).stat('n/a')
    assert not caught.value.retryable


def test_a_clock_that_is_behind_is_told_from_an_expired_grant(container):
    now = int(time.time())
    behind = clock.ManualClock(now - 3600)
    with pytest.raises(errors.ClockSkew) as caught:
        container.grant_store(
            ('GET', 'n/'), expires=now - 100, clock=behind).stat('n/a')
    assert '+3600 s' in str(caught.value) or '+3601 s' in str(caught.value)
