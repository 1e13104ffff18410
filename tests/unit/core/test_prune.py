# SPDX-License-Identifier: Apache-2.0
"""Deleting snapshots, and their garbage."""

import dataclasses
import uuid

import hypothesis
import pytest
from hypothesis import strategies as st

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core import prune
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import memory
from tests import faults
from tests import uncommitted
from tests.uncommitted import HOUR
from tests.uncommitted import KEY
from tests.uncommitted import LINEAGE

OTHER = layout.Lineage(str(uuid.uuid4()), str(uuid.uuid4()))


@pytest.fixture
def world():
    return uncommitted.World(memory.MemoryStore())


def own(intent, name=''):
    return layout.attempt_prefix(intent.lineage, intent.snapshot) + name


# Deleting

def test_delete_takes_manifest_and_image(world):
    first = world.take([1, 2])
    before = world.names()
    assert world.delete(first) == first
    assert before - world.names() == {
        first.image.name, layout.manifest_name(LINEAGE, first.id)}
    with pytest.raises(errors.SnapshotMissing):
        world.delete(first)


def test_delete_refuses_what_is_being_restored(world):
    first = world.take([1])
    operation = str(uuid.uuid4())
    lease.put(world.store, OTHER, lease.Lease(
        operation, first.id, world.now + HOUR))
    with pytest.raises(errors.SnapshotInUse, match=operation):
        world.delete(first)
    lease.delete(world.store, OTHER, operation)
    world.delete(first)


def test_delete_refuses_a_parent_in_use(world):
    first = world.take([1])
    intent = world.upload([1, 2], first, lineage=OTHER)
    world.lease(intent)
    with pytest.raises(errors.SnapshotInUse) as caught:
        world.delete(first)
    assert caught.value.user == intent.snapshot
    assert '2027-01-15T09:00:00Z' in str(caught.value)
    assert world.listed() == [first]
    world.now += HOUR
    world.delete(first)


def test_delete_does_not_mind_other_leases(world):
    first = world.take([1])
    second = world.take([1, 2], first)
    world.lease(world.upload([3], second))
    # Left behind by a commit.
    lease.put(world.store, LINEAGE, lease.Lease(
        second.id, first.id, world.now + HOUR))
    lease.put(world.store, OTHER, lease.Lease(
        str(uuid.uuid4()), None, world.now + HOUR))
    world.delete(first)
    assert world.listed() == [second]


@pytest.mark.parametrize('data', [b'', b'{}', b'{"version":9}'])
def test_delete_takes_a_damaged_one(world, data):
    first = world.take([1])
    world.store.put(layout.manifest_name(LINEAGE, first.id), data)
    intent = world.upload([1, 2], first)
    world.lease(intent)
    with pytest.raises(errors.SnapshotInUse):
        world.delete(first)
    lease.delete(world.store, LINEAGE, intent.snapshot)
    assert world.delete(first) is None
    assert world.listed() == []


def test_delete_is_cut_short(world):
    first = world.take([1])
    broken = faults.Faults()
    broken.on('delete', 'disk.qcow2').raise_(errors.StoreUnavailable)
    with pytest.raises(errors.StoreUnavailable):
        prune.delete(faults.FaultyStore(world.store, broken), LINEAGE,
                     first.id, KEY, world.now)
    assert world.listed() == []
    assert first.image.name in world.names()
    world.prune()
    assert world.names() == set()


# Pruning

def test_restores_go_with_their_lineage(world):
    first = world.take([1])
    intent = world.upload([2], lineage=OTHER)
    world.lease(intent)
    names = {layout.restore_name(lineage, str(uuid.uuid4()))
             for lineage in (LINEAGE, LINEAGE, OTHER)}
    for name in names:
        world.store.put(name, b'whatever it says')
    world.prune()
    assert names <= world.names()
    world.delete(first)
    lease.delete(world.store, OTHER, intent.snapshot)
    world.prune()
    assert world.names() == set()


def test_nothing_is_deleted_while_what_is_restored_is_gone(world):
    world.take([1])
    operation = str(uuid.uuid4())
    lease.put(world.store, OTHER, lease.Lease(
        operation, str(uuid.uuid4()), world.now + HOUR))
    held, = world.prune().held
    assert held.startswith(f'{operation} is being captured or restored')


def test_nothing_to_do(world):
    assert world.prune() == prune.Pruned(0, 0, 0, 0)
    first = world.take([1, 2, 3])
    world.take([1, 2, 4], first)
    world.prune()
    before = world.names()
    assert world.prune() == prune.Pruned(0, 0, 0, 0)
    assert world.names() == before
    world.assert_all_whole()


def test_what_a_commit_leaves(world):
    intent = world.upload([1])
    world.lease(intent)
    for name in ('checkpoint-000001', 'checkpoint-000002', 'else/what'):
        world.store.put(own(intent, name), b'x')
    found = world.commit(intent)
    assert world.prune() == prune.Pruned(0, 0, 0, 4)
    lease.delete(world.store, LINEAGE, intent.snapshot)
    assert world.prune().deleted == 4
    assert world.names() == {
        *catalogue.objects(found), layout.manifest_name(LINEAGE, found.id)}


