# SPDX-License-Identifier: Apache-2.0
"""The clusters of a disk that hold data."""

import hypothesis
import pytest
from hypothesis import strategies

from ipa_snapshot_hardware import reader
from ipa_snapshot_hardware.disk import memory
from ironic_snapshot_core import errors
from ironic_snapshot_core import extent

C = 4096


def make(disk, ranges=None, per_read=2, **options):
    extents = extent.DataExtents()
    for start, end in ranges or [(0, disk.size)]:
        extents.add(start, end)
    return reader.ClusterReader(disk, extents, C, per_read * C, **options)


def read(source, first=0):
    """Give all clusters by their numbers, and the bytes read."""
    found = {}
    size = 0
    for batch in source.batches(first):
        for position, number in enumerate(batch.numbers):
            found[number] = bytes(
                batch.view[position * C : (position + 1) * C]
            )
        size += batch.size
        batch.release()
    return found, size


def pattern(sectors):
    return bytes(range(1, 129)) * 4 * sectors


@hypothesis.given(
    sectors=strategies.integers(1, 100), per_read=strategies.integers(1, 5)
)
def test_clusters_are_the_disk_and_zeroes(sectors, per_read):
    content = pattern(sectors)
    source = make(memory.MemoryDisk(content), per_read=per_read)
    found, size = read(source)
    assert list(found) == list(range(-(-len(content) // C)))
    joined = b''.join(found.values())
    assert joined[: len(content)] == content
    assert not any(joined[len(content) :])
    assert size == len(content)


@hypothesis.given(
    edges=strategies.lists(
        strategies.integers(0, 100 * 512), unique=True, max_size=12
    ),
    per_read=strategies.integers(1, 5),
    first=strategies.integers(0, 13),
)
def test_only_data_is_there_and_the_rest_is_zero(edges, per_read, first):
    content = pattern(100)
    edges.sort()
    ranges = list(zip(edges[::2], edges[1::2], strict=False))
    source = make(memory.MemoryDisk(content), ranges or [(0, 0)], per_read)
    masked = bytearray(13 * C)
    for start, end in ranges:
        masked[start:end] = content[start:end]
    wanted = {
        number
        for start, end in ranges
        for number in range(start // C, -(-end // C))
        if number >= first
    }
    found, size = read(source, first)
    assert found == {
        number: bytes(masked[number * C : (number + 1) * C])
        for number in sorted(wanted)
    }
    assert size == sum(min(C, len(content) - each * C) for each in wanted)


def test_what_is_no_data_is_never_read():
    class Disk(memory.MemoryDisk):
        def read_into(self, offset, buffer):
            assert offset >= 4 * C
            assert offset + len(buffer) <= 6 * C
            super().read_into(offset, buffer)

    found, _ = read(make(Disk(pattern(100)), [(4 * C + 7, 6 * C - 9)]))
    assert list(found) == [4, 5]


def test_scattered_clusters_share_a_batch():
    disk = memory.MemoryDisk(pattern(100))
    ranges = [(number * C, number * C + 1) for number in range(0, 12, 2)]
    batches = list(make(disk, ranges, per_read=4).batches())
    assert [list(batch.numbers) for batch in batches] == [
        [0, 2, 4, 6],
        [8, 10],
    ]


def test_buffers_are_used_again():
    source = make(memory.MemoryDisk(pattern(100)))
    seen = set()
    for batch in source.batches():
        seen.add(id(batch._buffer))
        batch.release()
    assert len(seen) == 1


def test_one_cluster_again():
    content = pattern(100)
    source = make(memory.MemoryDisk(content), [(C + 5, 2 * C)])
    batch = source.read(1)
    assert bytes(batch.view) == bytes(5) + content[C + 5 : 2 * C]


def test_a_bad_sector_ends_it():
    disk = memory.MemoryDisk(bytes(10 * C), bad=[(5 * C, 512)])
    batches = make(disk).batches()
    assert [list(next(batches).numbers) for _ in range(2)] == [
        [0, 1],
        [2, 3],
    ]
    with pytest.raises(errors.DiskReadError):
        next(batches)


@pytest.mark.parametrize('allow', [False, True])
def test_a_bad_sector_without_data_is_no_loss(allow):
    content = pattern(80)
    disk = memory.MemoryDisk(content, bad=[(5 * C, 512)])
    source = make(
        disk, [(0, 5 * C), (5 * C + 512, 10 * C)], allow_bad_sectors=allow
    )
    found, _ = read(source)
    assert found[5] == bytes(512) + content[5 * C + 512 : 6 * C]
    assert list(source.unreadable) == []


def test_bad_sectors_are_recorded():
    content = pattern(80)
    disk = memory.MemoryDisk(content, bad=[(5 * C, 512), (7 * C, 1024)])
    source = make(disk, allow_bad_sectors=True, unreadable=[(0, 512)])
    found, _ = read(source)
    assert list(source.unreadable) == [
        (0, 512),
        (5 * C, 5 * C + 512),
        (7 * C, 7 * C + 1024),
    ]
    assert found[5] == bytes(512) + content[5 * C + 512 : 6 * C]
    assert found[8] == content[8 * C : 9 * C]
