# SPDX-License-Identifier: Apache-2.0
"""Targets of another size; those with a GPT are in the contract tests."""

import struct

import pytest

from ipa_snapshot_hardware.disk import memory as memory_disk
from ironic_snapshot_core import errors
from ironic_snapshot_core.store import memory as memory_store
from tests import disks
from tests import handmade
from tests import restoring

C = handmade.C
SECTOR = 512
LAST = 33 * SECTOR


@pytest.fixture
def store():
    return memory_store.MemoryStore()


def mbr(*partitions):
    """Make an MBR of partitions: (first sector, number of sectors)."""
    start = bytearray(SECTOR)
    for number, place in enumerate(partitions):
        struct.pack_into('<4xB3xII', start, 446 + 16 * number, 0x83, *place)
    start[510:] = b'\x55\xaa'
    return bytes(start)


def restore(store, content, target):
    snapshot = handmade.History(store).capture(content)
    found = restoring.run(store, snapshot, target)
    assert found.grown - found.shrunk == target.size - len(content)
    return found


@pytest.mark.parametrize('more', [SECTOR, LAST, C // 2, C, 5 * C + SECTOR])
@pytest.mark.parametrize('start', [b'', mbr((64, 128))])
def test_a_larger_target(store, start, more):
    content = start + disks.draw('aB-Cb', C)[len(start) :]
    junk = disks.random_bytes(len(content) + more, 'junk')
    target = memory_disk.MemoryTarget(junk)
    restore(store, content, target)
    assert target.content.startswith(content)
    # What nobody has written stays, but for a GPT that may be at the end.
    left = target.content[len(content) :]
    kept = max(more - LAST, 0)
    assert left[:kept] == junk[len(content) :][:kept]
    assert left[kept:] == bytes(more - kept)
    del target.writes[:]
    restore(store, content, target)
    assert target.writes == []


@pytest.mark.parametrize('less', [SECTOR, LAST, C // 2, C, 2 * C + SECTOR])
@pytest.mark.parametrize('start', [b'', mbr((64, 128))])
def test_a_smaller_target(store, start, less):
    content = start + disks.draw('aB-Cb', C)[len(start) :] + bytes(3 * C)
    size = len(content) - less
    target = memory_disk.MemoryTarget(disks.random_bytes(size, 'junk'))
    restore(store, content, target)
    assert target.content == content[:size]
    del target.writes[:]
    restore(store, content, target)
    assert target.writes == []


@pytest.mark.parametrize(
    ('content', 'needed'),
    [
        pytest.param(
            disks.draw('aB-C', C) + b'x' + bytes(2 * C - 1),
            4 * C + 1,
            id='one byte',
        ),
        pytest.param(
            mbr((64, 128), (256, 300)) + bytes(6 * C - SECTOR),
            556 * SECTOR,
            id='partition',
        ),
    ],
)
def test_a_target_that_is_too_small(store, content, needed):
    target = memory_disk.MemoryTarget(bytes(4 * C))
    with pytest.raises(errors.DiskUnsuitable, match=f'at byte {needed} '):
        restore(store, content, target)
    assert target.writes == []
    # The least that will do.
    size = -(-needed // SECTOR) * SECTOR
    target = memory_disk.MemoryTarget(bytes(size))
    restore(store, content, target)
    assert target.content == content[:size]


def test_a_boot_sector_is_no_partition_table(store):
    """FAT has code where an MBR has partitions."""
    start = bytearray(disks.random_bytes(SECTOR))
    start[446] = 0x33
    start[510:] = b'\x55\xaa'
    content = bytes(start) + bytes(6 * C - SECTOR)
    target = memory_disk.MemoryTarget(bytes(4 * C))
    restore(store, content, target)
    assert target.content == content[: 4 * C]


@pytest.mark.parametrize('size', [SECTOR, 20 * SECTOR, 50 * SECTOR])
def test_a_tiny_disk(store, size):
    content = disks.random_bytes(size)
    target = memory_disk.MemoryTarget(bytes(size))
    restore(store, content, target)
    assert target.content == content