def test_garbage_is_condemned_first(world):
    intent = world.upload([1, 2, 3])
    names = world.names()
    size = sum(world.store.stat(name).size for name in names)
    found = world.prune(HOUR)
    assert found == prune.Pruned(0, 0, len(names), 0)
    assert prune.condemned(world.store) == names == {
        name for name in world.names() if own(intent) in name}
    world.now += HOUR - 1
    assert world.prune(HOUR) == found
    world.now += 1
    assert world.prune(HOUR) == prune.Pruned(len(names), size, 0, 0)
    assert world.names() == set()
    assert prune.condemned(world.store) == frozenset()


def test_all_of_it_is_condemned_before_anything_is_deleted(world):
    names = (world.upload([1, 2, 3]), world.names())[1]
    seen = faults.Faults()
    prune.prune(faults.FaultyStore(world.store, seen), KEY, world.now, 0,
                workers=1)
    deleted = [call for call in seen.calls if call[0] == 'delete']
    assert {name for _, name in deleted} == {*names, layout.CONDEMNED}
    before = seen.calls[:seen.calls.index(deleted[0])]
    put = before.index(('put', layout.CONDEMNED))
    # A mark made anew, in this order.
    assert ('list', 'v1/') in before[put:]
    kinds = ['manifest' if '/snapshots/' in name else 'lease'
             for operation, name in before[put:]
             if operation == 'get' and name != layout.CONDEMNED]
    assert kinds == ['lease', 'manifest']


def test_what_is_needed_again_is_spared(world):
    intent = world.upload([1])
    world.prune(HOUR)
    world.now += HOUR
    world.lease(intent)
    assert world.prune(HOUR) == prune.Pruned(
        0, 0, 0, len(world.names(own(intent))))
    assert prune.condemned(world.store) == frozenset()
    world.assert_whole(world.commit(intent))


@pytest.mark.parametrize('grace', [1, 59, 3599, -1, float('nan')])
def test_a_grace_that_is_too_short(world, grace):
    with pytest.raises(errors.InvalidValue, match='grace'):
        world.prune(grace)


def test_a_date_in_the_future_counts_from_now(world):
    world.upload([1])
    world.now += 10 * 365 * 24 * HOUR
    world.prune(HOUR)
    world.now = uncommitted.NOW
    assert world.prune(HOUR).deleted == 0
    world.now += HOUR
    assert world.prune(HOUR).deleted > 0


def test_a_damaged_document_is_begun_anew(world):
    world.upload([1])
    world.prune(HOUR)
    data = world.store.get(layout.CONDEMNED, 2 ** 20)
    world.store.put(layout.CONDEMNED, data.replace(b'18', b'17', 1))
    with pytest.raises(errors.Corrupted, match='v1/condemned'):
        prune.condemned(world.store)
    world.now += 2 * HOUR
    assert world.prune(HOUR).deleted == 0
    assert prune.condemned(world.store)
    world.now += HOUR
    assert world.prune(HOUR).condemned == 0


def test_nobody_commits_while_what_is_condemned_is_unknown(world):
    intent = world.upload([1])
    world.store.put(layout.CONDEMNED, b'x')
    with pytest.raises(errors.Corrupted, match='v1/condemned'):
        world.commit(intent)
    assert world.listed() == []


def damaged(world):
    first = world.take([1])
    name = layout.manifest_name(LINEAGE, first.id)
    world.store.put(name, world.store.get(name, 2 ** 20)[:-1])
    return first.id


def newer(world):
    first = world.take([1])
    data = dataclasses.replace(first, version=2).to_bytes(KEY)
    world.store.put(layout.manifest_name(LINEAGE, first.id), data)
    return first.id


def orphan(world):
    first = world.take([1])
    world.lease(world.upload([1, 2], first))
    world.store.delete(layout.manifest_name(LINEAGE, first.id))
    return first.id


@pytest.mark.parametrize('what', [damaged, newer, orphan])
@pytest.mark.parametrize('lineage', [LINEAGE, OTHER])
def test_on_doubt_nothing_is_deleted(world, what, lineage):
    world.upload([5], lineage=lineage)
    world.prune(HOUR)
    world.now += HOUR
    cause = what(world)
    before = world.names()
    found = world.prune(HOUR)
    assert found.deleted == 0
    assert [cause in each for each in found.held] == [True]
    assert world.names() == before


def test_with_another_key_nothing_is_deleted(world):
    for _ in range(3):
        world.take([1, 2])
    world.upload([5])
    found = prune.prune(world.store, b'another', world.now, 0)
    assert found.deleted == found.condemned == 0
    assert len(found.held) == 3
    world.assert_all_whole()


def test_doubt_that_comes_late(world):
    # Between the two marks.
    first = world.take([1])
    world.upload([5])
    name = layout.manifest_name(LINEAGE, first.id)
    late = faults.Faults()
    late.on('put', layout.CONDEMNED).call(
        lambda: world.store.put(name, b'x'))
    found = prune.prune(
        faults.FaultyStore(world.store, late), KEY, world.now, 0)
    assert found.deleted == 0 and found.condemned > 0 and found.held


