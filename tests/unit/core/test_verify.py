# SPDX-License-Identifier: Apache-2.0
"""Finding damage, and what it means for the disk."""

import dataclasses
import random
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import snapshot_reader
from ironic_snapshot_core import verify
from ironic_snapshot_core.store import memory
from ironic_snapshot_core.units import MiB
from tests import faults
from tests import handmade

C = handmade.C
DATA = pytest.mark.parametrize('data', [False, True])


class RottingStore(memory.MemoryStore):
    """Objects may change without its being noticed, as on a disk."""

    def __init__(self):
        super().__init__()
        self._etags = {}

    def stat(self, name):
        info = super().stat(name)
        return dataclasses.replace(
            info, etag=self._etags.get(name, info.etag))

    def rot(self, name, offset, bit=0):
        self._etags.setdefault(name, self.stat(name).etag)
        data = bytearray(self.get(name, 16 * MiB))
        data[offset] ^= 1 << bit
        self.put(name, data)


def text(number):
    return (b'%d lines ' % number * C)[:C]


def noise(number):
    return random.Random(number).randbytes(C)


ZERO = bytes(C)
FIRST = [text(1), noise(1), ZERO, text(2), text(1), noise(2)]
# Of the first it has text(1), noise(1) and noise(2).
SECOND = [text(1), noise(1), noise(3), ZERO, text(4), noise(2)]


@pytest.fixture
def store():
    return RottingStore()


@pytest.fixture
def history(store):
    return handmade.History(store, clusters=2)


@pytest.fixture
def first(history):
    return history.capture(b''.join(FIRST))


@pytest.fixture
def second(history, first):
    """Its first pack is an own one, its others are older and spares."""
    return history.capture(
        b''.join(SECOND), first,
        again={(pack.attempt, pack.name) for pack in first.packs[:1]})


def clusters_of(runs):
    return [cluster for first, count in runs
            for cluster in range(first, first + count)]


