# SPDX-License-Identifier: Apache-2.0
"""Restores onto real disks: loop devices, files, partition tables."""

import hashlib
import json
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st

from ipa_snapshot_hardware.disk import memory as memory_disk
from ipa_snapshot_hardware.disk import target as targets
from ironic_snapshot_core import errors
from ironic_snapshot_core import units
from ironic_snapshot_core.store import directory
from ironic_snapshot_core.store import memory as memory_store
from tests import disks
from tests import handmade
from tests import restoring
from tests.contract import disk_contract
from tests.contract import generations

C = handmade.C
KiB, MiB = units.KiB, units.MiB
MARKER = b'ironic-snapshot: restore of '


class TargetContract(disk_contract.DiskContract):
    """One method for each promise of target.Target."""

    @pytest.mark.parametrize('aligned', [True, False])
    def test_writes_exactly_what_is_asked(self, disk, content, aligned):
        data = disks.random_bytes(3 * MiB + 4096, 'written')
        buffer = mmap.mmap(-1, len(data) + 1)
        start = 0 if aligned else 1
        view = memoryview(buffer)[start : start + len(data)]
        view[:] = data
        disk.write(8192, view)
        disk.flush()
        found = bytearray(disk.size)
        disk.read_into(0, found)
        end = 8192 + len(data)
        assert found == content[:8192] + data + content[end:]
        assert disk.written == len(data)

    @pytest.mark.parametrize(
        ('offset', 'length'),
        [
            (-4096, 4096),
            (0, 100),
            (100, 4096),
            (disk_contract.SIZE, 4096),
            (disk_contract.SIZE - 4096, 8192),
        ],
    )
    def test_nothing_else_is_written(self, disk, offset, length):
        with pytest.raises(ValueError, match='no whole sectors'):
            disk.write(offset, bytes(length))
        assert disk.written == 0

    def test_a_closed_one_is_not_written(self, disk):
        disk.close()
        with pytest.raises(ValueError, match='closed'):
            disk.write(0, bytes(4096))


class TestMemoryTarget(disk_contract.InMemory, TargetContract):
    make = memory_disk.MemoryTarget


class TestFileTarget(disk_contract.OnFile, TargetContract):
    make = targets.BlockTarget


@disks.needs_loop
class TestDeviceTarget(disk_contract.OnDevice, TargetContract):
    make = targets.BlockTarget


@disks.needs_loop
class TestDeviceTarget4K(TestDeviceTarget):
    sector_size = 4096


@disks.needs_loop
class TestDeviceTargetWithoutDirect(TestDeviceTarget):
    @pytest.fixture(autouse=True)
    def refuse_direct(self, disk, monkeypatch):
        disk_contract.refuse_direct(monkeypatch, 'pwrite')


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


