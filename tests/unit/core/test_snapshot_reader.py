# SPDX-License-Identifier: Apache-2.0
"""Reading a snapshot back."""

import dataclasses
import itertools
import random
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import codec
from ironic_snapshot_core import digest
from ironic_snapshot_core import errors
from ironic_snapshot_core import index
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core import pack
from ironic_snapshot_core import snapshot_reader
from ironic_snapshot_core.store import memory
from ironic_snapshot_core.units import KiB, MiB
from tests import handmade
from tests.handmade import LINEAGE

ID = 'aaaaaaaa-0000-4000-8000-000000000001'
OTHER = 'dddddddd-0000-4000-8000-000000000004'
THIRD = 'eeeeeeee-0000-4000-8000-000000000005'
ELSEWHERE = layout.Lineage('ffffffff-0000-4000-8000-000000000006',
                           'ffffffff-0000-4000-8000-000000000007')
PREFIX = layout.attempt_prefix(LINEAGE, ID)
C = 64 * KiB
ZSTD = codec.get_codec('zstd')
DIGEST = digest.DEFAULT_DIGEST


class CountingStore(memory.MemoryStore):
    """Remembers the ranges it was asked for."""

    def __init__(self):
        super().__init__()
        self.ranges = []

    def get_range(self, name, offset, length):
        self.ranges.append((name.removeprefix(PREFIX), offset, length))
        return super().get_range(name, offset, length)


def text(number):
    return (b'%d lines ' % number * C)[:C]


def noise(number):
    return random.Random(number).randbytes(C)


def record(store, name, data):
    return handmade.put(store, PREFIX + name, data)


def store_snapshot(store, packs, disk_size, places):
    """Store a full snapshot.

    :param packs: for each the contents in it.
    :param places: (cluster, slot) of the disk.
    :returns: its manifest.
    """
    attempt = handmade.store_attempt(store, ID, packs)
    return handmade.store_snapshot(
        store, ID, disk_size,
        {cluster: (attempt, slot) for cluster, slot in places},
        attempt.packs, [attempt] if attempt.packs else [])


def read_all(reader):
    found = {}
    for run in reader.runs():
        for cluster, data in reader.read(run):
            assert cluster not in found
            found[cluster] = data
    return found


@pytest.fixture
def store():
    return CountingStore()


@pytest.fixture
def example(store):
    """Two packs; slots 0 and 1 are raw; slot 2 is on the disk twice."""
    return store_snapshot(
        store, [[noise(1), noise(2), text(1), text(2)], [text(3)]],
        disk_size=9 * C - 512,
        places=[(0, 2), (1, 0), (2, 3), (4, 1), (5, 2), (8, 4)])


CONTENT = {0: text(1), 1: noise(1), 2: text(2), 4: noise(2), 5: text(1),
           8: text(3)}


def test_every_cluster_is_given_once(store, example):
    reader = snapshot_reader.SnapshotReader(store, example)
    assert read_all(reader) == CONTENT
    assert reader.data_clusters == len(CONTENT)


def test_neighbours_are_read_at_once(store, example):
    reader = snapshot_reader.SnapshotReader(store, example)
    store.ranges.clear()
    read_all(reader)
    assert [name for name, _, _ in store.ranges] == [
        'pack-000001', 'pack-000002']


def test_single_clusters(store, example):
    reader = snapshot_reader.SnapshotReader(store, example)
    for cluster in range(9):
        assert reader.read_cluster(cluster) == CONTENT.get(
            cluster, bytes(C))
    with pytest.raises(errors.InvalidValue):
        reader.read_cluster(9)


def test_digests_of_clusters(store, example):
    reader = snapshot_reader.SnapshotReader(store, example)
    wanted = [CONTENT.get(cluster) and DIGEST.digest(CONTENT[cluster])
              for cluster in range(9)]
    for first in range(10):
        for count in range(10 - first):
            assert list(reader.digests(first, count)) == wanted[
                first:first + count]


