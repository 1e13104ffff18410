# SPDX-License-Identifier: Apache-2.0
"""The tests' own tool does what it says."""

import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_core.store import memory
from tests import faults


@pytest.fixture
def injected():
    return faults.Faults()


@pytest.fixture
def store(injected):
    return faults.FaultyStore(memory.MemoryStore(), injected)


def test_a_fault_that_never_fired_fails_the_test(injected, store):
    injected.on('get')
    store.put('a', b'')
    with pytest.raises(AssertionError, match='never fired'):
        injected.assert_all_fired()


def test_the_nth_call_of_any_kind(injected, store):
    injected.on('*').after(2).raise_(errors.StoreUnavailable)
    store.put('a', b'')
    store.stat('a')
    with pytest.raises(errors.StoreUnavailable):
        store.stat('a')
    store.stat('a')
    injected.assert_all_fired()


def test_only_names_that_match(injected, store):
    injected.on('put', 'pack-').raise_(errors.StoreFull)
    store.put('index', b'')
    with pytest.raises(errors.StoreFull):
        store.put('pack-000001', b'')


def test_before_nothing_is_done_and_after_everything(injected, store):
    injected.on('put', 'a').raise_(errors.StoreUnavailable)
    injected.on('put', 'b').raise_(errors.StoreUnavailable).when_applied()
    for name in 'ab':
        with pytest.raises(errors.StoreUnavailable):
            store.put(name, b'')
    assert [info.name for info in store.list('')] == ['b']


def test_bytes_change_both_ways(injected, store):
    injected.on('put').flip_bit(1)
    store.put('a', b'\0\0\0\0')
    assert store.get('a', 4) == b'\0\1\0\0'
    injected.on('get').short_by(3)
    assert store.get('a', 4) == b'\0'
