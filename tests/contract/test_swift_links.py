# SPDX-License-Identifier: Apache-2.0
"""Links in a real Swift, and how an image goes that is joined of them."""

import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import retry
from ironic_snapshot_core.store import swift_links

ONCE = retry.RetryPolicy(tries=1)


@pytest.fixture
def links(container):
    return swift_links.SwiftLinks(
        container.url, container.token_auth(), policy=ONCE)


def put(store, name, data):
    info = store.put(name, data)
    return base.Segment(name, info.size, info.etag)


def test_link_reads_as_its_target(container, links):
    store = container.store()
    target = put(store, 'a/pack', b'something')
    for _ in range(2):
        links.link('b/link', target)
    assert store.get('b/link', 100) == b'something'
    found = store.stat('b/link')
    assert (found.size, found.etag, found.kind) == (
        target.size, target.etag, base.OTHER)


def test_target_must_be_what_it_should(container, links):
    store = container.store()
    target = put(store, 'a/pack', b'something')
    store.put('a/pack', b'something else')
    with pytest.raises(errors.ObjectMismatch):
        links.link('b/link', target)
    store.delete('a/pack')
    with pytest.raises(errors.ObjectMismatch):
        links.link('b/link', target)
    assert [each.name for each in store.list('')] == []


def test_image_goes_with_its_links_and_nothing_else(
        container, links, make_container):
    """As Glance's Swift driver deletes an image."""
    store = container.store()
    parts = [put(store, f'a/{number}', bytes([number]) * 9)
             for number in range(3)]
    made = []
    for part in parts:
        name = part.name.replace('a/', 'links/')
        links.link(name, part)
        # Of one, a part is enough.
        made.append(base.Segment(name, part.size, part.etag, length=9 - len(
            made)))
    joined = store.join('joined', made)
    other = make_container()
    swift_links.SwiftLinks(
        other.url, other.token_auth(), policy=ONCE).link_image(
            'image', container.url.rpartition('/')[2],
            base.Segment('joined', joined.size, joined.etag))
    assert other.store().get('image', 100) == (
        b'\0' * 9 + b'\1' * 8 + b'\2' * 7)
    other.request('DELETE', 'image?multipart-manifest=delete')
    assert list(other.store().list('')) == []
    assert [each.name for each in store.list('')] == [
        part.name for part in parts]


def test_image_is_deleted_alone(container, links, make_container):
    store = container.store()
    joined = store.join('joined', [put(store, 'a', b'something')])
    other = make_container()
    theirs = swift_links.SwiftLinks(
        other.url, other.token_auth(), policy=ONCE)
    theirs.link_image('image', container.url.rpartition('/')[2],
                      base.Segment('joined', joined.size, joined.etag))
    for _ in range(2):
        theirs.delete_image('image')
    assert store.get('joined', 100) == b'something'


def test_container_must_be_there(container, links):
    links.check_container()
    missing = swift_links.SwiftLinks(
        f'{container.url}-missing', container.token_auth(), policy=ONCE)
    with pytest.raises(errors.ContainerMissing):
        missing.check_container()


def test_whether_links_are_offered(container, proxy):
    assert swift_links.offered(container.url)
    proxy.rule(match='/info', body='{"slo": {}, "symlink": {}}', status=200)
    proxy.rule(match='/info', body='nothing', status=200, nth=2)
    url = container.through(proxy).url
    assert not swift_links.offered(url)
    with pytest.raises(errors.StoreUnavailable):
        swift_links.offered(url)