@pytest.mark.parametrize('first, count', [
    (0, 10), (9, 1), (10, 0), (-1, 2), (3, -1)])
def test_digests_of_what_is_not_on_the_disk(store, example, first, count):
    reader = snapshot_reader.SnapshotReader(store, example)
    with pytest.raises(errors.InvalidValue):
        reader.digests(first, count)


def test_only_what_is_wanted(store):
    """Also of an extent, of a content that is twice there, and of gaps."""
    found = store_snapshot(
        store, [[noise(number) for number in range(8)], [noise(8)]], 12 * C,
        places=[(0, 0), (1, 1), (2, 2), (5, 7), (6, 0), (7, 8)])
    reader = snapshot_reader.SnapshotReader(store, found)
    for clusters, slots in (
            ((), ()),
            ((6,), (0,)),
            ((1, 2), (1, 2)),
            ((2, 3, 5, 11), (2, 7))):
        wanted = bytearray(12)
        for cluster in clusters:
            wanted[cluster] = 1 + cluster
        store.ranges.clear()
        runs = reader.runs(wanted)
        # It was copied.
        wanted[:] = bytes(12)
        assert {cluster: data for run in runs
                for cluster, data in reader.read(run)} == {
            cluster: noise({0: 0, 1: 1, 2: 2, 5: 7, 6: 0}[cluster])
            for cluster in clusters if cluster in (0, 1, 2, 5, 6)}
        assert sum(length for _, _, length in store.ranges) == C * len(slots)


def test_wanted_is_of_another_disk(store, example):
    reader = snapshot_reader.SnapshotReader(store, example)
    with pytest.raises(errors.InvalidValue):
        reader.runs(bytearray(8))


def test_a_disk_of_zeroes(store):
    reader = snapshot_reader.SnapshotReader(
        store, store_snapshot(store, [], 4 * C, []))
    assert read_all(reader) == {}
    assert list(reader.digests(0, 4)) == [None] * 4
    assert reader.read_cluster(3) == bytes(C)


def test_what_nobody_wants_is_not_read(store):
    """Slots that are on no disk any more, with a wide gap between."""
    found = store_snapshot(
        store, [[noise(number) for number in range(8)]], 8 * C,
        places=[(0, 0), (1, 1), (2, 7)])
    reader = snapshot_reader.SnapshotReader(store, found)
    store.ranges.clear()
    assert read_all(reader) == {0: noise(0), 1: noise(1), 2: noise(7)}
    assert store.ranges == [
        ('pack-000001', 0, 2 * C), ('pack-000001', 7 * C, C)]


def test_a_small_gap_is_read_along(store):
    found = store_snapshot(
        store, [[text(number) for number in range(8)]], 8 * C,
        places=[(0, 0), (1, 7)])
    reader = snapshot_reader.SnapshotReader(store, found)
    store.ranges.clear()
    assert read_all(reader) == {0: text(0), 1: text(7)}
    assert len(store.ranges) == 1


def test_a_read_is_bounded(store):
    count = 130
    found = store_snapshot(
        store, [[noise(number) for number in range(count)]], count * C,
        places=[(number, number) for number in range(count)])
    reader = snapshot_reader.SnapshotReader(store, found)
    store.ranges.clear()
    assert len(read_all(reader)) == count
    assert max(length for _, _, length in store.ranges) == 4 * MiB
    assert sum(length for _, _, length in store.ranges) == count * C


@pytest.mark.parametrize('offset', [5, 2 * C + 9])
def test_a_damaged_cluster_names_pack_and_cluster(store, example, offset):
    """In a raw cluster, and in a compressed one."""
    data = bytearray(store.get(PREFIX + 'pack-000001', MiB))
    data[offset] ^= 1
    store.put(PREFIX + 'pack-000001', data)
    reader = snapshot_reader.SnapshotReader(store, example)
    cluster = 1 if offset == 5 else 0
    for attempt in (lambda: read_all(reader),
                    lambda: reader.read_cluster(cluster)):
        with pytest.raises(errors.Corrupted) as caught:
            attempt()
        assert f'{PREFIX}pack-000001' in str(caught.value)
        assert f'cluster {cluster} of the disk' in str(caught.value)


