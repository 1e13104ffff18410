# SPDX-License-Identifier: Apache-2.0
"""Finding the snapshot that a person means."""

import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core.store import memory
from ironic_snapshot_cli import selection
from tests.unit.cli import snapshots

LINEAGE = snapshots.LINEAGE
FIRST = 'aaaaaaaa-1000-4000-8000-000000000001'
SECOND = 'aaaaaaaa-2000-4000-8000-000000000002'
THIRD = 'dddddddd-3000-4000-8000-000000000003'
DAMAGED = 'eeeeeeee-4000-4000-8000-000000000004'


def make(id, name):
    return snapshots.make(name, id=id)


@pytest.fixture
def store():
    found = memory.MemoryStore()
    for id, name in ((FIRST, 'daily'), (SECOND, 'daily'), (THIRD, 'gold')):
        found.put(
            layout.manifest_name(LINEAGE, id), make(id, name).to_bytes(None)
        )
    found.put(layout.manifest_name(LINEAGE, DAMAGED), b'{}')
    return found


@pytest.mark.parametrize(
    'wanted, found',
    [
        (FIRST, FIRST),
        ('aaaaaaaa-1', FIRST),
        ('AAAAAAAA-2', SECOND),
        ('dddd', THIRD),
        ('gold', THIRD),
    ],
)
def test_one_is_found(store, wanted, found):
    assert selection.find(store, wanted).id == found


@pytest.mark.parametrize('wanted', ['ddd', 'ffff', 'Gold', '', 'gol'])
def test_none_is_found(store, wanted):
    with pytest.raises(errors.SnapshotMissing):
        selection.find(store, wanted)


@pytest.mark.parametrize('wanted', ['aaaa', 'daily'])
def test_several_are_named(store, wanted):
    with pytest.raises(errors.SnapshotAmbiguous) as caught:
        selection.find(store, wanted)
    assert caught.value.found == (FIRST, SECOND)


def test_a_damaged_one_says_so(store):
    with pytest.raises(errors.Corrupted, match=DAMAGED):
        selection.find(store, 'eeee')


def test_a_name_may_look_like_the_beginning_of_an_id(store):
    cafe = make(FIRST, 'cafe').to_bytes(None)
    store.put(layout.manifest_name(LINEAGE, FIRST), cafe)
    assert selection.find(store, 'cafe').id == FIRST


def test_ids_are_shown_as_long_as_need_be():
    assert selection.short_length([FIRST, THIRD]) == 8
    assert selection.short_length([FIRST, SECOND]) == 10
    assert selection.short_length([FIRST, FIRST]) == 8
