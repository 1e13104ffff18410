# SPDX-License-Identifier: Apache-2.0
"""The second look."""

import random

import pytest

from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import reader
from ipa_snapshot_hardware import sample
from ipa_snapshot_hardware.disk import memory
from ironic_snapshot_core import digest
from ironic_snapshot_core import errors

C = 4096
CLUSTERS = 4096
DIGEST = digest.DEFAULT_DIGEST


def take(disk, seed='seed'):
    taken = sample.Sample(seed, CLUSTERS, C, DIGEST)
    for cluster in range(CLUSTERS):
        data = bytes(disk.content[cluster * C : (cluster + 1) * C])
        if data != bytes(C):
            taken.note(cluster, DIGEST.digest(data))
    return taken


def verify(taken, disk, stop=None):
    clusters = reader.ClusterReader(disk, C, 4 * C)
    taken.verify(clusters, disk.name, stop or executor.Stop())


@pytest.fixture
def disk():
    half = random.Random(0).randbytes(CLUSTERS // 2 * C)
    return memory.MemoryDisk(half + bytes(CLUSTERS // 2 * C))


def test_an_unchanged_disk(disk):
    verify(take(disk), disk)


@pytest.mark.parametrize('cluster', [0, 255, CLUSTERS - 1])
def test_the_edges_are_always_looked_at(disk, cluster):
    taken = take(disk)
    disk.content[cluster * C + 7] ^= 1
    with pytest.raises(errors.DiskChanged) as caught:
        verify(taken, disk)
    assert f'offset {cluster * C} ' in str(caught.value)


@pytest.mark.parametrize('start', [C * 1000, C * (CLUSTERS - 1000)])
def test_a_busy_writer_is_found(disk, start):
    taken = take(disk)
    for cluster in range(start // C, start // C + 500):
        disk.content[cluster * C] ^= 1
    with pytest.raises(errors.DiskChanged):
        verify(taken, disk)


def test_the_seed_decides(disk):
    def clusters(seed):
        return set(take(disk, seed)._digests)

    assert clusters('a') == clusters('a') != clusters('b')


def test_a_small_disk_is_read_whole():
    assert len(sample.Sample('seed', 5, C, DIGEST)) == 5


def test_it_can_be_cancelled(disk):
    stop = executor.Stop()
    stop.set()
    with pytest.raises(errors.Cancelled):
        verify(take(disk), disk, stop)
