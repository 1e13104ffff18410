# SPDX-License-Identifier: Apache-2.0
"""Parts of the Swift store that need no Swift."""

import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_core import grant
from ironic_snapshot_core.store import auth
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import swift
from ironic_snapshot_core.store import swift_http
from ironic_snapshot_core.units import KiB


def test_a_body_comes_in_pieces_as_often_as_asked():
    data = bytes(range(256)) * 1000
    body = swift_http.Body(memoryview(data))
    assert len(body) == len(data)
    for _ in range(2):
        pieces = list(body)
        assert b''.join(pieces) == data
        assert max(map(len, pieces)) <= 64 * KiB


@pytest.mark.parametrize('value, seconds', [
    ('0', 0.0), ('120', 120.0), ('1.5', None), ('', None), (None, None),
    ('²', None), ('9' * 100, 999_999_999.0),
    ('Fri, 31 Dec 1999 23:59:59 GMT', 59.0),
    ('Fri, 31 Dec 1999 23:57:59 GMT', 0.0),
    ('nonsense', None)])
def test_retry_after(value, seconds):
    now = 946684740.0
    assert swift_http.parse_retry_after(value, now) == seconds


@pytest.mark.parametrize('url', [
    'ftp://h/v1/a/c', 'http://h/v1/a', 'http://u:p@h/v1/a/c',
    'http://h/v1/a/c?temp_url_sig=x'])
def test_a_bad_url_is_refused_unseen(url):
    with pytest.raises(errors.InvalidValue) as caught:
        swift.SwiftStore(url, auth.TokenAuth(lambda: 't', lambda: None))
    assert url not in str(caught.value)


def test_the_environment_has_no_say(monkeypatch):
    # A proxy named there would see the signatures.
    monkeypatch.setenv('http_proxy', 'http://127.0.0.1:1')
    store = swift.SwiftStore(
        'http://127.0.0.1:2/v1/a/c',
        auth.TokenAuth(lambda: 't', lambda: None))
    assert store._container._session.trust_env is False


def test_too_many_segments_are_refused_at_once():
    store = swift.SwiftStore(
        'http://127.0.0.1:2/v1/a/c',
        auth.TokenAuth(lambda: 't', lambda: None))
    one = base.Segment('a', 1, 'x')
    with pytest.raises(errors.InvalidValue):
        store.join('image', [one] * (1000 * 1000 + 1))


def test_a_grant_is_not_shown_by_what_holds_it():
    granted = grant.mint('http://h/v1/a/c', 'key', 5, [('PUT', 'a/')])
    secret = granted.permissions[0].secret
    holder = auth.GrantAuth(granted)
    assert secret not in repr(holder)
    assert secret not in repr(vars(holder))
