# SPDX-License-Identifier: Apache-2.0
"""The contract of a disk, kept by memory, files and block devices."""

import contextlib
import errno
import fcntl
import mmap
import os
import struct
import subprocess
import sys

import pytest

from ipa_snapshot_hardware.disk import block
from ipa_snapshot_hardware.disk import holder
from ipa_snapshot_hardware.disk import memory
from ironic_snapshot_core import errors
from tests import disks
from tests.contract import disk_contract

MiB = 1024 * 1024
BLKROGET = 0x125E


class TestMemoryDisk(disk_contract.InMemory, disk_contract.DiskContract):
    make = memory.MemoryDisk


class TestFile(disk_contract.OnFile, disk_contract.DiskContract):
    make = block.BlockDisk


@disks.needs_loop
class TestBlockDevice(disk_contract.OnDevice, disk_contract.DiskContract):
    make = block.BlockDisk


@disks.needs_loop
class TestBlockDevice4K(TestBlockDevice):
    sector_size = 4096


@disks.needs_loop
class TestBlockDeviceWithoutDirect(TestBlockDevice):
    @pytest.fixture(autouse=True)
    def refuse_direct(self, disk, monkeypatch):
        disk_contract.refuse_direct(monkeypatch, 'preadv')


# What only a real device can show


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'disk'
    path.write_bytes(disks.random_bytes(64 * MiB))
    return path


def is_read_only(device):
    with open(device, 'rb') as file:
        answer = fcntl.ioctl(file, BLKROGET, struct.pack('i', 0))
    return struct.unpack('i', answer)[0] == 1


def open_for_writing(device):
    return os.open(device, os.O_WRONLY | os.O_CLOEXEC)


@disks.needs_loop
class TestProtection:
    def test_nobody_can_write_meanwhile(self, image):
        with disks.loop_device(image) as device:
            with block.BlockDisk(device):
                assert is_read_only(device)
                with pytest.raises(OSError):
                    fd = open_for_writing(device)
                    os.write(fd, b'x' * 512)
            assert not is_read_only(device)
            os.close(open_for_writing(device))

    def test_a_read_only_disk_stays_so(self, image):
        with disks.loop_device(image, read_only=True) as device:
            with block.BlockDisk(device):
                pass
            assert is_read_only(device)

    def test_it_is_given_back_after_a_failure_to_open(self, image):
        with disks.loop_device(image) as device:
            os.truncate(image, 0)
            with pytest.raises(errors.DiskError):
                block.BlockDisk(device)
            assert not is_read_only(device)

    def test_it_is_held_exclusively(self, image):
        with disks.loop_device(image) as device, block.BlockDisk(device):
            with pytest.raises(errors.DiskBusy):
                block.BlockDisk(device)

    def test_nothing_stays_in_the_page_cache(self, image):
        # The file's own cache is the loop driver's affair.
        with disks.loop_device(image) as device:
            cached = cached_pages()
            with block.BlockDisk(device) as disk:
                buffer = mmap.mmap(-1, 4 * MiB)
                for offset in range(0, disk.size, 4 * MiB):
                    disk.read_into(offset, memoryview(buffer))
                # Before it is closed: that empties the cache anyway.
                assert cached_pages() - cached < 8 * MiB


def cached_pages():
    """Bytes of a block device in the page cache ("Buffers")."""
    with open('/proc/meminfo') as file:
        values = dict(line.split(':') for line in file)
    return int(values['Buffers'].split()[0]) * 1024


