# SPDX-License-Identifier: Apache-2.0
"""Leases of attempts that are under way."""

import logging

import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core.store import memory
from tests import faults

A = 'aaaaaaaa-0000-4000-8000-000000000001'
B = 'bbbbbbbb-0000-4000-8000-000000000002'
C = 'cccccccc-0000-4000-8000-000000000003'
LINEAGE = layout.Lineage(B, C)
OTHER = layout.Lineage(C, B)
LEASE = lease.Lease(A, B, 1000)


@pytest.fixture
def store():
    return memory.MemoryStore()


def test_a_lease_comes_and_goes(store):
    assert lease.get(store, LINEAGE, A) is None
    lease.put(store, LINEAGE, LEASE)
    assert lease.get(store, LINEAGE, A) == LEASE
    longer = lease.Lease(A, None, 2000)
    lease.put(store, LINEAGE, longer)
    assert lease.get(store, LINEAGE, A) == longer
    lease.delete(store, LINEAGE, A)
    assert lease.get(store, LINEAGE, A) is None
    lease.delete(store, LINEAGE, A)


def test_it_expires():
    assert not LEASE.expired(999.9)
    assert LEASE.expired(1000)


@pytest.mark.parametrize('fields', [
    ('x', None, 1), (A, 'x', 1), (A, None, -1), (A, None, 1, 2)])
def test_what_is_no_lease(fields):
    with pytest.raises((errors.InvalidName, errors.InvalidValue)):
        lease.Lease(*fields)


def test_all_of_them(store):
    lease.put(store, LINEAGE, LEASE)
    lease.put(store, OTHER, lease.Lease(C, None, 5))
    store.put(layout.manifest_name(LINEAGE, A), b'x')
    store.put('v1/condemned', b'x')
    assert list(lease.entries(store)) == [
        (LINEAGE, LEASE), (OTHER, lease.Lease(C, None, 5))]
    assert list(lease.entries(store, OTHER.prefix)) == [
        (OTHER, lease.Lease(C, None, 5))]


@pytest.mark.parametrize('damage', [
    lambda data: b'', lambda data: b'{}', lambda data: b'x' * 5000,
    lambda data: data.replace(b'1000', b'1001'),
    lambda data: data.replace(b'"version":1', b'"version":2'),
    lambda data: data.replace(A.encode(), C.encode())])
def test_a_damaged_one_never_expires(store, damage, caplog):
    lease.put(store, LINEAGE, LEASE)
    name = layout.lease_name(LINEAGE, A)
    store.put(name, damage(store.get(name, 5000)))
    found = lease.get(store, LINEAGE, A)
    assert (found.snapshot, found.parent) == (A, None)
    assert not found.expired(10 ** 15)
    assert list(lease.entries(store)) == [(LINEAGE, found)]
    assert name in caplog.records[0].getMessage()
    assert caplog.records[0].levelno == logging.WARNING


def test_one_of_another_attempt_never_expires(store):
    lease.put(store, LINEAGE, LEASE)
    data = store.get(layout.lease_name(LINEAGE, A), 5000)
    store.put(layout.lease_name(LINEAGE, C), data)
    assert not lease.get(store, LINEAGE, C).expired(10 ** 15)


def test_one_that_goes_while_it_is_listed(store):
    lease.put(store, LINEAGE, LEASE)
    gone = faults.Faults()
    gone.on('get', '/leases/').raise_(errors.ObjectMissing)
    assert list(lease.entries(faults.FaultyStore(store, gone))) == []
    gone.assert_all_fired()


def test_a_store_that_does_not_answer_has_no_lease_to_give(store):
    lease.put(store, LINEAGE, LEASE)
    down = faults.Faults()
    down.on('get', '/leases/').raise_(errors.StoreUnavailable)
    with pytest.raises(errors.StoreUnavailable):
        lease.get(faults.FaultyStore(store, down), LINEAGE, A)
