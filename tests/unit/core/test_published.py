# SPDX-License-Identifier: Apache-2.0
"""Images in Glance that are linked to what snapshots have stored."""

import uuid

import pytest

from ironic_snapshot_core import committed
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core import published
from ironic_snapshot_core.store import memory
from tests import faults
from tests import uncommitted
from tests.uncommitted import HOUR
from tests.uncommitted import KEY
from tests.uncommitted import LINEAGE

IMAGE = str(uuid.uuid4())
OTHER = str(uuid.uuid4())


class Linker:
    """A store without links has copies."""

    def __init__(self, store):
        self._store = store

    def link(self, name, target):
        self._store.put(name, self._store.get(target.name, target.size))


@pytest.fixture
def world():
    return uncommitted.World(memory.MemoryStore())


def link(world, snapshot, image=IMAGE, store=None):
    return published.link(
        store or world.store, Linker(world.store), snapshot, image, KEY, 2,
        hash_algorithm='sha512', hash='00')


def glance_deletes(world, image=IMAGE):
    """The image's object and its links, as Glance's Swift driver does."""
    for info in list(world.store.list(
            layout.published_prefix(LINEAGE, image))):
        if not info.name.endswith(layout.RECORD):
            world.store.delete(info.name)


def read(world, image=IMAGE):
    return world.store.get(layout.published_name(LINEAGE, image), 10 ** 9)


def test_linked_image_reads_as_the_snapshot(world):
    first = world.take([1, 2])
    found = link(world, first)
    whole = world.store.get(first.image.name, first.image.size)
    assert read(world) == whole
    assert found.size == first.image.size
    assert link(world, first) == found
    record = published.get(world.store, LINEAGE, IMAGE, KEY)
    assert record.snapshot == first.id
    assert set(record.objects) == {
        each.name for each in committed.image_segments(first)}


def test_image_outlives_its_snapshot(world):
    first = world.take([1, 2])
    link(world, first)
    needed = published.get(world.store, LINEAGE, IMAGE, KEY).objects
    before = read(world)
    world.delete(first)
    world.prune()
    world.prune()
    assert set(needed) <= world.names()
    assert read(world) == before
    glance_deletes(world)
    world.prune()
    assert world.names() == set()


def test_two_images_need_the_same_packs(world):
    first = world.take([1, 2])
    second = world.take([2, 3])
    link(world, first)
    link(world, second, OTHER)
    whole = read(world, OTHER)
    for snapshot in (first, second):
        world.delete(snapshot)
    glance_deletes(world)
    world.prune()
    assert read(world, OTHER) == whole
    assert not [name for name in world.names() if IMAGE in name]


def test_snapshot_outlives_its_image(world):
    first = world.take([1, 2])
    before = world.names()
    link(world, first)
    glance_deletes(world)
    world.prune()
    assert world.names() <= before
    assert world.store.get(first.image.name, first.image.size)


def test_half_a_link_is_kept_by_the_lease_alone(world):
    first = world.take([1, 2])
    lease.put(world.store, LINEAGE, lease.Lease(
        IMAGE, first.id, world.now + HOUR))
    failing = faults.Faults()
    failing.on('join').raise_(errors.StoreFull)
    with pytest.raises(errors.StoreFull):
        link(world, first, store=faults.FaultyStore(world.store, failing))
    half = {name for name in world.names() if IMAGE in name}
    world.prune()
    assert half <= world.names()
    lease.delete(world.store, LINEAGE, IMAGE)
    world.prune()
    assert not half & world.names()
    assert world.store.get(first.image.name, first.image.size)


def test_unlink_takes_what_is_the_image_s_alone(world):
    first = world.take([1, 2])
    before = world.names()
    link(world, first)
    for _ in range(2):
        published.unlink(world.store, LINEAGE, IMAGE)
        assert world.names() == before


@pytest.mark.parametrize('damage', [
    lambda store, name: store.delete(name),
    lambda store, name: store.put(name, b'{}')])
def test_nothing_is_deleted_when_it_is_unknown_what_is_needed(world, damage):
    first = world.take([1, 2])
    link(world, first)
    world.delete(first)
    damage(world.store, layout.record_name(LINEAGE, IMAGE))
    before = world.names()
    found = world.prune()
    assert any(IMAGE in sentence for sentence in found.held)
    assert world.names() >= before
    glance_deletes(world)
    world.prune()
    world.prune()
    assert world.names() == set()


def test_record_of_a_copy_is_kept_as_long_as_the_snapshot(world):
    first = world.take([1])
    published.put(world.store, published.Record(
        IMAGE, first.id, LINEAGE, (), first.image.size), KEY)
    name = layout.record_name(LINEAGE, IMAGE)
    world.prune()
    assert name in world.names()
    world.delete(first)
    world.prune()
    assert world.names() == set()


def test_record_of_another_image_is_refused(world):
    first = world.take([1])
    link(world, first)
    data = world.store.get(layout.record_name(LINEAGE, IMAGE), 10 ** 6)
    world.store.put(layout.record_name(LINEAGE, OTHER), data)
    with pytest.raises(errors.Corrupted, match='another image'):
        published.get(world.store, LINEAGE, OTHER, KEY)
    with pytest.raises(errors.Corrupted):
        published.get(world.store, LINEAGE, IMAGE, b'x' * 32)


def test_more_links_than_swift_deletes(world, monkeypatch):
    monkeypatch.setattr(published, 'MAX_LINKS', 1)
    with pytest.raises(errors.NotSupported, match='"import"'):
        link(world, world.take([1, 2]))
    assert not [name for name in world.names() if IMAGE in name]
