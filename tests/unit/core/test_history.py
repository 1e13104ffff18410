# SPDX-License-Identifier: Apache-2.0
"""The restores that a disk has seen."""

import dataclasses

import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_core import history
from ironic_snapshot_core import layout
from ironic_snapshot_core.manifest import NodeRecord
from ironic_snapshot_core.store.memory import MemoryStore
from tests.unit.core import test_manifest as manifests

KEY = b'a key of the conductors'
RESTORE = history.Restore(
    operation=manifests.OLDER, snapshot=manifests.A,
    lineage=manifests.LINEAGE, node=NodeRecord(manifests.B, 'node-1', None),
    project='p', verb=history.ROLLBACK, identity='keep',
    before=manifests.PARENT, started_at='2026-01-31T12:00:00Z',
    restored_at='2026-01-31T12:10:00Z', totals={'written_bytes': 7},
    degraded=False)
NAME = layout.restore_name(manifests.LINEAGE, manifests.OLDER)


@pytest.mark.parametrize('key', [None, KEY])
def test_comes_back(key):
    store = MemoryStore()
    history.put(store, manifests.LINEAGE, RESTORE, key)
    assert history.entries(store, key) == [(manifests.LINEAGE, RESTORE)]
    # Whoever has another key, or none, does not take it for true.
    assert history.entries(store, None if key else KEY) == []


def test_the_earliest_first():
    store = MemoryStore()
    times = ['2026-01-31T12:10:00Z', '2025-01-31T12:10:00Z',
             '2027-01-31T12:10:00Z']
    for time, id in zip(times, (manifests.A, manifests.B, manifests.C),
                        strict=True):
        history.put(store, manifests.LINEAGE, dataclasses.replace(
            RESTORE, operation=id, restored_at=time), KEY)
    assert [each.restored_at for _, each in history.entries(
        store, KEY)] == sorted(times)


def test_what_is_none_is_passed_over():
    store = MemoryStore()
    history.put(store, manifests.LINEAGE, RESTORE, KEY)
    data = bytearray(store.get(NAME, 10_000))
    # Of another restore, damaged, too large, and nothing of ours.
    store.put(layout.restore_name(manifests.LINEAGE, manifests.C), data)
    data[30] ^= 1
    store.put(layout.restore_name(manifests.LINEAGE, manifests.B), data)
    store.put(layout.restore_name(manifests.LINEAGE, manifests.A),
              b' ' * 100_000)
    store.put('other', b'x')
    assert history.entries(store, KEY) == [(manifests.LINEAGE, RESTORE)]
    assert history.entries(store, KEY, 'v1/none/') == []


@pytest.mark.parametrize('field, value', [
    ('operation', 'x'), ('snapshot', 'x'), ('before', 'x'),
    ('started_at', 'yesterday'), ('restored_at', ''), ('version', 2)])
def test_nonsense_is_refused(field, value):
    with pytest.raises((errors.InvalidName, errors.InvalidValue)):
        dataclasses.replace(RESTORE, **{field: value})
