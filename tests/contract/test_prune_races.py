# SPDX-License-Identifier: Apache-2.0
"""Captures, commits, deletions and prunes at a time, in every order."""

import collections
import functools
import threading
from concurrent import futures

import pytest

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core import manifest
from ironic_snapshot_core import parent as parents
from ironic_snapshot_core import prune
from ironic_snapshot_core.store import directory
from tests import faults
from tests import interleavings
from tests import uncommitted
from tests.interleavings import Actor
from tests.uncommitted import HOUR
from tests.uncommitted import KEY
from tests.uncommitted import NOW

#: Between two prunes.
LATER = 'v1/later'


@pytest.fixture(params=['memory', 'directory'])
def make_store(request, tmp_path):
    """Make a new, empty store whenever it is called."""
    numbers = iter(range(10_000))

    def make():
        if request.param == 'memory':
            return interleavings.CopyableStore()
        path = tmp_path / str(next(numbers))
        path.mkdir()
        return directory.DirectoryStore(path)
    return make


class Scene:
    """A parent, and a child that is not yet captured.

    They share the first cluster; the second is the parent's, the third the
    child's.
    """

    def __init__(self):
        self.world = uncommitted.World(
            interleavings.CopyableStore(), clusters=1)
        self.parent = self.world.take([1, 2])
        before = self.world.names()
        self.intent = self.world.upload([1, 3], self.parent)
        self.uploads = {name: self._read(name) for name in sorted(
            self.world.names() - before)}
        self.objects = {
            name: self._read(name) for name in sorted(before)
            if name != self.parent.image.name
            and not name.endswith(layout.REPORT)}
        #: Stands for all objects that both need.
        self.shared = (layout.attempt_prefix(
            self.parent.lineage, self.parent.id) + 'pack-000001')
        self.parent_manifest = layout.manifest_name(
            self.parent.lineage, self.parent.id)
        self.child_manifest = layout.manifest_name(
            self.intent.lineage, self.intent.snapshot)

    def fill(self, store):
        """Store the parent."""
        for name, data in self.objects.items():
            store.put(name, data)
        prefix = layout.attempt_prefix(self.parent.lineage, self.parent.id)
        attempt = self.world.history.attempts[self.parent.id]
        store.join(self.parent.image.name, [
            uncommitted.segment(store, prefix + name) for name in (
                layout.HEAD, *(pack.name for pack in attempt.packs))])
        return store

    def at(self, store):
        """Give the world with this store."""
        world = uncommitted.World(store)
        world.disks = self.world.disks
        return world

    # Actors

    def capture(self, store, expires=NOW + HOUR):
        self.begin(store, expires)
        try:
            self.upload(store)
            return self.world.commit(self.intent, store, workers=1)
        finally:
            self.end(store)

    def begin(self, store, expires=NOW + HOUR):
        lease.put(store, self.intent.lineage, lease.Lease(
            self.intent.snapshot, self.parent.id, expires))

    def upload(self, store):
        for name, data in self.uploads.items():
            store.put(name, data)

    def end(self, store):
        lease.delete(store, self.intent.lineage, self.intent.snapshot)

    def delete(self, store):
        return prune.delete(
            store, self.parent.lineage, self.parent.id, KEY, NOW)

    def prune(self, store):
        return prune.prune(store, KEY, NOW, 0, workers=1)

    def prune_twice(self, store):
        first = prune.prune(store, KEY, NOW, HOUR, workers=1)
        try:
            store.stat(LATER)
        except errors.ObjectMissing:
            pass
        return first, prune.prune(store, KEY, NOW + HOUR, HOUR, workers=1)

    def actors(self, expires=NOW + HOUR, pruner=None):
        """Give them with the calls that others could notice.

        Only the deletion takes the parent's manifest away, only the capture
        writes the child's, and only prune writes what is condemned. The
        first look of a commit at what is condemned saves work, no more.
        """
        def capture(operation, name, count):
            return (count > 0 if name in (
                        layout.CONDEMNED, self.parent_manifest)
                    else '/leases/' in name or name == self.shared
                    or (operation, name) == ('put', self.child_manifest))

        def delete(operation, name, count):
            # No lease could keep it, so nothing depends on when it looks.
            return (operation == 'list' and expires > NOW) or (
                (operation, name) == ('delete', self.parent_manifest))

        def prune(operation, name, count):
            return (operation == 'list' or '/leases/' in name
                    or name in (self.parent_manifest, self.child_manifest,
                                self.shared, LATER)
                    or (operation != 'get' and name == layout.CONDEMNED))
        return [
            Actor(functools.partial(self.capture, expires=expires), capture),
            Actor(self.delete, delete), Actor(pruner or self.prune, prune)]

    # Private

    def _read(self, name):
        return self.world.store.get(name, 2 ** 30)


