# SPDX-License-Identifier: Apache-2.0
"""A restore: what comes onto a disk, in which order, and what goes wrong."""

import dataclasses
import random

import pytest

from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware.disk import memory as memory_disk
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core import units
from ironic_snapshot_core.store import memory as memory_store
from tests import disks
from tests import faults
from tests import handmade
from tests import restoring

C = handmade.C
KiB, MiB = units.KiB, units.MiB
SECTOR = 512
# LBA 0 up to the end of the first GPT, and the second GPT.
FIRST, LAST = 34 * SECTOR, 33 * SECTOR
MARKER = b'ironic-snapshot: restore of '

# Ends in half a cluster.
DISK = disks.draw('aBbc--dE-Bf-', C) + disks.random_bytes(C // 2)
JUNK = disks.random_bytes(len(DISK), 'junk')


@pytest.fixture
def store():
    return memory_store.MemoryStore()


@pytest.fixture
def history(store):
    return handmade.History(store)


@pytest.fixture
def snapshot(history):
    return history.capture(DISK)


def junk(**options):
    return memory_disk.MemoryTarget(JUNK, **options)


def interrupted(store, snapshot, target, **options):
    """Restore; give why it was interrupted."""
    with pytest.raises(errors.RestoreInterrupted) as caught:
        restoring.run(store, snapshot, target, **options)
    assert caught.value.code == 'restore-interrupted'
    assert 'not bootable until the restore is run again' in str(caught.value)
    # Whatever was written, there is no boot sector.
    assert target.content[:SECTOR] != DISK[:SECTOR]
    return caught.value


class TestWhatComesOntoTheDisk:
    @pytest.mark.parametrize('workers', [1, 3])
    def test_every_generation_onto_every_target(
        self, store, history, workers
    ):
        pictures = ['aBbc--dE', 'aBbc-FdE', 'aaXc-FdE', '-aXc--dE', 'aBbc--dE']
        contents = [disks.draw(each, 2 * C) for each in pictures]
        parent, taken = None, []
        for content in contents:
            parent = history.capture(content, parent)
            taken.append(parent)
        size = len(contents[0])
        before = [*contents, bytes(size), disks.random_bytes(size, 'junk')]
        for content, snapshot in zip(contents, taken, strict=True):
            for other in before:
                target = memory_disk.MemoryTarget(other)
                found = restoring.run(store, snapshot, target, workers=workers)
                assert target.content == content
                assert found.touched == (other != content)

    def test_what_is_right_is_not_written_again(self, store, snapshot):
        target = junk()
        assert restoring.run(store, snapshot, target).touched
        del target.writes[:]
        found = restoring.run(store, snapshot, target)
        assert not found.touched
        assert target.writes == []
        assert found.totals.differing_clusters == 0
        assert found.totals.written_bytes == 0

    def test_only_what_differs_is_written(self, store):
        content = disks.random_bytes(64 * MiB)
        snapshot = handmade.History(store, codec='none').capture(content)
        changed = bytearray(content)
        numbers = random.Random(1).sample(range(2, len(content) // C - 2), 31)
        for number in numbers:
            changed[number * C + 7] ^= 1
        target = memory_disk.MemoryTarget(changed)
        found = restoring.run(store, snapshot, target)
        assert target.content == content
        assert found.totals.differing_clusters == len(numbers)
        assert found.totals.differing_bytes == len(numbers) * C
        written = sum(length for _, length in target.writes)
        assert found.totals.written_bytes == target.written == written
        assert written <= 1.05 * len(numbers) * C
        # Neither is more fetched than that, the ends and the documents.
        assert found.totals.fetched_bytes <= 1.05 * (len(numbers) + 2) * C
        # The guards apart, each cluster once and nothing else.
        clusters = sorted(
            number
            for offset, length in target.writes
            if FIRST <= offset and offset + length <= len(content) - LAST
            for number in range(offset // C, (offset + length) // C)
        )
        assert clusters == sorted(numbers)

    @pytest.mark.parametrize('place', [0, FIRST - 1, -1, -LAST])
    def test_the_ends_alone_are_put_right(self, store, snapshot, place):
        changed = bytearray(DISK)
        changed[place] ^= 1
        target = memory_disk.MemoryTarget(changed)
        found = restoring.run(store, snapshot, target)
        assert target.content == DISK
        assert found.touched
        assert found.totals.differing_clusters == 0
        assert found.totals.written_bytes <= 2 * (FIRST + LAST)

    def test_nothing_is_compared_on_a_blank_disk(self, store, snapshot):
        class Counting(memory_disk.MemoryTarget):
            read = 0

            def read_into(self, offset, buffer):
                self.read += len(buffer)
                super().read_into(offset, buffer)

        target = Counting(bytes(len(DISK)))
        found = restoring.run(store, snapshot, target, blank=True)
        assert target.content == DISK
        # The ends of it only, and what was written.
        assert found.totals.compared_bytes < 3 * C
        assert found.totals.zeroed_bytes == 0
        assert found.totals.written_bytes < len(DISK) - 3 * C

    def test_zeroes_are_written(self, store, history):
        content = bytes(10 * C)
        snapshot = history.capture(content)
        target = memory_disk.MemoryTarget(
            disks.random_bytes(len(content), 'junk')
        )
        found = restoring.run(store, snapshot, target)
        assert target.content == content
        assert found.totals.zeroed_bytes == 8 * C

    def test_a_degraded_snapshot_says_so(self, store, snapshot):
        lost = (manifest.Unreadable(4 * C, SECTOR),)
        degraded = dataclasses.replace(snapshot, unreadable=lost)
        target = junk()
        assert restoring.run(store, degraded, target).degraded
        assert target.content == DISK

    def test_zeroes_that_are_stored(self, store):
        """No capture does so, but the format allows it."""
        id = '33333333-3333-4333-8333-333333333333'
        attempt = handmade.store_attempt(store, id, [[bytes(C), b'a' * C]])
        places = {number: (attempt, number % 2) for number in range(6)}
        snapshot = handmade.store_snapshot(
            store, id, 6 * C, places, attempt.packs, [attempt]
        )
        content = (bytes(C) + b'a' * C) * 3
        for before in (content, disks.random_bytes(6 * C, 'junk')):
            target = memory_disk.MemoryTarget(before)
            found = restoring.run(store, snapshot, target)
            assert target.content == content
            assert found.touched == (before != content)

    def test_a_second_copy_heals(self, store, history):
        first = history.capture(DISK)
        names = [(each.attempt, each.name) for each in first.packs]
        second = history.capture(DISK, first, again=names)
        own = layout.attempt_prefix(second.lineage, second.id)
        for info in list(store.list(own)):
            if '/pack-' in info.name:
                store.put(info.name, bytes(info.size))
        target = junk()
        found = restoring.run(store, second, target)
        assert target.content == DISK
        assert found.repaired
        assert 'instead' in found.repaired[0]

    def test_what_it_says(self, store, snapshot):
        target = junk()
        found = restoring.run(store, snapshot, target)
        totals = found.totals
        assert found.snapshot == snapshot.id
        assert (found.grown, found.shrunk, found.degraded) == (0, 0, False)
        assert totals.virtual_bytes == totals.compared_bytes == len(DISK)
        assert totals.differing_clusters == len(DISK) // C + 1
        assert totals.differing_bytes == len(DISK)
        assert totals.zeroed_bytes == 4 * C
        assert set(found.timings) == {
            *('compare', 'write', 'verify', 'finish', 'total')
        }
        assert found.state.phase == 'finish'
        assert found.state.percent == 100
        assert found.state.to_dict()['written_bytes'] == target.written


class TestOrder:
    def test_nothing_boots_before_all_is_right(self, store, snapshot):
        """The guards come first and last, LBA 0 very first and very last."""
        seen = []

        class Watching(memory_disk.MemoryTarget):
            def write(self, offset, data):
                super().write(offset, data)
                seen.append((offset, len(data)))

            def flush(self):
                seen.append('flush')

        target = Watching(JUNK)
        restoring.run(store, snapshot, target)
        end = len(DISK) - LAST
        assert seen[:3] == [(0, FIRST), (end, LAST), 'flush']
        assert seen[-6:] == [
            'flush',
            (end, LAST),
            (SECTOR, FIRST - SECTOR),
            'flush',
            (0, SECTOR),
            'flush',
        ]
        for offset, length in seen[3:-6]:
            assert FIRST <= offset and offset + length <= end

    def test_the_marker_says_what_has_happened(self, store, snapshot):
        class Looking(memory_disk.MemoryTarget):
            looks = ()

            def flush(self):
                self.looks += (bytes(self.content[:FIRST]),)

        target = Looking(JUNK)
        restoring.run(store, snapshot, target)
        text = MARKER + snapshot.id.encode() + b' is not finished\n'
        for look in target.looks[:2]:
            assert look == text.ljust(FIRST, b'\0')
            assert look[510:512] != b'\x55\xaa'

    def test_what_others_see_of_it(self, store, snapshot):
        counters = progress.RestoreProgress(clocks.SystemClock())
        seen = []

        class Watching(memory_disk.MemoryTarget):
            def read_into(self, offset, buffer):
                seen.append(counters.state())
                super().read_into(offset, buffer)

            def write(self, offset, data):
                seen.append(counters.state())
                super().write(offset, data)

        restoring.run(store, snapshot, Watching(JUNK), counters=counters)
        phases = [state.phase for state in seen]
        order = progress.RESTORE_PHASES
        assert phases == sorted(phases, key=order.index)
        assert set(phases) == {'compare', 'write', 'verify', 'finish'}
        for state in seen:
            assert state.touched == (state.phase != 'compare')
            assert 0 <= state.percent <= 100
        moved = [state.moved for state in seen]
        assert moved == sorted(moved)
        assert 'MiB fetched and' in str(counters.state())


class Lost(Exception):
    """The machine is off."""


class PowerCut(memory_disk.MemoryTarget):
    """Ends at its n-th operation; what was not flushed may be lost.

    ``stable`` is what is on the medium for sure.
    """

    def __init__(self, data, number):
        super().__init__(data)
        self.stable = bytearray(data)
        self.left = number
        self.pending = []

    def write(self, offset, data):
        with self._lock:
            self._count()
            self.pending.append((offset, bytes(data)))
        super().write(offset, data)

    def flush(self):
        self._count()
        self.stable = bytearray(self.content)
        self.pending = []

    def remains(self, seed):
        """Give what the disk may be afterwards: some sectors are lost."""
        chosen = random.Random(seed)
        found = bytearray(self.stable)
        for offset, data in self.pending:
            for at in range(0, len(data), SECTOR):
                if chosen.random() < 0.5:
                    found[offset + at : offset + at + SECTOR] = data[
                        at : at + SECTOR
                    ]
        return found

    def _count(self):
        self.left -= 1
        if self.left < 0:
            raise Lost()


def test_power_cut_at_every_operation(store, snapshot):
    """Nothing boots from half a disk, and running it again ends it."""
    for number in range(100):
        target = PowerCut(JUNK, number)
        try:
            restoring.run(store, snapshot, target)
        except errors.RestoreInterrupted:
            pass
        else:
            assert target.content == DISK
            break
        for seed in range(3):
            left = target.remains(f'{number} {seed}')
            if left[:SECTOR] == DISK[:SECTOR]:
                assert left == DISK
            again = memory_disk.MemoryTarget(left)
            restoring.run(store, snapshot, again)
            assert again.content == DISK
    # Guards, at least one run of clusters and of zeroes, edges, flushes.
    assert number > 10


def only_pack(snapshot):
    """Give the record of the only pack, and its object's name."""
    (record,) = snapshot.packs
    prefix = layout.attempt_prefix(snapshot.lineage, snapshot.id)
    return record, prefix + record.name


class TestDamage:
    """No byte is written that is not what was captured."""

    @pytest.fixture
    def small(self, history):
        """The second of four clusters is in a pack of its own."""
        content = disks.draw('-a--', C)
        return history.capture(content), content

    def test_every_byte_of_a_pack(self, store, small):
        snapshot, content = small
        record, name = only_pack(snapshot)
        pack = store.get(name, MiB)
        length = record.live_bytes
        before = disks.random_bytes(len(content), 'junk')
        for position in range(length):
            damaged = bytearray(pack)
            damaged[position] ^= 1 << position % 8
            store.put(name, bytes(damaged))
            target = memory_disk.MemoryTarget(before)
            if position == 4 and damaged[4] & 0x10:
                # The one bit of a frame that means nothing: RFC 8878,
                # section 3.1.1.1.1.3.
                restoring.run(store, snapshot, target)
                assert target.content == content
                continue
            error = interrupted(store, snapshot, target)
            assert name in error.reason
            assert 'cluster 1 of the disk' in error.reason
            # Still what it was, and nothing boots.
            assert target.content[C : 2 * C] == before[C : 2 * C]
            assert target.content.startswith(MARKER)
            assert not any(target.content[-LAST:])
        assert length > 30
        store.put(name, pack)
        restoring.run(store, snapshot, target)
        assert target.content == content

    @pytest.mark.parametrize('cluster', ['first', 'last'])
    def test_at_the_ends_it_is_found_before_the_first_write(
        self, store, history, cluster
    ):
        content = disks.draw('a---' if cluster == 'first' else '---a', C)
        snapshot = history.capture(content)
        record, name = only_pack(snapshot)
        store.put(name, bytes(record.size))
        target = memory_disk.MemoryTarget(bytes(len(content)))
        with pytest.raises(errors.Corrupted, match=name):
            restoring.run(store, snapshot, target)
        assert target.writes == []

    @pytest.mark.parametrize('name', [layout.MAP, layout.INDEX])
    def test_documents(self, store, snapshot, name):
        full = layout.attempt_prefix(snapshot.lineage, snapshot.id) + name
        data = bytearray(store.get(full, MiB))
        data[-1] ^= 1
        store.put(full, bytes(data))
        target = junk()
        with pytest.raises(errors.Corrupted):
            restoring.run(store, snapshot, target)
        assert target.writes == []

    def test_a_pack_that_is_gone(self, store, small):
        snapshot, content = small
        _, name = only_pack(snapshot)
        store.delete(name)
        target = memory_disk.MemoryTarget(bytes(len(content)))
        assert name in interrupted(store, snapshot, target).reason


class TestBadTargets:
    @pytest.mark.parametrize(
        'place',
        [
            pytest.param(3 * C, id='cluster'),
            pytest.param(FIRST + SECTOR, id='edge'),
            pytest.param(4 * SECTOR, id='first guard'),
            pytest.param(len(DISK) - SECTOR, id='last guard'),
            pytest.param(0, id='LBA 0'),
        ],
    )
    def test_writes_that_lie_are_found(self, store, snapshot, place):
        class Lying(memory_disk.MemoryTarget):
            def write(self, offset, data):
                super().write(offset, data)
                if offset <= place < offset + len(data) and any(data):
                    self.content[place + 100] ^= 0x10

        target = Lying(DISK[:C] + JUNK[C : -2 * C] + DISK[-2 * C :])
        # So that each of the pieces differs.
        target.content[place] ^= 1
        error = interrupted(store, snapshot, target)
        assert 'do not read back as they were written' in error.reason
        assert isinstance(error.__cause__, errors.RestoreVerifyFailed)

    def test_bad_sectors_are_written(self, store, snapshot):
        """What cannot be read differs; disks replace what is written."""

        class Replacing(memory_disk.MemoryTarget):
            def write(self, offset, data):
                super().write(offset, data)
                self._bad = [
                    (start, end)
                    for start, end in self._bad
                    if not offset <= start < offset + len(data)
                ]

        # In data, in zeroes, at the start, and where it matters most.
        bad = [(place, SECTOR) for place in (3 * C, 5 * C, FIRST, 0)]
        target = Replacing(DISK, bad=bad)
        found = restoring.run(store, snapshot, target)
        assert target.content == DISK
        assert found.totals.differing_clusters == 3

    def test_bad_sectors_that_stay(self, store, snapshot):
        target = junk(bad=[(3 * C, SECTOR)])
        error = interrupted(store, snapshot, target)
        assert isinstance(error.__cause__, errors.DiskReadError)
        assert 'sectors 384-384' in error.reason

    def test_a_write_that_fails(self, store, snapshot):
        class Failing(memory_disk.MemoryTarget):
            def write(self, offset, data):
                if offset >= 3 * C:
                    raise errors.DiskWriteError(
                        self.name, 'S1', offset, len(data), SECTOR, 'EIO'
                    )
                super().write(offset, data)

        error = interrupted(store, snapshot, Failing(JUNK))
        assert 'cannot write sectors' in error.reason


class TestStore:
    def test_an_error_before_the_first_write_is_a_plain_one(
        self, store, snapshot
    ):
        broken = faults.Faults()
        broken.on('get').times(None).raise_(errors.StoreUnavailable)
        target = junk()
        with pytest.raises(errors.StoreUnavailable):
            restoring.run(faults.FaultyStore(store, broken), snapshot, target)
        assert target.writes == []

    def test_nothing_is_changed_in_it(self, store, snapshot):
        before = {info.name: info for info in store.list('')}
        watched = faults.Faults()
        restoring.run(faults.FaultyStore(store, watched), snapshot, junk())
        assert {info.name: info for info in store.list('')} == before
        assert {operation for operation, _ in watched.calls} == {
            'get',
            'get_range',
        }

    def test_no_faster_than_allowed(self, store):
        content = disks.draw('ABCDEFG', C)
        snapshot = handmade.History(store, clusters=1).capture(content)
        clock = clocks.ManualClock()
        found = restoring.run(
            store,
            snapshot,
            memory_disk.MemoryTarget(bytes(len(content))),
            clock=clock,
            bandwidth_limit=64 * KiB,
        )
        # The last pieces are not waited for, but for what comes next.
        least = (found.totals.fetched_bytes - 2 * C) / (64 * KiB) - 0.25
        assert clock.monotonic() >= least > 2


class TestStopping:
    def test_before_the_first_write(self, store, snapshot):
        stop = executor.Stop()
        stop.set()
        target = junk()
        with pytest.raises(errors.Cancelled):
            restoring.run(store, snapshot, target, stop=stop)
        assert target.writes == []

    def test_after_the_first_write(self, store, snapshot):
        stop = executor.Stop()

        class Stopping(memory_disk.MemoryTarget):
            def flush(self):
                stop.set()

        target = Stopping(JUNK)
        error = interrupted(store, snapshot, target, stop=stop)
        assert 'cancelled' in error.reason
        again = memory_disk.MemoryTarget(target.content)
        restoring.run(store, snapshot, again)
        assert again.content == DISK