class TestRefused:
    """Before the first write: the disk stays what it was."""

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / 'disk'
        path.write_bytes(disks.random_bytes(16 * MiB))
        before = digest(path)
        yield path
        assert digest(path) == before

    @disks.needs_loop
    def test_mounted(self, tmp_path):
        path, folder = tmp_path / 'disk', tmp_path / 'mnt'
        path.write_bytes(bytes(16 * MiB))
        folder.mkdir()
        with disks.loop_device(path) as device:
            with disks.mounted(device, folder):
                before = digest(path)
                with pytest.raises(errors.DiskBusy, match='mounted at'):
                    targets.BlockTarget(device)
                assert digest(path) == before

    @disks.needs_loop
    def test_held(self, path):
        with disks.loop_device(path) as device:
            held = os.open(device, os.O_RDONLY | os.O_EXCL)
            try:
                with pytest.raises(errors.DiskBusy, match='held by'):
                    targets.BlockTarget(device)
            finally:
                os.close(held)

    @disks.needs_loop
    def test_write_protected(self, path):
        with disks.loop_device(path, read_only=True) as device:
            with pytest.raises(errors.DiskUnsuitable, match='write-prot'):
                targets.BlockTarget(device)

    @disks.needs_loop
    def test_a_file_that_is_a_disk(self, path):
        with disks.loop_device(path):
            with pytest.raises(errors.DiskBusy, match='by loop device'):
                targets.BlockTarget(str(path))

    def test_two_at_a_time(self, path):
        with targets.BlockTarget(str(path)):
            with pytest.raises(errors.DiskBusy, match='locked'):
                targets.BlockTarget(str(path))

    @pytest.mark.parametrize(
        ('error', 'options', 'size'),
        [
            (errors.TargetMismatch, {'verb': 'rollback'}, 8 * MiB),
            (errors.TargetMismatch, {'target_serial': 'S1'}, 16 * MiB),
            (errors.DiskUnsuitable, {}, 32 * MiB),
        ],
    )
    def test_not_the_disk(self, path, error, options, size):
        store = memory_store.MemoryStore()
        content = bytes(size - C) + b'x' * C
        snapshot = handmade.History(store).capture(content)
        with targets.BlockTarget(str(path)) as target:
            with pytest.raises(error):
                restoring.run(store, snapshot, target, **options)
            assert target.written == 0

    def test_a_file_made_anew_replaces_none(self, path):
        with pytest.raises(FileExistsError):
            targets.BlockTarget.create(str(path), MiB)


def test_a_new_file_has_holes(tmp_path):
    store = memory_store.MemoryStore()
    content = disks.draw('aB------c---B---', 4 * C)
    snapshot = handmade.History(store).capture(content)
    path = tmp_path / 'disk'
    with targets.BlockTarget.create(str(path), len(content)) as target:
        restoring.run(store, snapshot, target, blank=True)
    assert path.read_bytes() == content
    found = path.stat()
    assert found.st_blocks * 512 <= 5 * 4 * C
    assert found.st_mode & 0o777 == 0o600


def fdisk(path, sector, *commands):
    """Give what it prints, remarks included."""
    return subprocess.run(
        ['fdisk', f'--sector-size={sector}', path],
        check=True,
        input='\n'.join([*commands, '']).encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=30,
    ).stdout.decode()