@disks.needs_loop
class TestBusy:
    def test_a_mounted_partition(self, image, tmp_path):
        folder = tmp_path / 'mnt'
        folder.mkdir()
        with (
            disks.loop_device(image) as device,
            disks.partition(device) as part,
            disks.mounted(part, folder),
        ):
            with pytest.raises(errors.DiskBusy) as caught:
                block.BlockDisk(device)
            assert not is_read_only(device)
        name = os.path.basename(part)
        assert f'{name} is mounted at {folder}' in str(caught.value)

    def test_a_mount_that_cannot_be_seen(self, image, tmp_path, monkeypatch):
        # As in another mount namespace: only the kernel knows.
        folder = tmp_path / 'mnt'
        folder.mkdir()
        monkeypatch.setattr(holder, 'find_holders', lambda name: [])
        with (
            disks.loop_device(image) as device,
            disks.partition(device) as part,
            disks.mounted(part, folder),
        ):
            with pytest.raises(errors.DiskBusy, match='cannot be seen'):
                block.BlockDisk(device)

    def test_swap(self, image):
        with (
            disks.loop_device(image) as device,
            disks.partition(device) as part,
        ):
            subprocess.run(['mkswap', part], check=True, capture_output=True)
            subprocess.run(['swapon', part], check=True)
            try:
                with pytest.raises(errors.DiskBusy, match='used as swap'):
                    block.BlockDisk(device)
            finally:
                subprocess.run(['swapoff', part], check=True)

    def test_a_writer(self, image):
        with disks.loop_device(image) as device:
            writer = subprocess.Popen(
                [
                    sys.executable,
                    '-c',
                    'import sys; f = open(sys.argv[1], "r+b"); '
                    'print("open", flush=True); sys.stdin.read()',
                    device,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            try:
                writer.stdout.readline()
                with pytest.raises(errors.DiskBusy) as caught:
                    block.BlockDisk(device)
            finally:
                writer.communicate()
            assert f'({writer.pid})' in str(caught.value)
            with block.BlockDisk(device):
                pass

    def test_a_loop_device_over_it(self, image):
        with disks.loop_device(image) as device:
            with disks.loop_device(device, read_only=True):
                with pytest.raises(errors.DiskBusy, match='loop device'):
                    block.BlockDisk(device)


class TestUnsuitable:
    def test_nothing_there(self):
        with pytest.raises(errors.DiskNotFound, match='/dev/no-such-disk'):
            block.BlockDisk('/dev/no-such-disk')

    def test_no_disk(self, tmp_path):
        with pytest.raises(errors.DiskUnsuitable, match='no block device'):
            block.BlockDisk(str(tmp_path))

    @pytest.mark.parametrize('size', [0, 513])
    def test_a_file_of_no_such_size(self, tmp_path, size):
        path = tmp_path / 'disk'
        path.write_bytes(bytes(size))
        with pytest.raises(errors.DiskUnsuitable):
            block.BlockDisk(str(path))


@disks.needs_failing_disk
class TestUnreadable:
    SECTOR = 20481

    @pytest.fixture
    def device(self, image, tmp_path):
        with disks.failing_disk(image, self.SECTOR, tmp_path) as device:
            yield device

    @pytest.mark.parametrize('offset', [8 * MiB, 20481 * 512])
    def test_the_error_names_the_sectors(self, device, offset):
        with block.BlockDisk(device, serial='S3R1AL') as disk:
            with pytest.raises(errors.DiskReadError) as caught:
                disk.read_into(offset, memoryview(mmap.mmap(-1, 4 * MiB)))
        error = caught.value
        assert error.serial == 'S3R1AL'
        assert error.sector_size == 512
        # FUSE reads by page, so the whole page of the sector fails.
        assert error.first_sector <= self.SECTOR <= error.last_sector
        assert error.length <= 4096
        assert 'Input/output error' in str(error)

    def test_the_rest_can_be_read(self, device, image):
        with block.BlockDisk(device) as disk:
            buffer = bytearray(MiB)
            disk.read_into(16 * MiB, buffer)
        assert buffer == image.read_bytes()[16 * MiB : 17 * MiB]


@disks.needs_loop
class TestShrunk:
    """The kernel answers EIO where the file under the device is gone."""

    def test_reads_beyond_it_fail(self, image):
        with disks.loop_device(image) as device:
            with block.BlockDisk(device) as disk:
                os.truncate(image, 40 * MiB)
                disk.read_into(36 * MiB, bytearray(4 * MiB))
                with pytest.raises(errors.DiskReadError) as caught:
                    disk.read_into(38 * MiB, bytearray(4 * MiB))
        assert caught.value.offset == 40 * MiB

    def test_another_size_is_noticed(self, image):
        with disks.loop_device(image) as device:
            with block.BlockDisk(device) as disk:
                os.truncate(image, 40 * MiB)
                subprocess.run(['losetup', '--set-capacity', device])
                with pytest.raises(errors.DiskChanged, match='size'):
                    disk.check_unchanged()


class TestFileChanges:
    def test_a_short_file(self, image):
        with block.BlockDisk(str(image)) as disk:
            os.truncate(image, 40 * MiB)
            with pytest.raises(errors.DiskReadError, match='ended early'):
                disk.read_into(39 * MiB, bytearray(4 * MiB))
            with pytest.raises(errors.DiskChanged, match='size'):
                disk.check_unchanged()

    def test_a_written_file(self, image):
        with block.BlockDisk(str(image)) as disk:
            with open(image, 'r+b') as file:
                file.write(b'x')
            os.utime(image)
            with pytest.raises(errors.DiskChanged, match='written'):
                disk.check_unchanged()


def test_a_disturbance_that_passes_is_no_error(image, monkeypatch, caplog):
    failures = [errno.EIO]
    real = os.preadv

    def preadv(*args):
        if failures:
            raise OSError(failures.pop(), 'once')
        return real(*args)

    with block.BlockDisk(str(image)) as disk:
        monkeypatch.setattr(os, 'preadv', preadv)
        buffer = bytearray(MiB)
        disk.read_into(MiB, buffer)
    assert buffer == image.read_bytes()[MiB : 2 * MiB]
    assert 'failed once' in caplog.text


class TestMemoryDiskErrors:
    @pytest.mark.parametrize('bad', [(5000, 1), (4608, 512)])
    def test_a_bad_sector(self, bad):
        disk = memory.MemoryDisk(bytes(MiB), bad=[bad])
        with pytest.raises(errors.DiskReadError) as caught:
            disk.read_into(0, bytearray(MiB))
        assert (caught.value.offset, caught.value.length) == (4608, 512)
        disk.read_into(5120, bytearray(512))
        disk.read_into(0, bytearray(4608))

    def test_a_bad_run(self):
        disk = memory.MemoryDisk(bytes(MiB), bad=[(4608, 1536)])
        with pytest.raises(errors.DiskReadError) as caught:
            disk.read_into(5000, bytearray(512))
        assert (caught.value.offset, caught.value.length) == (4608, 1024)


class TestPageCache:
    """It is left as it was found."""

    SIZE = 8 * MiB

    @pytest.fixture
    def path(self, tmp_path):
        path = tmp_path / 'disk'
        path.write_bytes(disks.random_bytes(self.SIZE))
        with open(path, 'rb') as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return path

    def cached(self, path):
        """Tell the share of a file that is in the page cache."""
        hits = 0
        with open(path, 'rb') as file:
            for offset in range(0, self.SIZE, 64 * 1024):
                with contextlib.suppress(BlockingIOError):
                    hits += os.preadv(
                        file.fileno(), [bytearray(1)], offset, os.RWF_NOWAIT
                    )
        return hits / (self.SIZE // (64 * 1024))

    def read(self, path):
        with block.BlockDisk(str(path)) as disk:
            for offset in range(0, self.SIZE, MiB):
                disk.read_into(offset, mmap.mmap(-1, MiB))

    def test_what_was_not_there_is_dropped(self, path):
        self.read(path)
        assert self.cached(path) < 0.2

    def test_what_was_there_stays(self, path):
        path.read_bytes()
        self.read(path)
        assert self.cached(path) > 0.8
