# SPDX-License-Identifier: Apache-2.0
"""What every disk must keep to, be it only read or written as well."""

import errno
import fcntl
import mmap
import os
import threading

import pytest

from ironic_snapshot_core import errors
from tests import disks

MiB = 1024 * 1024
SIZE = 5 * MiB


class DiskContract:
    """One method for each promise of base.Disk."""

    @pytest.fixture
    def content(self):
        return disks.random_bytes(SIZE, seed='contract')

    def test_says_what_it_is(self, disk):
        assert disk.size == SIZE
        assert disk.logical_sector_size in (512, 4096)
        assert disk.physical_sector_size >= disk.logical_sector_size
        assert disk.partition_table is None

    @pytest.mark.parametrize(
        ('offset', 'length'),
        [
            (0, SIZE),
            (0, 4096),
            (4096, 2 * MiB),
            (1, 1),
            (511, 2),
            (513, 3 * MiB + 7),
            (SIZE - 1, 1),
            (SIZE - 4096, 4096),
            (100, 0),
        ],
    )
    def test_reads_exactly_what_is_asked(self, disk, content, offset, length):
        for buffer in (mmap.mmap(-1, max(length, 1)), bytearray(length + 1)):
            # An odd address in the second case.
            view = memoryview(buffer)[len(buffer) - length :]
            disk.read_into(offset, view)
            assert bytes(view) == content[offset : offset + length]

    @pytest.mark.parametrize(
        ('offset', 'length'), [(SIZE, 1), (SIZE - 1, 2), (-1, 2)]
    )
    def test_beyond_the_end_is_an_error(self, disk, offset, length):
        with pytest.raises(errors.DiskReadError, match='beyond the end'):
            disk.read_into(offset, bytearray(length))

    def test_threads_may_take_turns(self, disk, content):
        buffers = [bytearray(MiB) for _ in range(4)]
        for number, buffer in enumerate(buffers):
            thread = threading.Thread(
                target=disk.read_into, args=(number * MiB, buffer)
            )
            thread.start()
            thread.join()
        assert b''.join(buffers) == content[: 4 * MiB]

    def test_an_untouched_disk_is_unchanged(self, disk):
        disk.read_into(0, bytearray(512))
        disk.check_unchanged()

    def test_closing_twice_is_harmless_and_reading_then_is_not(self, disk):
        disk.close()
        disk.close()
        with pytest.raises(ValueError, match='closed'):
            disk.read_into(0, bytearray(512))


class InMemory:
    """The disk is in memory.

    :cvar make: makes it of its content.
    """

    @pytest.fixture
    def disk(self, content):
        with self.make(content) as disk:
            yield disk


class OnFile:
    """The disk is a regular file.

    :cvar make: opens it.
    """

    @pytest.fixture
    def disk(self, content, tmp_path):
        path = tmp_path / 'disk'
        path.write_bytes(content)
        with self.make(str(path)) as disk:
            yield disk


class OnDevice:
    """The disk is a block device.

    :cvar make: opens it.
    """

    sector_size = 512

    @pytest.fixture
    def disk(self, content, tmp_path):
        path = tmp_path / 'disk'
        path.write_bytes(content)
        with (
            disks.loop_device(path, self.sector_size) as device,
            self.make(device) as disk,
        ):
            assert disk.logical_sector_size == self.sector_size
            yield disk


def refuse_direct(monkeypatch, call):
    """Be a driver that says EINVAL to direct reads, or direct writes.

    :param call: ``preadv`` or ``pwrite``.
    """
    real = getattr(os, call)

    def refuse(fd, data, offset):
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return real(fd, data, offset)

    monkeypatch.setattr(os, call, refuse)
