# SPDX-License-Identifier: Apache-2.0
"""Reading a snapshot back."""

import dataclasses
import random
import tracemalloc

import pytest

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

ID = 'aaaaaaaa-0000-4000-8000-000000000001'
OTHER = 'dddddddd-0000-4000-8000-000000000004'
LINEAGE = layout.Lineage('bbbbbbbb-0000-4000-8000-000000000002',
                         'cccccccc-0000-4000-8000-000000000003')
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


def lay_out(contents):
    """Make a pack as the format says: raw clusters first."""
    blobs = [(ZSTD.compress(each), each) for each in contents]
    raw = [(each, each) for blob, each in blobs if blob is None]
    compressed = [(blob, each) for blob, each in blobs if blob is not None]
    entries = [
        pack.PackEntry(DIGEST.digest(each), len(blob), blob is not each)
        for blob, each in raw + compressed]
    data = b''.join(blob for blob, _ in raw + compressed)
    return data + bytes(-len(data) % C), entries


def record(store, name, data):
    info = store.put(PREFIX + name, data)
    return manifest.ObjectRecord(
        len(data), info.etag, DIGEST.digest(data).hex())


def store_snapshot(store, packs, disk_size, places, attempt=ID):
    """Store a snapshot by hand.

    :param packs: for each the contents in it.
    :param places: (cluster, slot) of the disk.
    :returns: its manifest.
    """
    records, index_packs = [], []
    for number, contents in enumerate(packs, 1):
        data, entries = lay_out(contents)
        name = layout.pack_name(number)
        info = store.put(PREFIX + name, data)
        records.append(manifest.PackRecord(
            ID, name, len(data), info.etag, len(entries),
            sum(each.length for each in entries)))
        index_packs.append(index.IndexPack.of(name, entries))
    builder = cluster_map.MapBuilder(disk_size, C)
    for cluster, slot in places:
        builder.add(cluster, attempt, slot)
    report = manifest.CaptureReport(
        snapshot=ID,
        disk=manifest.Disk(disk_size, 512, 512, '', '', '', '', 'disk'),
        cluster_size=C, codec='zstd', codec_level=1, digest=DIGEST.id,
        packs=tuple(records),
        index=record(store, layout.INDEX, index.encode(index.Index(
            ID, C, 'zstd', DIGEST.id, tuple(index_packs)))),
        map=record(store, layout.MAP, cluster_map.encode(builder.build())),
        head=record(store, layout.HEAD, bytes(C)),
        totals=manifest.Totals(disk_size, 0, 0, 0, 0, 0, 0, 0),
        regions=(), unreadable=(), timings={}, software={})
    return manifest.Manifest.from_report(
        report, name='n', description='', lineage=LINEAGE, sequence=1,
        parent=None, full_reason='', node=manifest.NodeRecord('', None, None),
        project=None, consistency='offline',
        started_at='2026-01-31T12:00:00Z', created_at='2026-01-31T12:00:00Z',
        image=manifest.ImageRecord('image', 1))


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


def test_a_disk_of_zeroes(store):
    reader = snapshot_reader.SnapshotReader(
        store, store_snapshot(store, [], 4 * C, []))
    assert read_all(reader) == {}
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
    named = dataclasses.replace(example, index=record(
        store, layout.INDEX, other.get(PREFIX + layout.INDEX, MiB)))
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


def test_clusters_of_other_attempts_are_not_guessed(store):
    found = store_snapshot(store, [[text(1)]], C, [(0, 0)], attempt=OTHER)
    with pytest.raises(errors.UnsupportedFeature):
        snapshot_reader.SnapshotReader(store, found)


def test_memory_is_flat(store):
    """Without an object for each cluster."""
    count = 50_000
    entry = pack.PackEntry(DIGEST.digest(b''), 100, True)
    made = index.Index(ID, C, 'zstd', DIGEST.id, (
        index.IndexPack.of('pack-000001', [entry] * count),))
    example = store_snapshot(
        store, [[text(1)]], count * C, [(0, 0)])
    builder = cluster_map.MapBuilder(count * C, C)
    # The worst map: no two neighbours.
    for cluster in range(count):
        builder.add(cluster, ID, count - 1 - cluster)
    example = dataclasses.replace(
        example,
        index=record(store, layout.INDEX, index.encode(made)),
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