def test_a_damaged_lease_keeps_its_attempt(world):
    intent = world.upload([1, 2])
    world.store.put(layout.lease_name(LINEAGE, intent.snapshot), b'x')
    world.now += 10 ** 9
    assert world.prune() == prune.Pruned(
        0, 0, 0, len(world.names(own(intent))))
    world.assert_whole(world.commit(intent))


def test_expired_leases_go_a_grace_later(world):
    intent = world.upload([1])
    world.lease(intent)
    name = layout.lease_name(LINEAGE, intent.snapshot)
    for later, there in ((HOUR, True), (HOUR - 1, True), (1, False)):
        world.now += later
        world.prune(HOUR)
        assert (name in world.names()) is there


def test_others_objects_are_left_alone(world):
    names = {
        'v1/README', 'v1/x/y/attempts/z/pack-000001', 'other',
        f'{LINEAGE.prefix}notes/{OTHER.node}',
        f'{LINEAGE.prefix}snapshots/{OTHER.node}/signature'}
    for name in names:
        world.store.put(name, b'x')
    world.prune()
    assert world.names() == names - {'other'}
    world.store.stat('other')


def test_parts_of_a_large_image_live_as_long_as_it(world):
    first = world.take([1])
    part = first.image.name + '.segments/000001'
    world.store.put(part, b'x')
    assert part not in world.prune().held
    assert part in world.names()
    world.delete(first)
    world.prune()
    assert world.names() == set()


class LaggingStore(memory.MemoryStore):
    """Its listing does not yet have some objects."""

    hidden = ()

    def list(self, prefix):
        return (info for info in super().list(prefix)
                if not info.name.endswith(tuple(self.hidden)))


@pytest.mark.parametrize('hidden', [
    ['manifest'], ['manifest', 'disk.qcow2'], ['/map', 'manifest']])
def test_a_listing_without_manifests_is_not_believed(hidden):
    world = uncommitted.World(LaggingStore())
    world.take([1, 2])
    world.prune()
    world.store.hidden = hidden
    assert world.prune() == prune.Pruned(0, 0, 0, 0)
    world.store.hidden = ()
    world.assert_all_whole()


def test_a_listing_without_leases_is_not_believed():
    world = uncommitted.World(LaggingStore())
    intent = world.upload([1])
    world.lease(intent)
    world.store.hidden = [f'leases/{intent.snapshot}']
    assert world.prune().kept_for_leases > 0
    world.assert_whole(world.commit(intent))


@pytest.mark.parametrize('operation', ['list', 'get', 'put', 'delete'])
def test_cut_short_at_each_call(operation):
    calls = 0
    while True:
        world = uncommitted.World(memory.MemoryStore())
        first = world.take([1, 2, 3])
        second = world.take([1, 2, 4], first)
        world.delete(first)
        broken = faults.Faults()
        fault = broken.on(operation).after(calls).raise_(
            errors.StoreUnavailable)
        try:
            prune.prune(faults.FaultyStore(world.store, broken), KEY,
                        world.now, 0, workers=1)
        except errors.StoreUnavailable:
            pass
        world.assert_whole(second)
        world.prune()
        assert world.names() == {
            *catalogue.objects(second),
            layout.manifest_name(LINEAGE, second.id)}
        if not fault.fired:
            break
        calls += 1
    assert calls


def test_no_more_than_fits_the_document(world, monkeypatch):
    monkeypatch.setattr(prune, 'MAX_CONDEMNED', 3)
    world.upload([1, 2, 3])
    names = world.names()
    assert world.prune(HOUR).condemned == 3
    for left in range(len(names), 0, -3):
        assert world.prune().deleted == min(3, left)
    assert world.names() == set()


# Generations

@hypothesis.settings(max_examples=30)
@hypothesis.given(st.data())
def test_a_deleted_generation_never_changes_the_others(data):
    world = uncommitted.World(memory.MemoryStore())
    alive = []
    numbers = st.lists(st.integers(0, 6), min_size=1, max_size=6)
    for _ in range(data.draw(st.integers(2, 6), 'generations')):
        parent = data.draw(st.sampled_from([None, *alive]), 'parent')
        lineage = data.draw(st.sampled_from([LINEAGE, OTHER]), 'lineage')
        alive.append(world.take(
            data.draw(numbers, 'disk'), parent, lineage=lineage))
        if data.draw(st.booleans(), 'delete one'):
            gone = data.draw(st.sampled_from(alive), 'which')
            alive.remove(gone)
            world.delete(gone)
        if data.draw(st.booleans(), 'prune'):
            world.prune()
        assert {each.id for each in world.listed()} == {
            each.id for each in alive}
        world.assert_all_whole()
    world.prune()
    world.assert_all_whole()
    # Nothing else is left.
    assert world.names() == {
        name for each in alive for name in (
            *catalogue.objects(each),
            layout.manifest_name(each.lineage, each.id))}
    # Its image reads as the disk's head and packs do.
    for each in alive:
        info = world.store.stat(each.image.name)
        assert (info.kind, info.size) == (base.IMAGE, each.image.size)
