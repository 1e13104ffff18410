# SPDX-License-Identifier: Apache-2.0
"""Reading on past bad sectors."""

import itertools

import hypothesis
import pytest
from hypothesis import strategies

from ipa_snapshot_hardware import salvage
from ipa_snapshot_hardware.disk import memory
from ironic_snapshot_core import errors
from ironic_snapshot_core import manifest
from ironic_snapshot_core import units

KiB, MiB = units.KiB, units.MiB
CONTENT = bytes(range(1, 129)) * 8192


class CountingDisk(memory.MemoryDisk):
    """Counts the reads it is asked for."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.reads = 0

    def read_into(self, offset, buffer):
        self.reads += 1
        super().read_into(offset, buffer)


def read(disk, size=256 * KiB):
    """Read a disk in pieces; give what came and what did not."""
    salvager = salvage.Salvage(disk)
    found = bytearray(disk.size)
    view = memoryview(found)
    for offset in range(0, disk.size, size):
        salvager.read_into(offset, view[offset : offset + size])
    return bytes(found), salvager.runs


def expected(runs):
    content = bytearray(CONTENT)
    for start, end in runs:
        content[start:end] = bytes(end - start)
    return bytes(content)


def test_a_good_disk():
    assert read(memory.MemoryDisk(CONTENT)) == (CONTENT, [])


@pytest.mark.parametrize(
    'bad',
    [
        [(0, 512)],
        [(5 * KiB, 512)],
        [(MiB - 512, 512)],
        [(256 * KiB - 512, 1024)],
        [(10 * KiB, 4096), (20 * KiB, 512), (700 * KiB, 512)],
    ],
)
def test_few_bad_sectors_are_found_exactly(bad):
    content, runs = read(memory.MemoryDisk(CONTENT, bad=bad))
    assert runs == [(start, start + length) for start, length in bad]
    assert content == expected(runs)


def test_what_failed_before_is_kept():
    disk = memory.MemoryDisk(CONTENT, bad=[(512 * KiB, 512)])
    salvager = salvage.Salvage(disk, [(0, 512)])
    salvager.read_into(512 * KiB, memoryview(bytearray(512)))
    assert salvager.runs == [(0, 512), (512 * KiB, 512 * KiB + 512)]


@hypothesis.given(
    bad=strategies.lists(
        strategies.tuples(
            strategies.integers(0, 2047), strategies.integers(1, 300)
        ),
        max_size=6,
    ),
    size=strategies.sampled_from([64 * KiB, 96 * KiB, 512 * KiB]),
)
@hypothesis.settings(deadline=None, max_examples=60)
def test_nothing_is_zero_in_silence(bad, size):
    bad = [(first * 512, count * 512) for first, count in bad]
    disk = memory.MemoryDisk(CONTENT, bad=bad)
    content, runs = read(disk, size)
    assert content == expected(runs)
    assert all(one[1] < two[0] for one, two in itertools.pairwise(runs))
    covered = bytearray(len(CONTENT))
    for start, end in runs:
        covered[start:end] = b'x' * (end - start)
    for start, length in bad:
        end = min(start + length, len(CONTENT))
        assert covered[start:end] == b'x' * (end - start)


def test_a_dead_region_does_not_take_forever():
    size = 64 * MiB
    disk = CountingDisk(bytes(size), bad=[(8 * MiB, 32 * MiB)])
    _, runs = read(disk, 4 * MiB)
    ((start, end),) = runs
    assert start == 8 * MiB
    assert 40 * MiB <= end <= 56 * MiB
    # Every failing read asks the disk a dozen times.
    assert disk.reads < 60


def test_a_failing_stretch_is_expected():
    disk = memory.MemoryDisk(CONTENT, bad=[(0, 128 * KiB)])
    salvager = salvage.Salvage(disk)
    salvager.expect(0, 64 * KiB)
    salvager.read_into(0, memoryview(bytearray(64 * KiB)))
    with pytest.raises(errors.DiskReadError):
        salvager.expect(64 * KiB, 128 * KiB)
    salvager.read_into(MiB - 512, memoryview(bytearray(512)))
    salvager.expect(0, 64 * KiB)


def test_too_many_runs(monkeypatch):
    monkeypatch.setattr(manifest, 'MAX_UNREADABLE', 3)
    bad = [(number * 4096, 512) for number in range(4)]
    with pytest.raises(errors.DiskReadError, match='more than 3 runs'):
        read(memory.MemoryDisk(CONTENT, serial='S', bad=bad))
