# SPDX-License-Identifier: Apache-2.0
"""Choosing a parent."""

import dataclasses
import uuid

import pytest

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core import parent
from ironic_snapshot_core import prune
from ironic_snapshot_core.store import memory
from tests import faults
from tests import uncommitted
from tests.uncommitted import C
from tests.uncommitted import KEY
from tests.uncommitted import LINEAGE

WANTED = parent.Wanted(C, 'zstd', 'blake3-256', 'p', False)
OTHER = layout.Lineage(str(uuid.uuid4()), str(uuid.uuid4()))


@pytest.fixture
def world():
    return uncommitted.World(memory.MemoryStore())


def take(world, number=1, **facts):
    return world.take([number], **{'project': 'p', **facts})


def choose(world, asked='auto', **changes):
    return parent.choose(world.store, LINEAGE, asked, dataclasses.replace(
        WANTED, **changes), KEY)


def rewrite(world, snapshot, **changes):
    """Replace a manifest by one that is as good."""
    found = dataclasses.replace(snapshot, **changes)
    world.store.put(layout.manifest_name(snapshot.lineage, snapshot.id),
                    found.to_bytes(KEY))
    return found


def damage(world, snapshot):
    name = layout.manifest_name(snapshot.lineage, snapshot.id)
    world.store.put(name, world.store.get(name, 2 ** 20)[:-1])


def condemn(world, *names):
    world.store.put(layout.CONDEMNED, document.encode(
        prune.Condemned(dict.fromkeys(names, 5))))


# Auto

def test_none(world):
    take(world)
    assert choose(world, 'none') == parent.Choice(None, 'asked for')


def test_the_first_of_its_lineage(world):
    world.take([1], lineage=OTHER, project='p')
    assert choose(world) == parent.Choice(
        None, 'it is the first of its lineage')


def test_the_latest(world):
    first, second = take(world), take(world, 2)
    assert choose(world) == parent.Choice(second, None)
    world.delete(second)
    assert choose(world) == parent.Choice(first, None)


def test_the_highest_sequence_is_told(world):
    assert choose(world).latest == 0
    take(world, sequence=7, project='other')
    take(world, 2, sequence=3)
    damage(world, take(world, 3, sequence=9))
    assert choose(world).latest == 7
    assert choose(world, 'none').latest is None


def test_of_two_with_the_same_sequence_the_later_one(world):
    both = [take(world, number, sequence=7) for number in (1, 2)]
    assert choose(world).manifest == both[1]
    # Of the same second as well.
    both[0] = rewrite(world, both[0], created_at=both[1].created_at)
    assert choose(world).manifest == max(both, key=lambda each: each.id)


UNSUITABLE = [
    ({'cluster_size': 2 * C}, 'has clusters of 65536 bytes instead of 131072'),
    ({'codec': 'none'}, 'is compressed with zstd, not none'),
    ({'digest': 'other'}, 'has digests of blake3-256, not other'),
]


@pytest.mark.parametrize('changes, reason', UNSUITABLE)
def test_none_that_will_do(world, changes, reason):
    take(world)
    latest = take(world, 2)
    assert choose(world, **changes) == parent.Choice(
        None, f'the latest snapshot {latest.id} {reason}')
    with pytest.raises(errors.ParentUnsuitable, match=reason):
        choose(world, latest.id, **changes)


def degrade(world, snapshot):
    return rewrite(world, snapshot,
                   unreadable=(manifest.Unreadable(0, 512),))


def test_a_degraded_one(world):
    first = take(world)
    second = degrade(world, take(world, 2))
    assert choose(world).manifest == first
    assert choose(world, allow_degraded=True).manifest == second
    assert choose(world, second.id, allow_degraded=True).manifest == second
    with pytest.raises(errors.ParentUnsuitable, match='it is degraded'):
        choose(world, second.id)
    world.delete(first)
    assert choose(world).reason == (
        f'the latest snapshot {second.id} is degraded')


def test_a_damaged_one(world):
    first, second = take(world), take(world, 2)
    damage(world, second)
    assert choose(world).manifest == first
    with pytest.raises(errors.ParentUnsuitable, match='it is damaged'):
        choose(world, second.id)
    world.delete(first)
    assert f'the latest snapshot {second.id} is damaged (' in (
        choose(world).reason)


def test_one_of_a_newer_release(world):
    newer = take(world)
    rewrite(world, newer, version=2)
    assert 'has version 2' in choose(world).reason
    with pytest.raises(errors.ParentUnsuitable, match='has version 2'):
        choose(world, newer.id)


def test_one_that_was_written_with_another_key(world):
    found = take(world)
    world.store.put(layout.manifest_name(LINEAGE, found.id),
                    found.to_bytes(b'another key'))
    assert 'another key' in choose(world).reason


@pytest.mark.parametrize('number', [0, 2, -1])
def test_a_condemned_one(world, number):
    found = take(world)
    condemn(world, sorted(catalogue.objects(found))[number])
    assert choose(world).reason == (
        f'the latest snapshot {found.id} is condemned')
    with pytest.raises(errors.ParentUnsuitable, match='it is condemned'):
        choose(world, found.id)
    assert 'is condemned' in parent.check(world.store, found, KEY)


def test_one_of_another_project_is_as_good_as_none(world):
    other = take(world, project='q')
    assert choose(world).reason == 'it is the first of its lineage'
    missing = str(uuid.uuid4())
    texts = set()
    for asked in (other.id, missing):
        with pytest.raises(errors.ParentUnsuitable) as caught:
            choose(world, asked)
        texts.add(str(caught.value).replace(asked, ''))
    assert len(texts) == 1


# Named

def test_one_of_this_lineage_needs_no_listing(world):
    found = take(world)
    slow = faults.Faults()
    store = faults.FaultyStore(world.store, slow)
    assert parent.choose(
        store, LINEAGE, found.id, WANTED, KEY).manifest == found
    assert 'list' not in {operation for operation, _ in slow.calls}


def test_one_of_another_lineage(world):
    other = world.take([1], lineage=OTHER, project='p')
    take(world)
    assert choose(world, other.id) == parent.Choice(other, None)


@pytest.mark.parametrize('asked', ['x', '', '../x', 'AUTO'])
def test_what_is_no_id(world, asked):
    with pytest.raises(errors.ParentUnsuitable, match='no such snapshot'):
        choose(world, asked)


def test_a_copy_elsewhere_does_no_harm(world):
    found = take(world)
    world.store.put(
        layout.manifest_name(OTHER, found.id),
        world.store.get(layout.manifest_name(LINEAGE, found.id), 2 ** 20))
    assert catalogue.find(world.store, found.id, KEY) == found
    world.store.delete(layout.manifest_name(LINEAGE, found.id))
    with pytest.raises(errors.Corrupted, match='another snapshot'):
        catalogue.find(world.store, found.id, KEY)


# Checked again

def test_check(world):
    found = take(world)
    assert parent.check(world.store, found, KEY) is None
    rewrite(world, found, description='changed')
    assert parent.check(world.store, found, KEY) == 'has been replaced'
    damage(world, found)
    assert 'is damaged (' in parent.check(world.store, found, KEY)
    world.delete(found)
    assert parent.check(world.store, found, KEY) == 'has been deleted'
