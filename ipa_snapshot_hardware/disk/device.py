# SPDX-License-Identifier: Apache-2.0
"""What is the same for a device that is captured and one that is written.

It is a real block device, or a regular file that holds the same bytes.
"""

import abc
import ctypes
import errno
import fcntl
import logging
import mmap
import os
import stat
import struct
from typing import ClassVar

from ironic_snapshot_core import errors
from ironic_snapshot_core import units
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.disk import holder
from ipa_snapshot_hardware.disk import identity
from ipa_snapshot_hardware.disk import partition_table
from ipa_snapshot_hardware.disk import sector

LOG = logging.getLogger(__name__)

# <linux/fs.h>; the same on every architecture Ironic runs on with 64 bits.
_BLKROGET = 0x125E
_BLKSSZGET = 0x1268
_BLKPBSZGET = 0x127B
_BLKGETSIZE64 = 0x80081272

# What a regular file is counted in: qcow2 wants multiples of it.
_FILE_SECTOR = 512
# For what cannot be read directly into the caller's buffer. Must be a
# multiple of every sector size; the largest seen is 64 KiB.
_BOUNCE_SIZE = 1 * units.MiB


class Device(base.Disk):
    """A block device or a regular file, open.

    A device is opened exclusively. It is read with O_DIRECT, past the page
    cache, so that imaging does not push the agent out of memory and a second
    read asks the medium again. Where there is no O_DIRECT, what was read is
    dropped from the cache.

    :param path: ``/dev/...`` or the path of a file.
    :param serial: serial number, if known better than sysfs does.
    :param wwn: world wide name, likewise.
    :param model: model, likewise.
    :param file_sector_size: of the disk that a regular file was made for;
        a device knows its own.
    :raises DiskNotFound: when there is nothing at the path.
    :raises DiskBusy: when somebody uses the disk or a part of it.
    :raises DiskUnsuitable: when it cannot be used, e.g. no medium.
    """

    #: How it is opened.
    _ACCESS: ClassVar[int]
    #: Whether a regular file goes past the page cache as well.
    _DIRECT_FILE: ClassVar[bool] = False

    def __init__(
        self,
        path: str,
        *,
        serial: str | None = None,
        wwn: str | None = None,
        model: str | None = None,
        file_sector_size: int | None = None,
    ) -> None:
        self.name = path
        self.path = path
        self._fd = -1
        self._direct = False
        # Whether what was read of a file stays in the page cache.
        self._keep_cached = False
        self._bounce = mmap.mmap(-1, _BOUNCE_SIZE)
        found = self._stat()
        self._is_device = stat.S_ISBLK(found.st_mode)
        self._file_sector_size = file_sector_size or _FILE_SECTOR
        kernel_name = ''
        if self._is_device:
            number = f'{os.major(found.st_rdev)}:{os.minor(found.st_rdev)}'
            kernel_name = os.path.basename(
                os.path.realpath(f'/sys/dev/block/{number}')
            )
        known = identity.read_identity(kernel_name)
        self.serial = serial or known.serial
        self.wwn = wwn or known.wwn
        self.model = model or known.model
        try:
            self._open(kernel_name)
            self._measure()
            self._claim()
            self.partition_table = self._detect_partition_table()
        except BaseException:
            self.close()
            raise

    def read_into(self, offset: int, buffer: base.Buffer) -> None:
        if self._fd < 0:
            raise ValueError(f'{self.name} is closed')
        view = memoryview(buffer).cast('B')
        if offset < 0 or offset + len(view) > self.size:
            raise self._read_error(offset, len(view), 'beyond the end')
        try:
            self._read(offset, view)
        except OSError as error:
            self._explain(offset, len(view), error)
            # All of it can be read now: a disturbance that has passed.
            LOG.warning(
                'Reading %s at %d failed once: %s',
                self.name,
                offset,
                error.strerror,
            )
            try:
                self._read(offset, view)
            except OSError as again:
                raise self._read_error(
                    offset, len(view), again.strerror
                ) from None

    def check_unchanged(self) -> None:
        size = self._read_size()
        if size != self.size:
            raise errors.DiskChanged(
                device=self.name,
                reason=f'its size was {self.size} bytes and is {size} bytes '
                'now',
            )

    def close(self) -> None:
        if self._fd < 0:
            return
        os.close(self._fd)
        self._fd = -1

    # For those that are devices

    @abc.abstractmethod
    def _claim(self) -> None:
        """Take it into possession, now that it is open and measured."""

    def _ioctl(self, kind: str, request: int) -> int:
        answer = fcntl.ioctl(self._fd, request, struct.pack(kind, 0))
        return int(struct.unpack(kind, answer)[0])

    def _is_read_only(self) -> bool:
        return bool(self._ioctl('i', _BLKROGET))

    def _is_aligned(self, offset: int, view: memoryview) -> bool:
        """Tell whether O_DIRECT takes it."""
        unit = self.logical_sector_size
        return not (offset % unit or len(view) % unit or _address(view) % unit)

    def _leave_direct(self) -> None:
        """Go on with the page cache.

        A loop device accepts O_DIRECT and then says EINVAL to whatever is
        asked for when the file system under its file wants larger blocks.
        """
        LOG.info('%s cannot be used with O_DIRECT', self.name)
        flags = fcntl.fcntl(self._fd, fcntl.F_GETFL)
        fcntl.fcntl(self._fd, fcntl.F_SETFL, flags & ~os.O_DIRECT)
        self._direct = False

    # Private: opening

    def _stat(self) -> os.stat_result:
        try:
            found = os.stat(self.name)
        except OSError as error:
            raise errors.DiskNotFound(
                device=self.name, reason=error.strerror or 'cannot be found'
            ) from None
        if not stat.S_ISBLK(found.st_mode) and not stat.S_ISREG(found.st_mode):
            raise errors.DiskUnsuitable(
                device=self.name, reason='it is no block device'
            )
        return found

    def _open(self, kernel_name: str) -> None:
        flags = self._ACCESS | os.O_CLOEXEC
        if self._is_device:
            holders = holder.find_holders(kernel_name)
            if holders:
                raise errors.DiskBusy(
                    device=self.name, reason='; '.join(holders)
                )
            if not holder.mapped_partitions(kernel_name):
                flags |= os.O_EXCL
        elif not self._DIRECT_FILE:
            self._open_with(flags)
            return
        try:
            self._open_with(flags | os.O_DIRECT)
            self._direct = True
        except OSError as error:
            # A driver or file system without direct I/O says EINVAL at open.
            if error.errno != errno.EINVAL:
                raise
            self._open_with(flags)

    def _open_with(self, flags: int) -> None:
        try:
            self._fd = os.open(self.name, flags)
        except OSError as error:
            if error.errno == errno.EINVAL and flags & os.O_DIRECT:
                raise
            if error.errno == errno.EBUSY:
                raise errors.DiskBusy(
                    device=self.name,
                    reason='it is held by something that cannot be seen from '
                    'here, such as a mount in a container',
                ) from None
            reason = error.strerror or 'it cannot be opened'
            if error.errno in (errno.ENXIO, errno.ENODEV):
                raise errors.DiskNotFound(
                    device=self.name, reason=reason
                ) from None
            raise errors.DiskUnsuitable(
                device=self.name, reason=reason
            ) from None

    def _measure(self) -> None:
        self.size = self._read_size()
        self.logical_sector_size = self._file_sector_size
        self.physical_sector_size = self._file_sector_size
        if self._is_device:
            self.logical_sector_size = self._ioctl('i', _BLKSSZGET)
            self.physical_sector_size = self._ioctl('I', _BLKPBSZGET)
        if not self.size:
            raise errors.DiskUnsuitable(
                device=self.name, reason='it has no medium, or is empty'
            )
        if self.size % self.logical_sector_size:
            raise errors.DiskUnsuitable(
                device=self.name,
                reason=f'its size of {self.size} bytes is no multiple of '
                f'{self.logical_sector_size}',
            )

    def _read_size(self) -> int:
        if self._is_device:
            return self._ioctl('Q', _BLKGETSIZE64)
        return os.fstat(self._fd).st_size

    def _detect_partition_table(self) -> str | None:
        size = partition_table.size_needed(self.logical_sector_size)
        start = bytearray(min(size, self.size))
        self.read_into(0, start)
        return partition_table.detect(bytes(start), self.logical_sector_size)

    # Private: reading

    def _read(self, offset: int, view: memoryview) -> None:
        if self._direct and not self._is_aligned(offset, view):
            self._read_by_bounce(offset, view)
        else:
            self._read_exact(offset, view)

    def _read_by_bounce(self, offset: int, view: memoryview) -> None:
        """Read what O_DIRECT does not take: odd offset, length, address."""
        unit = self.logical_sector_size
        done = 0
        with memoryview(self._bounce) as bounce:
            while done < len(view):
                skip = (offset + done) % unit
                start = offset + done - skip
                wanted = min(len(view) - done, _BOUNCE_SIZE - skip)
                span = -(-(skip + wanted) // unit) * unit
                with bounce[:span] as part:
                    self._read_exact(start, part)
                    view[done : done + wanted] = part[skip : skip + wanted]
                done += wanted

    def _read_exact(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                count = os.preadv(self._fd, [view[done:]], offset + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._leave_direct()
                continue
            if not count:
                raise OSError(errno.EIO, 'the disk ended early')
            done += count
        if not self._direct and not self._keep_cached:
            os.posix_fadvise(
                self._fd, offset, len(view), os.POSIX_FADV_DONTNEED
            )

    def _explain(self, offset: int, length: int, error: OSError) -> None:
        """Raise what names the sectors that fail, if they still do."""
        unit = self.logical_sector_size
        start = offset - offset % unit
        end = -(-(offset + length) // unit) * unit
        found = sector.find_unreadable(
            start, end - start, unit, self._is_readable
        )
        if found:
            raise self._read_error(*found, error.strerror) from None

    def _is_readable(self, offset: int, length: int) -> bool:
        end = offset + length
        try:
            with memoryview(self._bounce) as bounce:
                while offset < end:
                    with bounce[: min(_BOUNCE_SIZE, end - offset)] as part:
                        self._read_exact(offset, part)
                        offset += len(part)
        except OSError:
            return False
        return True

    def _read_error(
        self, offset: int, length: int, reason: str | None
    ) -> errors.DiskReadError:
        return sector.read_error(
            self, offset, length, reason or 'unknown error'
        )


def _address(view: memoryview) -> int:
    if not len(view):
        return 0
    return ctypes.addressof(ctypes.c_char.from_buffer(view))
