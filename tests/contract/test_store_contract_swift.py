# SPDX-License-Identifier: Apache-2.0
"""SwiftStore keeps the contract, against a real Swift."""

import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_core import grant
from ironic_snapshot_core.store import auth
from ironic_snapshot_core.store import retry
from ironic_snapshot_core.store import swift as swift_store
from ironic_snapshot_core.units import MiB
from tests.contract import store_contract


class TestSwiftStoreWithToken(store_contract.StoreContract):

    @pytest.fixture
    def store(self, container):
        return container.store()


class TestRetryingSwiftStoreThroughBadWeather(store_contract.StoreContract):
    """With each fourth request failing somehow, it is still a store."""

    @pytest.fixture
    def store(self, container, proxy):
        for nth in range(1, 200, 4):
            proxy.rule(nth=nth, **(
                {'status': 503}, {'cut': 'before'}, {'cut': 'after'},
                {'status': 500, 'headers': {'Retry-After': '0'}},
            )[nth // 4 % 4])
        return retry.RetryingStore(
            container.through(proxy).store(),
            retry.RetryPolicy(base_s=0.001, cap_s=0.01))


def everything(container, method):
    """Give a store with a grant for the whole container.

    For the contract only: a grant like this cannot be minted.
    """
    secret = grant.sign(
        container.key, method, container.path, container.expires, '')
    return swift_store.SwiftStore(container.url, auth.GrantAuth(grant.Grant(
        container.url, container.expires,
        (grant.Permission(method, '', secret),))))


class TestSwiftStoreWithGetGrant(store_contract.ReadContract):

    @pytest.fixture
    def store(self, container):
        return everything(container, 'GET')

    @pytest.fixture
    def fill(self, container):
        return container.store().put

    def test_nothing_else_is_possible(self, store, fill):
        one = fill('a', b'0123')
        for call in (lambda: store.put('b', b''),
                     lambda: store.delete('a'),
                     lambda: list(store.list('')),
                     lambda: store.join(
                         'image', [store_contract.segment(one)])):
            with pytest.raises(errors.NotSupported):
                call()


class TestSwiftStoreWithPutGrant(store_contract.WriteContract):

    @pytest.fixture
    def store(self, container):
        return everything(container, 'PUT')

    @pytest.fixture
    def look(self, container):
        return lambda name: container.store().get(name, 64 * MiB)

    def test_stat_is_possible(self, store):
        info = store.put('a', b'0123')
        assert store.stat('a') == info

    def test_nothing_else_is_possible(self, store):
        one = store.put('a', b'0123')
        for call in (lambda: store.get('a', 4),
                     lambda: store.get_range('a', 0, 1),
                     lambda: list(store.iter_bytes('a')),
                     lambda: store.delete('a'),
                     lambda: list(store.list('')),
                     lambda: store.join(
                         'image', [store_contract.segment(one)])):
            with pytest.raises(errors.NotSupported):
                call()