def unreadable(store, manifest):
    """Tell which clusters a restore could not read; None: not even begin."""
    try:
        reader = snapshot_reader.SnapshotReader(store, manifest)
    except (*snapshot_reader.DAMAGE, errors.ObjectTooLarge):
        return None
    lost = []
    for cluster in range(-(-manifest.disk.size // C)):
        try:
            reader.read_cluster(cluster)
        except snapshot_reader.DAMAGE:
            lost.append(cluster)
    return lost


def lost_of(found):
    return sorted({cluster for each in found.findings
                   for cluster in clusters_of(each.lost)})


def compare(store, manifest, found, data):
    """See whether a restore would find the same lost.

    :param data: what it took to find out. Without, an object that is another
        one is not relied upon at all.
    """
    lost = unreadable(store, manifest)
    if data:
        assert found.restorable == (lost == [])
    elif found.restorable:
        assert lost == []
    if lost is not None:
        assert lost_of(found) == lost or not data


@DATA
def test_what_is_sound(store, first, second, data):
    for each in (first, second):
        found = verify.Verifier(store, data=data).verify(each)
        assert found.sound
        assert found.restorable
        assert found == verify.Findings(
            each.id, len(list(catalogue.objects(each))), ())


@DATA
@pytest.mark.parametrize('damage', [
    lambda store, name: store.delete(name),
    lambda store, name: store.put(name, b'short'),
    lambda store, name: store.put(name, store.get(name, MiB) + b'longer'),
    lambda store, name: store.put(name, bytes(len(store.get(name, MiB)))),
], ids=['missing', 'shorter', 'longer', 'other'])
def test_each_object_is_looked_at(store, first, second, damage, data):
    """What is lost is just what a reader cannot read."""
    for manifest in (first, second):
        for name in catalogue.objects(manifest):
            broken = RottingStore()
            for info in store.list(''):
                value = store._objects[info.name]
                broken._objects[info.name] = value
            damage(broken, name)
            found = verify.Verifier(broken, data=data).verify(manifest)
            assert not found.sound
            assert [each.object for each in found.findings] == [name]
            compare(broken, manifest, found, data)


@DATA
def test_what_is_missing(store, first, second, data):
    own = layout.attempt_prefix(second.lineage, second.id)
    older = layout.attempt_prefix(first.lineage, first.id)
    for name in (own + 'map', second.image.name, older + 'pack-000001'):
        store.delete(name)
    found = verify.Verifier(store, data=data).verify(second)
    assert found.findings == tuple(sorted([
        verify.Finding(own + 'map', 'it is missing', ((0, 6),), ((0, 6),)),
        verify.Finding(older + 'pack-000001', 'it is missing'),
        verify.Finding(second.image.name, 'it is missing'),
    ], key=lambda each: each.object))


@DATA
def test_a_second_copy_heals(store, first, second, data):
    """The pack that was stored again, and the spare that it was."""
    own = layout.attempt_prefix(second.lineage, second.id) + 'pack-000001'
    older = layout.attempt_prefix(first.lineage, first.id) + 'pack-000001'
    store.delete(own)
    found = verify.Verifier(store, data=data).verify(second)
    assert found.findings == (
        verify.Finding(own, 'it is missing', ((0, 2),)),)
    assert found.restorable
    store.delete(older)
    found = verify.Verifier(store, data=data).verify(second)
    assert {each.object: each.lost for each in found.findings} == {
        own: ((0, 2),), older: ()}
    assert not found.restorable


def test_only_reading_finds_what_has_rotted(store, first, second):
    older = layout.attempt_prefix(first.lineage, first.id) + 'pack-000002'
    # The raw cluster comes first; it is the last of the disk.
    store.rot(older, 7)
    assert verify.Verifier(store, data=False).verify(second).sound
    found = verify.Verifier(store, data=True).verify(second)
    assert found.findings == (verify.Finding(
        older, 'cluster at byte 0: its digest does not match',
        ((5, 1),), ((5, 1),)),)
    # This one the second snapshot does not have.
    store.rot(older, 7)
    store.rot(older, C + 2)
    assert verify.Verifier(store, data=True).verify(second).findings == (
        verify.Finding(older, f'cluster at byte {C}: it is no zstd frame'),)
    found = verify.Verifier(store, data=True).verify(first)
    assert [each.lost for each in found.findings] == [((3, 1),)]


def test_each_byte_of_a_pack_counts(store):
    """Also where it changes no cluster: at the end, and in an unused bit."""
    history = handmade.History(store)
    made = history.capture(text(1) + text(2) + ZERO + text(3))
    name, = (each for each in catalogue.objects(made) if 'pack-' in each)
    offsets = history.attempts[made.id].index.packs[0].offsets
    of_clusters = [(at, bit) for at in range(offsets[-1])
                   for bit in range(8)]
    harmless = 0
    for at, bit in [*of_clusters, (offsets[-1], 0), (C - 1, 7)]:
        store.rot(name, at, bit)
        found = verify.Verifier(store, data=True).verify(made)
        assert [each.object for each in found.findings] == [name]
        lost = lost_of(found)
        if lost:
            assert lost == [
                cluster for position, cluster in enumerate((0, 1, 3))
                if offsets[position] <= at < offsets[position + 1]]
        else:
            assert found.restorable
            harmless += (at, bit) in of_clusters
        store.rot(name, at, bit)
    assert harmless <= 3
    assert verify.Verifier(store, data=True).verify(made).sound


def test_the_head_is_read_as_well(store, first):
    store.rot(first.head.name, first.head.size - 1)
    assert verify.Verifier(store, data=False).verify(first).sound
    found = verify.Verifier(store, data=True).verify(first)
    assert [each.object for each in found.findings] == [first.head.name]
    # A restore does not need it.
    assert found.restorable


def swap_map(store, manifest, places, attempts=None):
    """Commit another map."""
    built = cluster_map.ClusterMap(
        manifest.disk.size, C, attempts or [manifest.id], [
            cluster_map.MapExtent(*each) for each in places])
    name = layout.attempt_prefix(manifest.lineage, manifest.id) + 'map'
    return dataclasses.replace(manifest, map=handmade.put(
        store, name, cluster_map.encode(built)))


@DATA
def test_a_map_that_leads_nowhere(store, first, data):
    name = layout.attempt_prefix(first.lineage, first.id) + 'map'
    wrong = swap_map(store, first, [(0, 2, 0, 0), (3, 2, 0, 3)])
    assert verify.Verifier(store, data=data).verify(wrong).findings == (
        verify.Finding(name, 'it refers to what is not there',
                       ((3, 2),), ((3, 2),)),)


@DATA
def test_a_map_that_leads_to_a_pack_that_is_not_listed(store, first, data):
    name = layout.attempt_prefix(first.lineage, first.id) + 'map'
    wrong = dataclasses.replace(first, packs=first.packs[:1])
    found = verify.Verifier(store, data=data).verify(wrong)
    assert [(each.object, each.reason) for each in found.findings] == [
        (name, 'it refers to what is not there')]
    assert lost_of(found) == unreadable(store, wrong) == [3, 5]


@DATA
def test_what_is_not_plain_or_expires(store, first, data):
    class Odd(memory.MemoryStore):
        def stat(self, name):
            return dataclasses.replace(
                super().stat(name), expires=name.endswith('0001'),
                **({'kind': 'other'} if name.endswith('index') else {}))

    odd = Odd()
    odd._objects = store._objects
    found = verify.Verifier(odd, data=data).verify(first)
    assert [(each.object.rpartition('/')[2], each.reason, each.clusters)
            for each in found.findings] == [
        ('index', 'it is not a plain object', ()),
        ('pack-000001', 'it has an expiry date', ())]
    assert found.restorable


@pytest.mark.parametrize('operation', ['stat', 'get', 'get_range'])
@pytest.mark.parametrize('error', [
    errors.StoreUnavailable, errors.AccessDenied, errors.GrantExpired])
def test_a_store_that_is_out_of_order_is_no_damage(
        store, first, operation, error):
    order = faults.Faults()
    order.on(operation, 'attempts').after(1).raise_(error)
    verifier = verify.Verifier(faults.FaultyStore(store, order), data=True)
    with pytest.raises(error):
        verifier.verify(first)
    order.assert_all_fired()


def test_what_arrives_damaged_is_read_again(store, first):
    order = faults.Faults()
    order.on('get_range', 'pack-').flip_bit(position=3)
    verifier = verify.Verifier(faults.FaultyStore(store, order), data=True)
    assert verifier.verify(first).sound
    order.assert_all_fired()


def test_what_snapshots_share_is_read_once(store, first, second):
    class Counting(memory.MemoryStore):
        def __init__(self):
            super().__init__()
            self.calls = []

        def stat(self, name):
            self.calls.append(name)
            return super().stat(name)

    counting = Counting()
    counting._objects = store._objects
    lock = threading.Lock()
    read = 0

    def done(count):
        nonlocal read
        with lock:
            read += count

    verifier = verify.Verifier(counting, data=True, done=done)
    assert verifier.verify(first).sound
    assert read == verify.size([first])
    assert verifier.verify(second).sound
    assert read == verify.size([first, second])
    assert read == sum(
        info.size for info in store.list('') if '/pack-' in info.name)
    assert len(set(counting.calls)) == len(counting.calls)
    # What is damaged is remembered, too.
    own = layout.attempt_prefix(first.lineage, first.id) + 'pack-000001'
    store.delete(own)
    verifier = verify.Verifier(counting, data=True)
    assert not verifier.verify(first).restorable
    again = verifier.verify(second)
    assert [each.object for each in again.findings] == [own]


@DATA
def test_a_snapshot_that_is_deleted_meanwhile(store, first, data):
    """That is no damage."""
    order = faults.Faults()
    order.on('stat', 'disk.qcow2').call(
        lambda: [store.delete(info.name) for info in store.list('')])
    verifier = verify.Verifier(faults.FaultyStore(store, order), data=data)
    with pytest.raises(errors.SnapshotMissing):
        verifier.verify(first)
    order.assert_all_fired()


def test_whoever_watches_may_give_up(store, first):
    def done(count):
        raise errors.Cancelled()

    with pytest.raises(errors.Cancelled):
        verify.Verifier(store, data=True, done=done).verify(first)


@given(data=st.data())
def test_any_damage(data):
    """Whatever is gone or rotten: lost is what a reader cannot read."""
    store = RottingStore()
    history = handmade.History(store, clusters=2)
    contents = [ZERO, *(text(n) for n in range(4)),
                *(noise(n) for n in range(3))]
    disk = st.lists(st.sampled_from(contents), min_size=6, max_size=6)
    manifest = None
    for _ in range(data.draw(st.integers(1, 4))):
        again = [(pack.attempt, pack.name) for pack in (
            manifest.packs if manifest else ()) if data.draw(st.booleans())]
        manifest = history.capture(
            b''.join(data.draw(disk)), manifest, again)
    # The ids are others each time, so nothing may be drawn from them.
    names = list(catalogue.objects(manifest))[:-1]
    for number in data.draw(st.sets(
            st.integers(0, len(names) - 1), max_size=4)):
        at = data.draw(st.none() | st.integers(0, 2 * C))
        if at is None:
            store.delete(names[number])
        else:
            store.rot(names[number], at % store.stat(names[number]).size)
    found = verify.Verifier(store, data=True).verify(manifest)
    compare(store, manifest, found, True)
