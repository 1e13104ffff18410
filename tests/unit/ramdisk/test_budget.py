# SPDX-License-Identifier: Apache-2.0
"""The memory of a capture: what is given up, and when it is refused."""

import dataclasses
import os

import pytest

from ipa_snapshot_hardware import budget
from ironic_snapshot_core import codec
from ironic_snapshot_core import errors
from ironic_snapshot_core import units
from ironic_snapshot_core.store import memory as memory_store
from tests import handmade

MiB, GiB, TiB = units.MiB, units.GiB, units.TiB


def plan(**changes):
    wanted = {
        'disk_size': 10 * GiB,
        'cluster_size': 256 * units.KiB,
        'pack_size': 64 * MiB,
        'codec': codec.get_codec('zstd'),
        'workers': 4,
        'memory_limit': 4 * GiB,
    }
    return budget.plan(**(wanted | changes))


def test_enough_memory_gives_what_is_wanted():
    found = plan()
    assert (found.workers, found.uploads, found.pack_size) == (4, 2, 64 * MiB)
    assert found.reads > found.workers
    assert found.memory <= found.limit == 4 * GiB


def test_less_memory_takes_reads_uploads_workers_and_pack_size():
    seen = []
    limit = plan().memory
    while True:
        try:
            found = plan(memory_limit=limit)
        except errors.InvalidValue as error:
            assert error.what == 'memory_limit'
            break
        assert found.memory <= limit
        seen.append((found.uploads, found.workers, found.pack_size // MiB))
        limit = found.memory - 1
    assert seen == [
        # 8, 7, ... 2 reads ahead.
        *[(2, 4, 64)] * 7,
        (1, 4, 64),
        (1, 3, 64),
        (1, 2, 64),
        (1, 1, 64),
        (1, 1, 32),
        (1, 1, 16),
        (1, 1, 8),
        (1, 1, 4),
        (1, 1, 2),
        (1, 1, 1),
    ]


def test_refusal_says_what_is_needed():
    with pytest.raises(errors.InvalidValue) as caught:
        plan(memory_limit=16 * MiB)
    needed = int(str(caught.value).split('at least ')[1].split()[0])
    assert plan(memory_limit=needed).memory == needed


def test_a_pack_holds_at_least_one_cluster():
    found = plan(cluster_size=2 * MiB, memory_limit=120 * MiB)
    assert found.pack_size >= 2 * MiB


def fit(clusters, limit=64 * GiB, ranges=0):
    return budget.fit(
        plan(memory_limit=limit),
        cluster_size=256 * units.KiB,
        codec=codec.get_codec('zstd'),
        clusters=clusters,
        ranges=ranges,
    )


def test_only_what_is_in_use_counts():
    assert plan(disk_size=100 * TiB).memory == plan(disk_size=GiB).memory
    base = plan().memory
    # A few clusters: packs outweigh the encoding of the index.
    gathered = 1000 * budget.GATHERED_PER_CLUSTER
    assert fit(1000).memory - base == gathered
    assert fit(0, ranges=100).memory - base == 100 * budget.PER_RANGE
    # Many: encoding comes after the packs, and takes more.
    encoding = 1000 * budget.ENCODING_PER_CLUSTER
    many = 20 * 1000 * 1000
    assert fit(many + 1000).memory - fit(many).memory == gathered + encoding


def test_a_parent_counts():
    def with_parent(**known):
        return budget.fit(
            plan(memory_limit=64 * GiB),
            cluster_size=256 * units.KiB,
            codec=codec.get_codec('zstd'),
            clusters=1_335_000,
            **known,
        ).memory

    alone = with_parent()
    assert with_parent(shared=1000) - alone == (
        1000 * budget.SHARED_PER_CLUSTER
    )
    assert with_parent(spare=1000) - alone == 1000 * budget.SPARE_PER_CLUSTER
    # It is gone before anything is read.
    assert with_parent(index_bytes=50 * MiB) == alone
    assert with_parent(index_bytes=GiB) > alone + 3 * GiB


def test_350_gigabytes_upon_a_parent():
    clusters = 350 * 1000**3 // (256 * units.KiB)
    found = budget.fit(
        plan(memory_limit=64 * GiB, workers=2),
        cluster_size=256 * units.KiB,
        codec=codec.get_codec('zstd'),
        clusters=clusters,
        shared=clusters,
        index_bytes=37 * clusters,
    )
    assert found.memory < 400 * MiB


def test_metadata_of_a_terabyte():
    per_cluster = budget.GATHERED_PER_CLUSTER
    assert 4_000_000 * per_cluster <= 200 * 1000 * 1000


def test_what_is_in_use_may_be_too_much():
    with pytest.raises(errors.InvalidValue, match='at least'):
        fit(20 * 1000 * 1000, limit=512 * MiB)
    assert fit(600_000, limit=plan().memory).uploads == 1


def test_a_high_level_of_compression_counts():
    slow = plan(codec=codec.get_codec('zstd', 19))
    assert slow.memory > plan().memory + 4 * 4 * MiB


@pytest.mark.parametrize('name', ['zlib', 'none'])
def test_other_codecs(name):
    assert plan(codec=codec.get_codec(name)).workers == 4


def host(tmp_path, available):
    (tmp_path / 'meminfo').write_text(
        f'MemTotal: 99999999 kB\nMemAvailable: {available // 1024} kB\n'
    )
    return tmp_path


@pytest.mark.parametrize(
    ('available', 'limit'), [(1 * GiB, GiB // 2), (64 * GiB, GiB)]
)
def test_automatic_limit(tmp_path, available, limit):
    proc = host(tmp_path, available)
    found = plan(disk_size=GiB, memory_limit=0, proc=proc)
    assert limit <= found.limit <= limit + MiB


def test_a_large_disk_may_take_more(tmp_path):
    proc = host(tmp_path, 64 * GiB)
    found = plan(disk_size=8 * TiB, memory_limit=0, proc=proc)
    assert found.limit > 4 * GiB
    assert (found.workers, found.uploads) == (4, 2)


def test_automatic_workers():
    expected = min(len(os.sched_getaffinity(0)), 16)
    assert plan(workers=0).workers == expected


def test_a_restore_keeps_to_its_limit():
    """Reading ahead goes first, then fetches, then workers."""
    store = memory_store.MemoryStore()
    snapshot = handmade.History(store).capture(b'a' * MiB)
    found = budget.plan_restore(snapshot, workers=2)
    assert (found.workers, found.fetches) == (2, 4)
    assert found.reads > found.workers
    assert found.memory < 64 * MiB
    seen = []
    while True:
        ahead = found.reads - found.workers
        seen.append((ahead, found.fetches, found.workers))
        try:
            found = budget.plan_restore(
                snapshot, workers=2, memory_limit=found.memory - 1
            )
        except errors.InvalidValue as error:
            assert error.what == 'memory_limit'
            assert f'at least {found.memory} bytes' in str(error)
            break
        assert found.memory <= found.limit
    assert seen == sorted(seen, reverse=True)
    assert seen[0][1:] == (4, 2)
    # Another worker would take nothing more then.
    assert seen[-1] == (2, 1, 2)


def test_a_restore_of_a_large_disk_takes_little_more():
    store = memory_store.MemoryStore()
    small = handmade.History(store).capture(b'a' * MiB)
    disk = dataclasses.replace(small.disk, size=TiB)
    totals = dataclasses.replace(small.totals, virtual_bytes=TiB)
    large = dataclasses.replace(small, disk=disk, totals=totals)
    found = budget.plan_restore(large, workers=2)
    more = found.memory - budget.plan_restore(small, workers=2).memory
    # 16 million clusters of 64 KiB.
    assert 0 < more <= 16 * MiB * budget.RESTORED_PER_CLUSTER