@pytest.fixture(scope='module')
def scene():
    return Scene()


@pytest.fixture
def alone(monkeypatch):
    """Have nothing run beside an actor, and nothing parsed twice."""
    monkeypatch.setattr(
        futures, 'ThreadPoolExecutor', interleavings.OneByOne)
    for cls in (manifest.Manifest, manifest.CaptureReport):
        monkeypatch.setattr(
            cls, 'from_bytes', functools.cache(cls.from_bytes))


def assert_nothing_missing(store):
    for name in store.names:
        if name.endswith('/' + layout.MANIFEST):
            found = manifest.Manifest.from_bytes(
                store.get(name, 2 ** 30), KEY)
            missing = set(catalogue.objects(found)) - store.names
            # A snapshot that is being deleted loses its image last.
            assert not missing, f'{found.id} has lost {missing}'


def assert_all_or_nothing(world, intent, outcome):
    """The child is there and whole, or it is not there."""
    world.assert_all_whole()
    listed = [each.id for each in world.listed()]
    if isinstance(outcome, manifest.Manifest):
        assert intent.snapshot in listed
    else:
        assert isinstance(outcome, errors.Error)
        assert intent.snapshot not in listed


def kinds(outcomes):
    return tuple(type(each).__name__ for each in outcomes)


@pytest.mark.timeout(600)
def test_child_commits_while_its_parent_is_deleted_and_pruned(
        scene, alone, tmp_path):
    store = scene.fill(interleavings.CopyableStore())
    ends = list(interleavings.explore(
        store, scene.actors(), assert_nothing_missing))
    found = collections.Counter()
    for number, end in enumerate(ends):
        assert_all_or_nothing(
            scene.at(end.store), scene.intent, end.outcomes[0])
        found[kinds(end.outcomes)] += 1
        # The same on a disk.
        path = tmp_path / str(number)
        path.mkdir()
        other = scene.fill(directory.DirectoryStore(path))
        outcomes = interleavings.follow(other, scene.actors(), end.order)
        assert kinds(outcomes) == kinds(end.outcomes)
        assert_all_or_nothing(scene.at(other), scene.intent, outcomes[0])
    # All that can happen has happened, and nothing else.
    assert set(found) == {
        ('Manifest', 'Manifest', 'Pruned'),
        ('Manifest', 'SnapshotInUse', 'Pruned'),
        ('ParentGone', 'Manifest', 'Pruned')}
    assert any(pruned.held for _, _, pruned in (
        end.outcomes for end in ends))
    assert any(pruned.deleted and isinstance(child, manifest.Manifest)
               for child, _, pruned in (end.outcomes for end in ends))
    assert any(scene.shared not in end.store.names for end in ends)


@pytest.mark.timeout(600)
def test_grace_protects_where_a_lease_cannot(scene, alone):
    # The pruner's clock is ahead by more than the lease lasts.
    def enabled(actors, number):
        # A commit takes less than the grace.
        committing = actors[0].next in (
            f'get {layout.CONDEMNED}', f'get {scene.parent_manifest}',
            f'put {scene.child_manifest}')
        return not committing or actors[number].next != f'stat {LATER}'
    ends = list(interleavings.explore(
        scene.fill(interleavings.CopyableStore()),
        scene.actors(expires=NOW - 1, pruner=scene.prune_twice),
        assert_nothing_missing, enabled))
    found = collections.Counter()
    for end in ends:
        assert_all_or_nothing(
            scene.at(end.store), scene.intent, end.outcomes[0])
        found[kinds(end.outcomes)] += 1
    assert {key[0] for key in found} == {
        'Manifest', 'ParentGone', 'AttemptCondemned', 'ObjectMissing'}
    assert any(scene.shared not in end.store.names for end in ends)


# In threads