@disks.needs_loop
@pytest.mark.skipif(
    not all(map(shutil.which, ('fdisk', 'sgdisk'))),
    reason='fdisk and sgdisk are needed',
)
@pytest.mark.parametrize('sector', [512, 4096])
class TestPartitionTables:
    """Larger and smaller disks, and disks beside them."""

    SIZE = 16 * MiB

    @pytest.fixture
    def content(self, tmp_path, sector):
        """Two partitions; the last ends at 9 MiB."""
        path = tmp_path / 'source'
        path.write_bytes(bytes(self.SIZE))
        fdisk(
            path, sector, 'g', 'n', '1', str(2 * MiB // sector), '+3M',
            'n', '7', '', '+4M', 'w',
        )  # fmt: skip
        content = bytearray(path.read_bytes())
        content[2 * MiB : 5 * MiB] = disks.random_bytes(3 * MiB)
        content[9 * MiB - 100 : 9 * MiB] = b'x' * 100
        return bytes(content)

    @pytest.fixture
    def store(self):
        return memory_store.MemoryStore()

    @pytest.fixture
    def snapshot(self, store, content, sector):
        repository = generations.Repository(store)
        return repository.take(
            memory_disk.MemoryDisk(content, logical_sector_size=sector)
        )

    @pytest.mark.parametrize(
        'size', [SIZE, SIZE + 4096, 3 * SIZE, 10 * MiB, 9 * MiB + 20 * KiB]
    )
    def test_the_table_is_sound(
        self, tmp_path, store, snapshot, content, sector, size
    ):
        path = tmp_path / 'disk'
        path.write_bytes(disks.random_bytes(size, 'junk'))
        beside = tmp_path / 'beside'
        beside.write_bytes(disks.random_bytes(MiB, 'beside'))
        before = digest(beside)
        with (
            disks.loop_device(beside, sector),
            disks.loop_device(path, sector) as device,
        ):
            with targets.BlockTarget(device) as target:
                found = restoring.run(store, snapshot, target)
            with targets.BlockTarget(device) as target:
                again = restoring.run(store, snapshot, target)
        assert not again.touched
        assert found.grown == max(size - self.SIZE, 0)
        assert found.shrunk == max(self.SIZE - size, 0)
        left = path.read_bytes()
        # All between the two tables.
        assert left[MiB : 9 * MiB] == content[MiB : 9 * MiB]
        if size == self.SIZE:
            assert left == content
        # Where the second table was there is none to be found.
        assert left[MiB:].count(b'EFI PART') == 1
        checked = fdisk(path, sector, 'v', 'q')
        assert 'No errors detected' in checked
        assert 'will be corrected' not in checked
        assert 'not on the end' not in checked
        if sector == 512:
            verified = subprocess.run(
                ['sgdisk', '--verify', path], check=True, capture_output=True
            )
            assert b'No problems found' in verified.stdout
        assert digest(beside) == before

    def test_too_small(self, tmp_path, store, snapshot, sector):
        path = tmp_path / 'disk'
        path.write_bytes(disks.random_bytes(9 * MiB, 'junk'))
        before = digest(path)
        with disks.loop_device(path, sector) as device:
            with targets.BlockTarget(device) as target:
                with pytest.raises(errors.DiskUnsuitable, match='too small'):
                    restoring.run(store, snapshot, target)
        assert digest(path) == before

    def test_other_sectors(self, tmp_path, store, snapshot, sector):
        path = tmp_path / 'disk'
        path.write_bytes(disks.random_bytes(self.SIZE, 'junk'))
        before = digest(path)
        other = 4096 if sector == 512 else 512
        with disks.loop_device(path, other) as device:
            with targets.BlockTarget(device) as target:
                with pytest.raises(errors.DiskUnsuitable, match='sectors of'):
                    restoring.run(store, snapshot, target)
        assert digest(path) == before


@disks.needs_loop
def test_no_other_disk_is_written(tmp_path, monkeypatch):
    """Every write of the process goes to the target, and within it."""
    store = memory_store.MemoryStore()
    content = disks.draw('aB-cD-eF', 4 * C)
    snapshot = handmade.History(store).capture(content)
    path = tmp_path / 'disk'
    path.write_bytes(disks.random_bytes(len(content), 'junk'))
    seen = []
    for name in ('write', 'writev', 'pwrite', 'pwritev'):
        real = getattr(os, name)

        def trap(fd, data, *rest, real=real):
            seen.append((os.readlink(f'/proc/self/fd/{fd}'), *rest, len(data)))
            return real(fd, data, *rest)

        monkeypatch.setattr(os, name, trap)
    with disks.loop_device(path) as device:
        with targets.BlockTarget(device) as target:
            found = restoring.run(store, snapshot, target)
    monkeypatch.undo()
    assert path.read_bytes() == content
    assert {where for where, *_ in seen} == {device}
    assert sum(length for *_, length in seen) == found.totals.written_bytes
    assert all(
        0 <= offset and offset + length <= len(content)
        for _, offset, length in seen
    )


class TestProcess:
    """A restore in a process of its own, from a directory."""

    @staticmethod
    def run(folder, path, *options):
        return subprocess.run(
            [
                *(sys.executable, '-m', 'tests.contract.restore_process'),
                *(str(folder), str(path), *map(str, options)),
            ],
            stdout=subprocess.PIPE,
            check=False,
        )

    def test_killed_at_any_operation(self, tmp_path):
        content = disks.draw('aBcD--eFgH-a', 4 * C)
        folder, path = tmp_path / 'store', tmp_path / 'disk'
        folder.mkdir()
        handmade.History(directory.DirectoryStore(folder)).capture(content)
        path.write_bytes(disks.random_bytes(len(content), 'junk'))
        whole = json.loads(self.run(folder, path, '--kill-at', 1000).stdout)
        count = whole['operations']
        assert path.read_bytes() == content
        # Before the first write, between the guards, behind their flush,
        # among the clusters; then before the guards, before and behind LBA 0.
        # tests/unit/ramdisk/test_restore.py has each of them.
        for number in (0, 1, 3, 5, count - 5, count - 2, count - 1):
            path.write_bytes(disks.random_bytes(len(content), 'junk'))
            ended = self.run(folder, path, '--kill-at', number)
            assert ended.returncode == -signal.SIGKILL
            left = path.read_bytes()
            if 0 < number < count - 1:
                assert left.startswith(MARKER)
            target = targets.BlockTarget(str(path))
            store = directory.DirectoryStore(folder)
            with target:
                restoring.run(store, self.manifest(store), target)
            assert path.read_bytes() == content

    @staticmethod
    def manifest(store):
        (entry,) = generations.catalogue.entries(store, None)
        return entry.manifest

    def test_memory(self, tmp_path):
        """It keeps to its bound, however much there is to write."""
        size = 512 * MiB
        folder, path = tmp_path / 'store', tmp_path / 'disk'
        folder.mkdir()
        pieces = [disks.random_bytes(MiB, number) for number in range(128)]
        chosen = random.Random(1)
        content = b''.join(
            bytes(MiB) if number % 4 else pieces[number // 4]
            for number in chosen.sample(range(512), 512)
        )
        generations.Repository(
            directory.DirectoryStore(folder), cluster_size=256 * KiB,
            pack_size=16 * MiB,
        ).take(content)  # fmt: skip
        with targets.BlockTarget.create(str(path), size):
            pass
        for options in (['--blank'], []):
            if not options:
                with open(path, 'r+b') as file:
                    file.write(pieces[0] * 256)
            found = json.loads(self.run(folder, path, *options).stdout)
            assert found['peak'] - found['baseline'] < found['bound']
        assert path.read_bytes() == content


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_what_was_captured_is_restored(data):
    """restore(capture(disk), anything) is the disk; real captures."""
    letters = data.draw(st.text('abAB--', min_size=1, max_size=12))
    content = disks.draw(letters, data.draw(st.sampled_from([C // 4, C])))
    content += bytes(512 * data.draw(st.integers(0, 200)))
    changed = bytearray(content)
    for place in data.draw(
        st.lists(st.integers(0, len(content) - 1), max_size=4)
    ):
        changed[place] ^= 0xFF
    repository = generations.Repository(memory_store.MemoryStore())
    taken = [(repository.take(each), each) for each in (content, changed)]
    before = data.draw(
        st.sampled_from(
            [
                bytes(len(content)),
                disks.random_bytes(len(content), 'junk'),
                bytes(changed),
            ]
        )
    )
    workers = data.draw(st.integers(1, 4))
    target = memory_disk.MemoryTarget(before)
    for snapshot, expected in taken:
        found = restoring.run(
            repository.store, snapshot, target, workers=workers
        )
        assert target.content == expected
        assert found.totals.written_bytes <= (
            found.totals.differing_bytes + 2 * (34 + 33) * 512
        )


def test_all_generations_of_a_lineage(tmp_path):
    """Each onto the file that the one before has left, and back."""
    model = generations.Model(8 * MiB, C, seed='restore')
    repository = generations.Repository(memory_store.MemoryStore())
    taken = []
    model.fill(0.7)
    for _ in range(8):
        content = model.render(model.state())
        taken.append((repository.take(content), content))
        model.change(512 * KiB)
    path = tmp_path / 'disk'
    path.write_bytes(disks.random_bytes(8 * MiB, 'junk'))
    for snapshot, content in [*taken, *reversed(taken)]:
        with targets.BlockTarget(str(path)) as target:
            restoring.run(repository.store, snapshot, target)
        assert path.read_bytes() == content
