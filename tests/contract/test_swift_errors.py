# SPDX-License-Identifier: Apache-2.0
"""What can go wrong on the way to Swift, each with its own error.

A proxy in front of a real Swift misbehaves as told. Whatever happens, no
signature and no token comes out, neither in an error nor in a log.
"""

import contextlib
import io
import logging
import os
import socket
import traceback

import pytest

from ironic_snapshot_core import clock
from ironic_snapshot_core import errors
from ironic_snapshot_core.store import retry
from ironic_snapshot_core.units import KiB, MiB
from tests.contract import store_contract
from tests.servers.faulty_http import FaultyProxy
from tests.servers.faulty_http import Rule

NAME = 'n/pack-000001'
DATA = os.urandom(300 * KiB)

HTML = {'status': 200, 'body': '<html>Maintenance</html>'}


@pytest.fixture(scope='module')
def container(make_container):
    """One for all tests here: they end in errors, mostly."""
    return make_container()


@pytest.fixture(autouse=True)
def canary(container, caplog, monkeypatch):
    """Fail if a secret was logged, by anybody, at any level."""
    caplog.set_level(logging.DEBUG)
    for name in ('urllib3', 'urllib3.connectionpool'):
        # Other tests may have run with oslo.log, which makes them quiet.
        caplog.set_level(logging.DEBUG, name)
        monkeypatch.setattr(logging.getLogger(name), 'disabled', False)
    logged = io.StringIO()
    handler = logging.StreamHandler(logged)
    handler.setFormatter(logging.Formatter('%(name)s %(message)s'))
    logging.getLogger().addHandler(handler)
    yield
    logging.getLogger().removeHandler(handler)
    secrets = [container.token, container.key] + [
        permission.secret for permission in container.grant(
            ('PUT', 'n/'), ('GET', 'n/')).permissions]
    text = logged.getvalue()
    assert 'urllib3' in text
    for secret in secrets:
        assert secret not in text


@pytest.fixture
def near(container, proxy):
    """The container by way of the proxy, with an object in it."""
    container.store().put(NAME, DATA)
    return container.through(proxy)


@pytest.fixture(params=['token', 'grant'])
def store(request, near):
    options = {'timeout': (5, 0.5), 'clock': clock.SystemClock()}
    if request.param == 'token':
        return near.store(**options)
    return near.grant_store(('PUT', 'n/'), ('GET', 'n/'), **options)


@contextlib.contextmanager
def raises(cls, near, *words):
    """Expect exactly this error, and no secret about it."""
    with pytest.raises(cls) as caught:
        yield caught
    e = caught.value
    assert type(e) is cls
    shown = [str(e), repr(e), repr(vars(e)),
             *traceback.format_exception(e),
             # What a logger that shows every context would print.
             repr(e.__context__), repr(e.__cause__)]
    secrets = [near.token, near.key] + [
        permission.secret for permission in near.grant(
            ('PUT', 'n/'), ('GET', 'n/')).permissions]
    for text in shown:
        assert 'temp_url' not in text
        for secret in secrets:
            assert secret not in text
    assert e.__context__ is None and e.__cause__ is None
    assert NAME in str(e)
    for word in words:
        assert word in str(e)


CALLS = {
    'put': lambda store: store.put(NAME, DATA),
    'get': lambda store: store.get(NAME, MiB),
    'get_range': lambda store: store.get_range(NAME, 100, 100 * KiB),
    'iter_bytes': lambda store: list(store.iter_bytes(NAME)),
    'stat': lambda store: store.stat(NAME),
}
READS = ('get', 'get_range', 'iter_bytes')
every_call = pytest.mark.parametrize('call', CALLS)
every_read = pytest.mark.parametrize('call', READS)


@pytest.mark.parametrize('status, cls', [
    (400, errors.StoreError),
    (401, errors.AccessDenied),
    (403, errors.AccessDenied),
    (405, errors.StoreError),
    (408, errors.StoreUnavailable),
    (413, errors.StoreFull),
    (422, errors.ObjectMismatch),
    (429, errors.StoreUnavailable),
    (498, errors.StoreUnavailable),
    (499, errors.StoreUnavailable),
    (500, errors.StoreUnavailable),
    (502, errors.StoreUnavailable),
    (503, errors.StoreUnavailable),
    (504, errors.StoreUnavailable),
    (507, errors.StoreFull),
])
def test_each_status_has_its_error(store, near, proxy, status, cls):
    proxy.rule(status=status, times=None)
    for name, call in CALLS.items():
        with raises(cls, near, f'HTTP {status}') as caught:
            call(store)
        assert caught.value.status == status
        assert caught.value.operation == name
        assert caught.value.retryable == (
            cls in (errors.StoreUnavailable, errors.ObjectMismatch))