def in_thread(function):
    pool = futures.ThreadPoolExecutor(1)
    future = pool.submit(function)
    pool.shutdown(wait=False)
    return future


def outcome(future):
    return future.exception(30) or future.result()


def test_parent_is_deleted_before_the_capture_begins(scene, make_store):
    store = scene.fill(make_store())
    world = scene.at(store)
    wanted = parents.Wanted(uncommitted.C, 'zstd', 'blake3-256', None, False)
    chosen = parents.choose(
        store, scene.parent.lineage, 'auto', wanted, KEY)
    assert chosen.manifest == scene.parent
    barrier = threading.Barrier(2)

    def delete():
        scene.delete(store)
        barrier.wait(30)
    deletion = in_thread(delete)
    barrier.wait(30)
    scene.begin(store)
    assert parents.check(store, chosen.manifest, KEY) == 'has been deleted'
    again = parents.choose(
        store, scene.parent.lineage, 'auto', wanted, KEY)
    assert again == parents.Choice(None, 'it is the first of its lineage')
    # One that is captured all the same is not committed.
    scene.upload(store)
    with pytest.raises(errors.ParentGone, match='has been deleted'):
        world.commit(scene.intent)
    assert world.listed() == []
    assert outcome(deletion) is None


def test_parent_cannot_be_deleted_during_the_capture(scene, make_store):
    store = scene.fill(make_store())
    world = scene.at(store)
    scene.begin(store)
    scene.upload(store)
    refused = outcome(in_thread(lambda: scene.delete(store)))
    assert isinstance(refused, errors.SnapshotInUse)
    assert refused.user == scene.intent.snapshot
    child = world.commit(scene.intent)
    # The lease is still there, but nobody needs it any more.
    assert outcome(in_thread(lambda: scene.delete(store))) == scene.parent
    scene.end(store)
    world.prune()
    assert world.listed() == [child]
    world.assert_whole(child)


@pytest.mark.parametrize('pruned', [False, True])
def test_parent_is_deleted_during_the_capture(scene, make_store, pruned):
    # Whoever deletes has looked for leases before there was one.
    store = scene.fill(make_store())
    world = scene.at(store)
    looked, may_delete = threading.Event(), threading.Event()
    slow = faults.Faults()

    def wait():
        looked.set()
        assert may_delete.wait(30)
    slow.on('delete', '/manifest').call(wait)
    deletion = in_thread(
        lambda: scene.delete(faults.FaultyStore(store, slow)))
    assert looked.wait(30)
    scene.begin(store)
    assert parents.check(store, scene.parent, KEY) is None
    scene.upload(store)
    may_delete.set()
    assert outcome(deletion) == scene.parent
    if pruned:
        found = world.prune()
        assert found.deleted == 0
        assert scene.parent.id in found.held[0]
    with pytest.raises(errors.ParentGone, match='has been deleted'):
        world.commit(scene.intent)
    assert world.listed() == []
    # What it leaves is garbage when it has ended.
    scene.end(store)
    world.prune()
    assert world.names() == set()


@pytest.mark.parametrize('operation, match, committed', [
    ('join', 'disk.qcow2', False),
    ('stat', 'disk.qcow2', False),
    # Too late to be noticed, and nothing is lost.
    ('put', 'manifest', True),
])
def test_parent_is_deleted_just_before_the_commit(
        scene, make_store, operation, match, committed):
    store = scene.fill(make_store())
    world = scene.at(store)
    slow = faults.Faults()
    barrier = threading.Barrier(2)
    slow.on(operation, match).call(
        lambda: [barrier.wait(30), barrier.wait(30)])
    scene.begin(store)
    scene.upload(store)
    committing = in_thread(lambda: world.commit(
        scene.intent, faults.FaultyStore(store, slow)))
    barrier.wait(30)
    # Its lease was not seen.
    store.delete(scene.parent_manifest)
    store.delete(scene.parent.image.name)
    assert world.prune().held
    barrier.wait(30)
    found = outcome(committing)
    assert isinstance(
        found, manifest.Manifest if committed else errors.ParentGone)
    assert_all_or_nothing(world, scene.intent, found)
    slow.assert_all_fired()
    scene.end(store)
    world.prune()
    assert_all_or_nothing(world, scene.intent, found)


