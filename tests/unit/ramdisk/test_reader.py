# SPDX-License-Identifier: Apache-2.0
"""A disk as a row of clusters."""

import hypothesis
import pytest
from hypothesis import strategies

from ipa_snapshot_hardware import reader
from ipa_snapshot_hardware.disk import memory
from ironic_snapshot_core import errors

C = 4096


@hypothesis.given(
    sectors=strategies.integers(1, 100), per_read=strategies.integers(1, 5)
)
def test_clusters_are_the_disk_and_zeroes(sectors, per_read):
    content = bytes(range(1, 129)) * 4 * sectors
    with memory.MemoryDisk(content) as disk:
        clusters = reader.ClusterReader(disk, C, per_read * C)
        batches = list(clusters.batches())
    joined = b''.join(part for batch in batches for part in batch.clusters)
    assert joined[: len(content)] == content
    assert len(joined) == clusters.clusters * C
    assert not any(joined[len(content) :])
    assert [batch.first for batch in batches] == list(
        range(0, clusters.clusters, per_read)
    )
    assert all(
        type(part) is bytes for batch in batches for part in batch.clusters
    )


def test_a_bad_sector_ends_it():
    disk = memory.MemoryDisk(bytes(10 * C), bad=[(5 * C, 512)])
    clusters = reader.ClusterReader(disk, C, 2 * C)
    batches = clusters.batches()
    assert [next(batches).first, next(batches).first] == [0, 2]
    with pytest.raises(errors.DiskReadError):
        next(batches)