def test_404_is_the_container_when_writing(store, near, proxy):
    proxy.rule(status=404, times=None)
    with raises(errors.ContainerMissing, near):
        store.put(NAME, DATA)
    with raises(errors.ObjectMissing, near):
        store.get(NAME, MiB)


@pytest.mark.parametrize('value, seconds', [
    ('7', 7.0), ('x', None), ('-1', None), (None, None),
    ('Thu, 01 Jan 1970 00:00:00 GMT', 0.0)])
def test_retry_after_is_passed_on(store, near, proxy, value, seconds):
    proxy.rule(status=429, headers={'Retry-After': value})
    with raises(errors.StoreUnavailable, near) as caught:
        store.put(NAME, DATA)
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize('status', [301, 302, 307])
def test_a_redirection_is_not_followed(store, near, proxy, status):
    proxy.rule(status=status, times=None, headers={
        'Location': 'http://127.0.0.1:1/elsewhere'})
    for call in CALLS.values():
        with raises(errors.StoreUntrusted, near) as caught:
            call(store)
        assert not caught.value.retryable
    assert len(proxy.log) == len(CALLS)


@every_call
@pytest.mark.parametrize('cut', ['before', 'after'])
def test_a_cut_connection_can_be_retried(store, near, proxy, call, cut):
    proxy.rule(cut=cut)
    with raises(errors.StoreUnavailable, near):
        CALLS[call](store)
    CALLS[call](store)


def test_a_lost_answer_was_applied_all_the_same(store, near, proxy,
                                                container):
    proxy.rule(method='PUT', cut='after')
    with raises(errors.StoreUnavailable, near):
        store.put('n/new-' + NAME, b'new')
    assert container.store().get('n/new-' + NAME, 3) == b'new'


@every_call
def test_a_silent_store_is_given_up(store, near, proxy, call):
    proxy.rule(delay_s=1.5)
    with raises(errors.StoreUnavailable, near, 'no answer in time'):
        CALLS[call](store)


@every_call
def test_a_page_of_html_is_no_answer_of_swift(store, near, proxy, call):
    proxy.rule(**HTML)
    with raises(errors.StoreUnavailable, near, 'not one of Swift'):
        CALLS[call](store)


@every_read
@pytest.mark.parametrize('length', [0, 1, 70_000])
def test_a_short_answer_is_never_taken_for_the_object(
        store, near, proxy, call, length):
    proxy.rule(truncate=length)
    with raises(errors.StoreUnavailable, near, 'ended'):
        CALLS[call](store)


@pytest.mark.parametrize('call', ['get', 'iter_bytes'])
@pytest.mark.parametrize('position', [0, 150_000, len(DATA) - 1])
def test_a_flipped_bit_is_never_taken_for_the_object(
        store, near, proxy, call, position):
    proxy.rule(flip=position)
    with raises(errors.ObjectMismatch, near):
        CALLS[call](store)


def test_iter_bytes_holds_the_last_piece_back(store, near, proxy):
    proxy.rule(flip=5)
    got = []
    with raises(errors.ObjectMismatch, near):
        got.extend(store.iter_bytes(NAME, 100 * KiB))
    pieces = store.iter_bytes(NAME, 100 * KiB)
    assert sum(map(len, pieces)) == len(DATA)


def test_the_whole_instead_of_a_range_is_refused(store, near, proxy):
    proxy.rule(status=200, body='x' * 100, headers={'Etag': 'a' * 32})
    with raises(errors.StoreUnavailable, near):
        store.get_range(NAME, 0, 100)


@pytest.mark.parametrize('headers', [
    {'Content-Range': 'bytes 1-100/307200'},
    {'Content-Range': None},
    {'Content-Range': 'bytes 0-99/307200', 'Content-Length': '99'},
])
def test_another_range_is_refused(store, near, proxy, headers):
    proxy.rule(headers=headers)
    with raises(errors.ObjectMismatch, near):
        store.get_range(NAME, 0, 100)


@every_read
@pytest.mark.parametrize('headers', [
    {'Content-Encoding': 'gzip'}, {'Etag': None}, {'Content-Length': None}])
def test_an_answer_that_was_tampered_with_is_refused(
        store, near, proxy, call, headers):
    proxy.rule(headers=headers)
    with raises(errors.StoreUnavailable, near):
        CALLS[call](store)


def test_another_etag_confirmed_is_a_failed_put(store, near, proxy):
    proxy.rule(method='PUT', headers={'Etag': 'a' * 32})
    with raises(errors.ObjectMismatch, near, 'etag'):
        store.put(NAME, DATA)