def test_a_pack_that_was_cut_or_is_gone(store, example):
    data = store.get(PREFIX + 'pack-000002', MiB)
    reader = snapshot_reader.SnapshotReader(store, example)
    store.put(PREFIX + 'pack-000002', data[:10])
    with pytest.raises(errors.ObjectMismatch, match='pack-000002'):
        read_all(reader)
    store.delete(PREFIX + 'pack-000002')
    with pytest.raises(errors.ObjectMissing, match='pack-000002'):
        read_all(reader)


@pytest.mark.parametrize('name', [layout.MAP, layout.INDEX])
def test_another_map_or_index_is_refused(store, example, name):
    """A good one, but not what the manifest names."""
    other = CountingStore()
    store_snapshot(other, [[text(9), text(8)]], 9 * C - 512,
                   [(0, 0), (3, 1)])
    swapped = other.get(PREFIX + name, MiB)
    store.put(PREFIX + name, swapped)
    with pytest.raises((errors.Corrupted, errors.ObjectTooLarge)):
        snapshot_reader.SnapshotReader(store, example)


def test_a_map_beyond_its_index_is_refused(store, example):
    """Each is what the manifest names, yet they do not belong together."""
    other = CountingStore()
    store_snapshot(other, [[text(9)]], 9 * C - 512, [(0, 0)])
    attempt = dataclasses.replace(
        example.attempts[0], index=record(
            store, layout.INDEX, other.get(PREFIX + layout.INDEX, MiB)))
    named = dataclasses.replace(
        example, attempts=(attempt,), packs=(dataclasses.replace(
            example.packs[0], clusters=1),))
    reader = snapshot_reader.SnapshotReader(store, named)
    with pytest.raises(errors.Corrupted, match='map'):
        read_all(reader)
    with pytest.raises(errors.Corrupted, match='slot'):
        reader.read_cluster(8)


def test_a_map_of_another_disk_is_refused(store, example):
    disk = dataclasses.replace(example.disk, size=8 * C)
    totals = dataclasses.replace(example.totals, virtual_bytes=8 * C)
    smaller = dataclasses.replace(example, disk=disk, totals=totals)
    with pytest.raises(errors.Corrupted, match='map'):
        snapshot_reader.SnapshotReader(store, smaller)


@pytest.fixture
def older(store):
    """Two packs of an older attempt, of another lineage."""
    return handmade.store_attempt(
        store, OTHER, [[noise(11), text(11), text(12)], [noise(12)],
                       [text(13)]], ELSEWHERE)


@pytest.fixture
def own(store):
    return handmade.store_attempt(store, ID, [[noise(21), text(21)]])


#: Slot 0 of each is raw.
COMPOSED = {0: text(12), 1: noise(21), 3: text(11), 4: noise(11),
            5: text(21), 6: text(12), 7: noise(12)}


@pytest.fixture
def composed(store, older, own):
    """Of two attempts; the older one's third pack is not needed."""
    return handmade.store_snapshot(
        store, ID, 8 * C,
        {0: (older, 2), 1: (own, 0), 3: (older, 1), 4: (older, 0),
         5: (own, 1), 6: (older, 2), 7: (older, 3)},
        [older.trimmed(0, [0, 1, 2]), older.trimmed(1, [3]), *own.packs],
        [older, own], parent=OTHER)


def test_clusters_of_several_attempts(store, composed):
    reader = snapshot_reader.SnapshotReader(store, composed)
    store.ranges.clear()
    assert read_all(reader) == COMPOSED
    # In the order of the image: what is older first.
    assert [name.rpartition('/')[2] for name, _, _ in store.ranges] == [
        'pack-000001', 'pack-000002', 'pack-000001']
    for cluster in range(8):
        assert reader.read_cluster(cluster) == COMPOSED.get(
            cluster, bytes(C))
    assert reader.repaired == []