def test_two_prunes_at_a_time(scene, make_store):
    store = scene.fill(make_store())
    world = scene.at(store)
    scene.begin(store)
    scene.upload(store)
    child = world.commit(scene.intent)
    scene.end(store)
    world.delete(scene.parent)
    barrier = threading.Barrier(2)

    def run():
        barrier.wait(30)
        return prune.prune(store, KEY, NOW, 0)
    for future in [in_thread(run), in_thread(run)]:
        assert outcome(future).held == ()
    assert world.prune().condemned == 0
    world.assert_whole(child)
    assert world.names(scene.parent.id) == {
        name for name in catalogue.objects(child) if scene.parent.id in name}


def test_what_another_prune_has_spared_is_not_deleted(scene, make_store):
    # A prune stands still before it deletes; meanwhile the attempt, whose
    # lease had expired, goes on, and another prune has seen that.
    store = scene.fill(make_store())
    world = scene.at(store)
    scene.upload(store)
    slow = faults.Faults()
    barrier = threading.Barrier(2)
    # The first time it reads what was condemned before.
    slow.on('get', layout.CONDEMNED).after(1).call(
        lambda: [barrier.wait(30), barrier.wait(30)])
    pruning = in_thread(lambda: prune.prune(
        faults.FaultyStore(store, slow), KEY, NOW, 0))
    barrier.wait(30)
    assert prune.condemned(store) == set(scene.uploads)
    scene.begin(store)
    assert world.prune().condemned == 0
    barrier.wait(30)
    assert outcome(pruning).deleted == 0
    world.assert_whole(world.commit(scene.intent))


def test_two_snapshots_of_one_node_at_a_time(make_store):
    world = uncommitted.World(make_store())
    first = world.take([1, 2, 3])
    intents = [world.upload([1, 2, number], first, sequence=2)
               for number in (4, 5)]
    for each in intents:
        world.lease(each)
    barrier = threading.Barrier(2)

    def run(intent):
        barrier.wait(30)
        return world.commit(intent)
    both = [outcome(future) for future in [
        in_thread(functools.partial(run, each)) for each in intents]]
    assert [each.id for each in world.listed()] == [
        first.id, *(each.id for each in both)]
    assert [each.sequence for each in both] == [2, 2]
    world.assert_all_whole()
    world.delete(first)
    world.prune()
    world.assert_all_whole()


def replace_by_a_child(world, parent):
    """Capture upon a parent, from the lease to its end; delete the parent."""
    intent = world.upload([1, 3], parent)
    world.lease(intent)
    child = world.commit(intent)
    lease.delete(world.store, intent.lineage, intent.snapshot)
    world.delete(parent)
    return child


def test_a_child_of_a_child_sees_what_is_condemned(make_store):
    # Two whole captures fit between two requests of a prune. It could see
    # the lease of neither.
    world = uncommitted.World(make_store())
    first = world.take([1, 2])
    children = []

    def capture_a_child():
        children.append(replace_by_a_child(world, first))
        slow.on('get', f'{children[0].id}/manifest').call(
            capture_a_child_of_it)

    def capture_a_child_of_it():
        child, = children
        world.assert_whole(child)
        intent = world.upload([1, 4], child)
        world.lease(intent)
        with pytest.raises(errors.ParentGone, match='is condemned'):
            world.commit(intent)
        lease.delete(world.store, intent.lineage, intent.snapshot)
        world.delete(child)
    slow = faults.Faults()
    slow.on('get', f'{first.id}/manifest').call(capture_a_child)
    found = prune.prune(
        faults.FaultyStore(world.store, slow), KEY, NOW, 0, workers=1)
    slow.assert_all_fired()
    assert found.deleted > 0
    assert world.listed() == []


def test_a_child_is_spared_though_its_parent_was_condemned(make_store):
    world = uncommitted.World(make_store())
    first = world.take([1, 2])
    children = []

    def capture_a_child():
        children.append(replace_by_a_child(world, first))
    slow = faults.Faults()
    slow.on('get', f'{first.id}/manifest').call(capture_a_child)
    found = prune.prune(
        faults.FaultyStore(world.store, slow), KEY, NOW, 0, workers=1)
    assert found.deleted > 0 and found.condemned > 0
    world.assert_whole(children[0])
    # A moment later it is known that it is needed.
    world.prune()
    assert prune.condemned(world.store) == frozenset()
    world.take([1, 5], children[0])
    world.assert_all_whole()