def test_an_early_answer_is_read(store, near, proxy):
    proxy.rule(method='PUT', status=413, early=True)
    with raises(errors.StoreFull, near):
        store.put(NAME, DATA)


@pytest.mark.parametrize('call', ['put', 'get'])
def test_nobody_listening(near, call):
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        near.url = near.url.replace(
            near.url.split('/')[2], f'127.0.0.1:{free.getsockname()[1]}')
        with raises(errors.StoreUnavailable, near, 'refused'):
            CALLS[call](near.store())


def test_an_unknown_host(near):
    near.url = near.url.replace(near.url.split('/')[2], 'no.invalid')
    with raises(errors.StoreUnavailable, near):
        near.store().stat(NAME)


def test_no_tls_where_tls_should_be(near):
    near.url = near.url.replace('http://', 'https://')
    with raises(errors.StoreUntrusted, near, 'TLS') as caught:
        near.store().stat(NAME)
    assert not caught.value.retryable


@pytest.mark.parametrize('body', ['', '[', '{}', '[1]', '[{"name": 1}]',
                                  '<html>', 'null'])
def test_a_listing_that_is_none(near, proxy, body):
    proxy.rule(method='GET', body=body)
    with pytest.raises(errors.StoreUnavailable):
        list(near.store().list('n/'))


def test_a_listing_out_of_order_is_refused(near, proxy):
    entry = '{"name": "%s", "hash": "x", "bytes": 1}'
    proxy.rule(method='GET', body=f'[{entry % "b"}, {entry % "a"}]')
    with pytest.raises(errors.StoreUnavailable, match='order'):
        list(near.store().list(''))


@pytest.mark.parametrize('rule, cls', [
    ({'truncate': 5}, errors.StoreUnavailable),
    ({'cut': 'after'}, errors.StoreUnavailable),
    ({'body': ''}, errors.StoreUnavailable),
    ({'body': '{"Response Status": "503 Busy", "Errors": []}'},
     errors.StoreUnavailable),
    ({'body': '{"Response Status": "413 Large", "Errors": []}'},
     errors.StoreError),
    ({'body': '{"Response Status": "201 Created", "Errors": [], '
              '"Etag": "\\"aaaa\\""}'}, errors.ObjectMismatch),
    ({'body': '{"Response Status": "400 Bad", "Errors": '
              '[["/c/x", "403 Forbidden"]]}'}, errors.StoreError),
    ({'status': 400, 'body': 'Invalid'}, errors.StoreError),
    ({'status': 503}, errors.StoreUnavailable),
])
def test_an_image_is_made_or_an_error_raised(near, proxy, rule, cls):
    store = near.store()
    one = store.put('n/p', b'0123')
    proxy.rule(method='PUT', **rule)
    with pytest.raises(errors.StoreError) as caught:
        store.join('n/image', [store_contract.segment(one)])
    assert type(caught.value) is cls


def test_retries_ride_out_a_storm(near, proxy):
    manual = clock.ManualClock()
    store = retry.RetryingStore(
        near.grant_store(('PUT', 'n/'), ('GET', 'n/'), timeout=(5, 0.5)),
        clock=manual)
    for nth, rule in enumerate((
            {'status': 503}, {'cut': 'before'}, {'cut': 'after'},
            {'status': 429, 'headers': {'Retry-After': '20'}}), 1):
        proxy.rule(method='PUT', nth=nth, **rule)
    store.put('n/x', DATA)
    assert len(manual.slept) == 4
    assert 20.0 in manual.slept
    for nth, rule in enumerate((
            {'truncate': 10}, {'flip': 7}, HTML, {'delay_s': 1}), 1):
        proxy.rule(method='GET', nth=nth, **rule)
    assert store.get('n/x', MiB) == DATA


def test_a_stream_goes_on_where_it_was_cut(near, proxy):
    store = retry.RetryingStore(
        near.store(), clock=clock.ManualClock())
    proxy.rule(method='GET', truncate=200 * KiB)
    assert b''.join(store.iter_bytes(NAME, 64 * KiB)) == DATA


def test_no_rule_is_no_fault(near, proxy):
    assert near.store().get(NAME, MiB) == DATA
    assert Rule(method='PUT').fires('GET', '/x') is False
    assert all('?' not in entry.path for entry in proxy.log)


def test_rules_come_from_a_file_too(swift, container, tmp_path):
    control = tmp_path / 'rules.json'
    with FaultyProxy(swift.url, control=control) as proxy:
        near = container.through(proxy)
        near.store().put(NAME, DATA)
        control.write_text('[{"method": "PUT", "status": 507, "times": 2}]')
        for _ in range(2):
            with pytest.raises(errors.StoreFull):
                near.store().put(NAME, DATA)
        near.store().put(NAME, DATA)