def test_a_disk_that_was_larger_once(store):
    older = handmade.store_attempt(
        store, OTHER, [[noise(number) for number in range(20)]])
    found = handmade.store_snapshot(
        store, ID, C, {0: (older, 17)}, [older.trimmed(0, [17])], [older],
        parent=OTHER)
    assert read_all(snapshot_reader.SnapshotReader(store, found)) == {
        0: noise(17)}


@pytest.mark.parametrize('number', [0, 1])
@pytest.mark.parametrize('damage', [
    lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    lambda data: data[:-1], lambda data: data + b'x'],
    ids=['changed', 'cut', 'longer'])
def test_each_index_must_be_the_one_that_was_committed(
        store, composed, older, own, number, damage):
    name = (older, own)[number].prefix + layout.INDEX
    store.put(name, damage(store.get(name, MiB)))
    with pytest.raises((errors.Corrupted, errors.ObjectTooLarge),
                       match=name):
        snapshot_reader.SnapshotReader(store, composed)


def test_an_index_of_another_attempt_is_refused(store, composed, own):
    """One that the manifest names by size and digest, yet not its own."""
    data = store.get(own.prefix + layout.INDEX, MiB)
    swapped = handmade.put(
        store, composed.attempts[0].lineage.prefix + f'attempts/{OTHER}/index',
        data)
    named = dataclasses.replace(composed, attempts=(
        dataclasses.replace(composed.attempts[0], index=swapped),
        composed.attempts[1]))
    with pytest.raises(errors.Corrupted, match='another attempt'):
        snapshot_reader.SnapshotReader(store, named)


@pytest.mark.parametrize('changes', [
    {'clusters': 2}, {'name': 'pack-000009'}])
def test_a_pack_that_its_index_does_not_know_is_refused(
        store, composed, changes):
    packs = (dataclasses.replace(composed.packs[0], **changes),
             *composed.packs[1:])
    with pytest.raises(errors.Corrupted, match='that of the manifest'):
        snapshot_reader.SnapshotReader(
            store, dataclasses.replace(composed, packs=packs))


def test_a_map_of_an_attempt_that_is_not_listed_is_refused(store, composed):
    named = dataclasses.replace(
        composed, packs=composed.packs[2:], attempts=composed.attempts[1:])
    with pytest.raises(errors.Corrupted, match=OTHER):
        snapshot_reader.SnapshotReader(store, named)


def test_a_map_of_a_pack_that_is_not_listed_is_refused(store, composed):
    """It is there, and the index knows it."""
    named = dataclasses.replace(
        composed, packs=(composed.packs[0], composed.packs[2]))
    reader = snapshot_reader.SnapshotReader(store, named)
    with pytest.raises(errors.Corrupted, match='pack-000002'):
        read_all(reader)
    with pytest.raises(errors.Corrupted, match='pack-000002'):
        reader.read_cluster(7)
    assert reader.read_cluster(6) == COMPOSED[6]
    assert reader.repaired == []


@pytest.fixture
def second(store):
    """Second copies of what is in the older attempt's packs, or was."""
    return handmade.store_attempt(
        store, THIRD, [[text(12), noise(12), noise(30)], [text(11)]])


@pytest.fixture
def doubled(store, older, own, second, composed):
    """The same with two spares."""
    spares = [dataclasses.replace(each, length=0) for each in second.packs]
    return dataclasses.replace(
        composed, packs=(spares[0], *composed.packs, spares[1]),
        attempts=(second.record, *composed.attempts))


def damage(store, name, offset=0):
    data = bytearray(store.get(name, MiB))
    data[offset] ^= 1
    store.put(name, data)


def both_ways(store, found):
    """Read it as a whole and cluster by cluster."""
    for one_by_one in (False, True):
        reader = snapshot_reader.SnapshotReader(store, found)
        if one_by_one:
            read = {cluster: reader.read_cluster(cluster)
                    for cluster in COMPOSED}
        else:
            read = read_all(reader)
        yield reader, read


