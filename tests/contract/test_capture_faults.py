# SPDX-License-Identifier: Apache-2.0
"""A store that fails in every way, in front of a real Swift.

After each fault: success, or one clear error with a code; no secret in it;
no report, so nothing can be committed; no thread left; and the same capture
works when the fault is gone.
"""

import threading

import pytest

from ipa_snapshot_hardware.disk import memory as memory_disk
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import units
from ironic_snapshot_core.store import memory as memory_store
from tests import disks
from tests.contract import capture_requests as requests

pytestmark = pytest.mark.usefixtures('no_thread_left')

MiB = units.MiB
CONTENT = disks.random_bytes(4 * MiB) + disks.draw('ab-', MiB)
# What is put, in this order: four packs of random clusters, one of text.
OBJECTS = [
    *(f'pack-00000{number}' for number in range(1, 6)),
    *('index', 'map', 'head', 'report'),
]


@pytest.fixture
def store(target, swift, proxy):
    """The agent's store behind the proxy; waiting costs no time."""
    return target.grant_store(
        clock=clocks.ManualClock(),
        url=target.url.replace(swift.url, proxy.url),
    )


def run(store):
    disk = memory_disk.MemoryDisk(CONTENT)
    return requests.run(disk, store, pack_size=MiB)


def stored(target):
    return {
        info.name.removeprefix(requests.PREFIX)
        for info in target.token_store().list(requests.PREFIX)
    }


def check_success(target, found):
    assert stored(target) == set(OBJECTS)
    assert requests.read_back(target.token_store(), found.report) == CONTENT


def check_failure(target, proxy, store, error, code):
    assert error.code == code
    text = str(error)
    assert 'temp_url' not in text
    assert target.mint().permissions[0].secret not in text
    assert '\n' not in text
    assert 'report' not in stored(target)
    proxy.clear()
    check_success(target, run(store))


@pytest.mark.parametrize('name', OBJECTS)
def test_two_faults_at_any_object(target, proxy, store, name):
    rule = proxy.rule(method='PUT', match=f'/{name}$', status=503, times=2)
    found = run(store)
    assert rule.seen == 3
    check_success(target, found)


@pytest.mark.parametrize('name', ['pack-000003', 'report'])
@pytest.mark.parametrize(
    'fault',
    [
        {'status': 503, 'times': 1, 'headers': {'Retry-After': '7'}},
        {'status': 500},
        {'status': 502},
        {'status': 504},
        {'status': 408},
        {'status': 429},
        {'status': 498},
        {'status': 499},
        {'status': 409},
        {'status': 422},
        {'status': 503, 'early': True},
        {'cut': 'before', 'times': 2},
        {'cut': 'after', 'times': 2},
        {'status': 201, 'headers': {'ETag': '0' * 32}},
        {'status': 200, 'body': '<html>Welcome</html>'},
    ],
    ids=repr,
)
def test_a_fault_that_passes(target, proxy, store, name, fault):
    rule = proxy.rule(method='PUT', match=f'/{name}$', **fault)
    found = run(store)
    assert rule.seen > rule.times
    check_success(target, found)


@pytest.mark.parametrize('name', ['pack-000003', 'map'])
@pytest.mark.parametrize(
    ('status', 'code'),
    [
        (401, 'access-denied'),
        (403, 'access-denied'),
        (404, 'container-missing'),
        (413, 'store-full'),
        (507, 'store-full'),
        (503, 'store-unavailable'),
        (429, 'store-unavailable'),
        (422, 'object-mismatch'),
        (302, 'store-untrusted'),
        (400, 'store-error'),
    ],
)
def test_a_fault_that_stays(target, proxy, store, name, status, code):
    proxy.rule(
        method='PUT', match=f'/{name}$', status=status, times=None
    )
    with pytest.raises(errors.StoreError) as caught:
        run(store)
    assert caught.value.name.endswith(name)
    assert caught.value.status == status
    check_failure(target, proxy, store, caught.value, code)


def test_a_connection_that_is_always_cut(target, proxy, store):
    proxy.rule(method='PUT', cut='after', times=None)
    with pytest.raises(errors.StoreUnavailable) as caught:
        run(store)
    check_failure(target, proxy, store, caught.value, 'store-unavailable')


def test_retries_end(target, proxy, store):
    rule = proxy.rule(
        method='PUT', match='/index$', status=503, times=None
    )
    with pytest.raises(errors.StoreUnavailable):
        run(store)
    assert rule.seen == 6


def test_a_quota(target, store):
    target._ask('POST', {'X-Container-Meta-Quota-Bytes': str(MiB // 2)})
    with pytest.raises(errors.StoreFull) as caught:
        run(store)
    assert caught.value.code == 'store-full'
    assert 'report' not in stored(target)


def test_a_grant_that_expires_on_the_way(target, proxy, store):
    # What Swift says then, with a clock that is past the grant.
    later = {'Date': 'Fri, 01 Jan 2100 00:00:00 GMT'}
    proxy.rule(
        method='PUT',
        match='/pack-000003$',
        status=401,
        headers=later,
        times=None,
    )
    with pytest.raises(errors.StoreError) as caught:
        run(store)
    assert caught.value.code in ('grant-expired', 'clock-skew')
    assert 'report' not in stored(target)


def test_nobody_there(target, swift):
    store = target.grant_store(
        clock=clocks.ManualClock(),
        url=target.url.replace(swift.url, 'http://127.0.0.1:9'),
    )
    with pytest.raises(errors.StoreUnavailable) as caught:
        run(store)
    assert caught.value.operation == 'stat'


class NthFails(memory_store.MemoryStore):
    """Fails the n-th operation, before or after it was done."""

    def __init__(self, number, after):
        super().__init__()
        self._left = number
        self._after = after
        self._lock = threading.Lock()

    def _count(self):
        with self._lock:
            self._left -= 1
            return self._left == 0

    def put(self, name, data):
        fails = self._count()
        if not fails or self._after:
            info = super().put(name, data)
        if fails:
            raise errors.StoreUnavailable('put', name, 'it was drawn')
        return info

    def stat(self, name):
        if self._count():
            raise errors.StoreUnavailable('stat', name, 'it was drawn')
        return super().stat(name)


@pytest.mark.parametrize('after', [False, True])
def test_every_single_operation(after):
    for number in range(1, 100):
        store = NthFails(number, after)
        try:
            found = run(store)
        except errors.StoreUnavailable:
            names = {info.name for info in store.list('')}
            done = requests.PREFIX + 'report' in names
            # Only an answer that was lost can leave the report behind.
            assert not done or (after and number == len(OBJECTS) + 1)
            assert requests.capture_threads() == []
            continue
        assert requests.read_back(store, found.report) == CONTENT
        break
    # One look before, one put for each object.
    assert number == len(OBJECTS) + 2
