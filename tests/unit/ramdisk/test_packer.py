# SPDX-License-Identifier: Apache-2.0
"""Clusters into packs."""

import threading

import pytest

from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import packer
from ipa_snapshot_hardware import progress
from ironic_snapshot_core import buffers
from ironic_snapshot_core import clock
from ironic_snapshot_core import errors
from ironic_snapshot_core import units
from ironic_snapshot_core.store import memory
from tests import disks

C = 64 * units.KiB
ATTEMPT = '33333333-3333-4333-8333-333333333333'


def digest(number):
    return number.to_bytes(32, 'big')


def pack(clusters, store=None, pack_size=units.MiB):
    """Pack (data, compressed) pairs; give the packer and its content."""
    store = store or memory.MemoryStore()
    content = contents.Content(len(clusters), 32)
    with executor.Executor(
        workers=1, reads=2, uploads=2, stop=executor.Stop()
    ) as threads:
        packs = packer.Packer(
            attempt=ATTEMPT,
            prefix='p/',
            cluster_size=C,
            pack_size=pack_size,
            store=store,
            threads=threads,
            content=content,
            counters=progress.CaptureProgress(clock.ManualClock()),
        )
        for number, (data, compressed) in enumerate(clusters):
            assert content.add(number, digest(number))
            packs.add(number, data, digest(number), compressed)
        packs.finish(len(clusters))
    return packs, content, store


def raw(number):
    return disks.random_bytes(C, seed=number), False


def test_nothing_makes_no_pack():
    packs, _, store = pack([])
    assert packs.records == ()
    assert packs.index_packs == ()
    assert list(store.list('')) == []


def test_raw_clusters_come_first_and_are_found_again():
    clusters = [(b'x' * 100, True), raw(1), (b'y' * 200, True), raw(3)]
    packs, content, store = pack(clusters)
    (record,) = packs.records
    (index,) = packs.index_packs
    stored = store.get('p/pack-000001', units.GiB)
    assert (record.clusters, record.live_bytes) == (4, 2 * C + 300)
    for cluster, slot in content:
        entry = index.entry(slot)
        assert entry.digest == digest(cluster)
        offset = index.offsets[slot]
        assert stored[offset : offset + entry.length] == clusters[cluster][0]
    assert [slot for _, slot in content] == [2, 1, 3, 0]


def test_a_pack_is_sent_when_it_is_full():
    packs, content, store = pack([raw(n) for n in range(40)])
    assert [(each.name, each.clusters) for each in packs.records] == [
        ('pack-000001', 16),
        ('pack-000002', 16),
        ('pack-000003', 8),
    ]
    # In each pack the last comes first.
    assert [slot for _, slot in content] == [
        *reversed(range(16)),
        *reversed(range(16, 32)),
        *reversed(range(32, 40)),
    ]
    sizes = [info.size for info in store.list('')]
    assert sizes == [units.MiB] * 3


def test_rooms_are_used_again(monkeypatch):
    sizes = []

    def allocate(size):
        sizes.append(size)
        # Whoever relies on zeroes finds none.
        room = bytearray(b'\xff' * size)
        return room

    monkeypatch.setattr(buffers, 'allocate', allocate)
    clusters = [
        raw(n) if n % 3 else (b'%d' % n * 5000, True) for n in range(160)
    ]
    packs, content, store = pack(clusters)
    # One for each upload, and one that is being filled.
    assert 1 <= len(sizes) <= 3
    assert set(sizes) == {units.MiB + C}
    assert len(packs.records) > 5
    stored = {
        index.name: store.get(f'p/{index.name}', units.GiB)
        for index in packs.index_packs
    }
    found = [
        stored[index.name][offset : offset + index.entry(n).length]
        for index in packs.index_packs
        for n, offset in enumerate(index.offsets[:-1])
    ]
    for cluster, slot in content:
        assert found[slot] == clusters[cluster][0]
    for index, record in zip(packs.index_packs, packs.records, strict=True):
        assert not any(stored[index.name][index.offsets[-1] :])
        assert record.size == len(stored[index.name])


def test_the_last_cluster_may_overflow_the_pack():
    # 1 MiB less one byte, then a whole cluster.
    clusters = [raw(n) for n in range(15)]
    clusters += [(b'z' * (C - 1), True), raw(16)]
    packs, content, _ = pack(clusters)
    assert [each.clusters for each in packs.records] == [17]
    assert len(list(content)) == 17


def test_marks_follow_what_is_stored():
    slow = threading.Event()

    class Store(memory.MemoryStore):
        def put(self, name, data):
            if name.endswith('pack-000001'):
                assert slow.wait(30)
            return super().put(name, data)

    content = contents.Content(100, 32)
    with executor.Executor(
        workers=1, reads=2, uploads=2, stop=executor.Stop()
    ) as threads:
        packs = packer.Packer(
            attempt=ATTEMPT,
            prefix='p/',
            cluster_size=C,
            pack_size=units.MiB,
            store=Store(),
            threads=threads,
            content=content,
            counters=progress.CaptureProgress(clock.ManualClock()),
        )

        def add(cluster, number):
            if content.add(cluster, digest(number)):
                packs.add(cluster, raw(number)[0], digest(number), False)

        for number in range(32):
            add(number * 2, number)
        # Seen before: they need no pack of their own.
        add(70, 3)
        # The first pack is not stored, though the second may be.
        assert packs.stored_mark() == packer.START
        slow.set()
        packs.finish(80)
    assert packs.stored_mark() == packer.Mark(2, 63, 32, 32)
    index_packs, records = packs.stored_packs(1, 2)
    assert [each.name for each in index_packs] == ['pack-000002']
    assert [each.name for each in records] == ['pack-000002']


def test_a_store_that_fails_ends_it():
    class Store(memory.MemoryStore):
        def put(self, name, data):
            raise errors.StoreFull('put', name, 'no room')

    with pytest.raises(errors.StoreFull):
        pack([raw(n) for n in range(100)], Store())