def test_spares_are_left_alone_while_all_is_well(store, doubled, second):
    for each in (*second.packs, None):
        store.delete(second.prefix + (each.name if each else layout.INDEX))
    for reader, read in both_ways(store, doubled):
        assert read == COMPOSED
        assert reader.repaired == []


@pytest.mark.parametrize('gone', [False, True])
def test_what_is_damaged_or_gone_is_read_from_a_spare(
        store, doubled, older, second, gone):
    # text(11) and text(12) are copied, noise(12) as well.
    if gone:
        store.delete(older.name(1))
    else:
        damage(store, older.name(1))
    for reader, read in both_ways(store, doubled):
        assert read == COMPOSED
        assert len(reader.repaired) == 1
        assert 'cluster 7 of the disk' in reader.repaired[0]
        assert older.name(1) in reader.repaired[0]
        assert second.name(0) in reader.repaired[0]


def test_only_damaged_clusters_are_read_from_elsewhere(
        store, doubled, older, second):
    # In the blob of text(12), behind noise(11) and text(11).
    at = older.index.lookup(2).offset
    damage(store, older.name(0), at + 3)
    reader = snapshot_reader.SnapshotReader(store, doubled)
    store.ranges.clear()
    assert read_all(reader) == COMPOSED
    # It is on the disk twice.
    assert len(reader.repaired) == 1
    assert 'cluster 0 of the disk' in reader.repaired[0]
    assert [name for name, _, _ in store.ranges].count(second.name(0)) == 1
    assert len(store.ranges) == 4


def test_a_pack_that_was_cut_is_read_as_far_as_it_goes(
        store, doubled, older):
    """What is behind its end comes from spares, the rest from itself."""
    data = store.get(older.name(0), MiB)
    store.put(older.name(0), data[:older.index.lookup(1).offset])
    for reader, read in both_ways(store, doubled):
        assert read == COMPOSED
        assert {each.partition(' of the disk')[0].rpartition(' ')[2]
                for each in reader.repaired} <= {'0', '3', '6'}
        assert len(reader.repaired) >= 2


def test_without_a_second_copy_the_first_error_is_told(
        store, doubled, older, own):
    damage(store, own.name(0))
    reader = snapshot_reader.SnapshotReader(store, doubled)
    with pytest.raises(errors.Corrupted, match=own.name(0)):
        read_all(reader)
    store.delete(own.name(0))
    with pytest.raises(errors.ObjectMissing, match=own.name(0)):
        reader.read_cluster(1)
    assert reader.repaired == []


def test_a_spare_that_is_damaged_too_is_passed_over(
        store, doubled, older, second):
    store.delete(older.name(1))
    # Its first cluster is noise(12).
    damage(store, second.name(0))
    reader = snapshot_reader.SnapshotReader(store, doubled)
    with pytest.raises(errors.ObjectMissing, match=older.name(1)):
        reader.read_cluster(7)
    assert reader.repaired == []


def test_a_pack_of_the_image_is_as_good_as_a_spare(
        store, composed, older, own, second):
    """Without spares; the same content is in two packs."""
    packs = (composed.packs[0], composed.packs[1],
             dataclasses.replace(second.packs[0], generations=2),
             composed.packs[2])
    found = dataclasses.replace(composed, packs=packs, attempts=(
        composed.attempts[0], second.record, composed.attempts[1]))
    damage(store, older.name(1))
    for reader, read in both_ways(store, found):
        assert read == COMPOSED
        assert second.name(0) in reader.repaired[0]


def test_spares_whose_index_is_damaged_are_no_help(
        store, doubled, older, second, caplog):
    damage(store, second.prefix + layout.INDEX)
    damage(store, older.name(1))
    reader = snapshot_reader.SnapshotReader(store, doubled)
    with pytest.raises(errors.Corrupted, match=older.name(1)):
        reader.read_cluster(7)
    assert second.prefix + layout.INDEX in caplog.text


