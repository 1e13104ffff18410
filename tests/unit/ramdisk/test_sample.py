# SPDX-License-Identifier: Apache-2.0
"""The second look."""

import random

import hypothesis
import pytest
from hypothesis import strategies

from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import reader
from ipa_snapshot_hardware import sample
from ipa_snapshot_hardware.disk import memory
from ironic_snapshot_core import digest
from ironic_snapshot_core import errors
from ironic_snapshot_core import extent

C = 4096
CLUSTERS = 4096
DIGEST = digest.DEFAULT_DIGEST


class Taken:
    """What a disk read as at first, and a second look at it."""

    def __init__(self, disk, seed='seed', starts=(), stop=None, ranges=None):
        self.disk = disk
        extents = extent.DataExtents()
        for start, end in ranges or [(0, disk.size)]:
            extents.add(start, end)
        self.source = reader.ClusterReader(
            disk, extents, C, 4 * C, allow_bad_sectors=True
        )
        self.stop = stop or executor.Stop()
        self.chosen = sample.choose(seed, self.source.runs(), C, starts)
        self.digests = {}
        for cluster in self.chosen:
            data = bytes(self.source.read(cluster).view)
            if any(data):
                self.digests[cluster] = DIGEST.digest(data)

    def verify(self):
        sample.verify(
            self.chosen,
            self.source,
            DIGEST,
            self.digests.get,
            self.disk.name,
            self.stop,
        )


@pytest.fixture
def disk():
    half = random.Random(0).randbytes(CLUSTERS // 2 * C)
    return memory.MemoryDisk(half + bytes(CLUSTERS // 2 * C))


def test_an_unchanged_disk(disk):
    Taken(disk).verify()


@pytest.mark.parametrize('cluster', [0, 255, CLUSTERS - 1])
def test_the_edges_are_always_looked_at(disk, cluster):
    taken = Taken(disk)
    disk.content[cluster * C + 7] ^= 1
    with pytest.raises(errors.DiskChanged) as caught:
        taken.verify()
    assert f'offset {cluster * C} ' in str(caught.value)


def test_so_is_the_start_of_each_region(disk):
    taken = Taken(disk, starts=[C * 1234 + 512])
    disk.content[C * 1234 + 7] ^= 1
    with pytest.raises(errors.DiskChanged):
        taken.verify()


@pytest.mark.parametrize('start', [C * 1000, C * (CLUSTERS - 1000)])
def test_a_busy_writer_is_found(disk, start):
    taken = Taken(disk)
    for cluster in range(start // C, start // C + 500):
        disk.content[cluster * C] ^= 1
    with pytest.raises(errors.DiskChanged):
        taken.verify()


def test_what_is_no_data_may_change(disk):
    taken = Taken(disk, ranges=[(512, C), (C, 2 * C)])
    disk.content[0] ^= 1
    disk.content[5 * C] ^= 1
    taken.verify()
    disk.content[512] ^= 1
    with pytest.raises(errors.DiskChanged):
        taken.verify()


def test_what_went_bad_since_is_no_change(disk):
    taken = Taken(disk)
    disk._bad = [(0, 512)]
    taken.verify()


def test_the_seed_decides(disk):
    def clusters(seed):
        return Taken(disk, seed).chosen

    assert clusters('a') == clusters('a') != clusters('b')


def test_a_small_disk_is_read_whole():
    assert sample.choose('seed', [(0, 5)], C) == [0, 1, 2, 3, 4]


def test_a_disk_without_data_is_not_read():
    assert sample.choose('seed', [], C, [0, 7]) == []


@hypothesis.given(
    clusters=strategies.sets(strategies.integers(0, 2000), max_size=900),
    starts=strategies.lists(strategies.integers(0, 2000 * C), max_size=5),
)
def test_only_what_is_read_is_chosen(clusters, starts):
    extents = extent.DataExtents()
    for cluster in sorted(clusters):
        extents.add(cluster * C, cluster * C + C)
    chosen = sample.choose('seed', extents.clusters(C), C, starts)
    assert clusters.issuperset(chosen)
    assert chosen == sorted(set(chosen))
    assert len(chosen) >= min(len(clusters), sample.RANDOM_CLUSTERS)
    assert clusters.intersection(s // C for s in starts) <= set(chosen)


def test_it_can_be_cancelled(disk):
    stop = executor.Stop()
    taken = Taken(disk, stop=stop)
    stop.set()
    with pytest.raises(errors.Cancelled):
        taken.verify()