def test_a_store_that_is_down_is_no_damage(store, doubled, monkeypatch):
    reader = snapshot_reader.SnapshotReader(store, doubled)

    def fail(name, offset, length):
        raise errors.StoreUnavailable('get_range', name, 'no answer')

    monkeypatch.setattr(store, 'get_range', fail)
    for call in (lambda: read_all(reader), lambda: reader.read_cluster(0)):
        with pytest.raises(errors.StoreUnavailable):
            call()
    assert reader.repaired == []


def flat(disk):
    return b''.join(disk)


@given(st.lists(st.lists(st.integers(0, 9), max_size=12), min_size=1,
                max_size=5), st.data())
def test_each_of_a_line_of_snapshots_is_its_own_disk(disks, data):
    """Disks that grow and shrink, with second copies at times."""
    store = memory.MemoryStore()
    history = handmade.History(store, clusters=3)
    contents = [bytes(C), *(text(n) for n in range(5)),
                *(noise(n) for n in range(4))]
    made, parent = [], None
    for numbers in disks:
        disk = flat(contents[n] for n in numbers) or bytes(C)
        again = [
            (each.attempt, each.name) for each in parent.packs
            if not each.spare and data.draw(st.booleans())
        ] if parent else []
        parent = history.capture(disk, parent, again)
        made.append((parent, disk))
    for found, disk in made:
        again = manifest.Manifest.from_bytes(found.to_bytes(None), None)
        reader = snapshot_reader.SnapshotReader(store, again)
        read = read_all(reader)
        assert flat(read.get(n, bytes(C))
                    for n in range(len(disk) // C)) == disk
        assert reader.repaired == []


def test_every_pack_stored_again_may_be_lost(store):
    history = handmade.History(store, clusters=2)
    disk = flat(text(n) if n % 2 else noise(n) for n in range(9))
    first = history.capture(disk)
    second = history.capture(
        disk, first, [(each.attempt, each.name) for each in first.packs])
    assert [each.spare for each in second.packs] == [True] * 5 + [False] * 5
    own, older = (layout.attempt_prefix(LINEAGE, each.id)
                  for each in (second, first))
    # Of each two, one or the other.
    for lost in itertools.product([own, older], repeat=5):
        kept = {}
        for prefix, number in zip(lost, range(1, 6), strict=True):
            name = prefix + layout.pack_name(number)
            kept[name] = store.get(name, MiB)
            store.delete(name)
        reader = snapshot_reader.SnapshotReader(store, second)
        read = read_all(reader)
        assert flat(read[n] for n in range(9)) == disk
        assert bool(reader.repaired) == (own in lost)
        for name, data in kept.items():
            store.put(name, data)


def test_memory_is_flat(store):
    """Without an object for each cluster."""
    count = 50_000
    made = index.Index(ID, C, 'zstd', DIGEST.id, (index.IndexPack.of(
        'pack-000001', [
            pack.PackEntry(DIGEST.digest(b'%d' % number), 100, True)
            for number in range(count)]),))
    example = store_snapshot(
        store, [[text(1)]], count * C, [(0, 0)])
    builder = cluster_map.MapBuilder(count * C, C)
    # The worst map: no two neighbours.
    for cluster in range(count):
        builder.add(cluster, ID, count - 1 - cluster)
    attempt = dataclasses.replace(
        example.attempts[0],
        index=record(store, layout.INDEX, index.encode(made)))
    example = dataclasses.replace(
        example, attempts=(attempt,), packs=(dataclasses.replace(
            example.packs[0], clusters=count, size=count * C,
            length=count * C),),
        map=record(store, layout.MAP, cluster_map.encode(builder.build())))
    del builder, made
    tracemalloc.start()
    try:
        reader = snapshot_reader.SnapshotReader(store, example)
        kept = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        runs = sum(1 for _ in reader.runs())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert runs == -(-count * 100 // (4 * MiB // 100 * 100))
    assert kept < 60 * count
    assert peak < kept + 20 * count
