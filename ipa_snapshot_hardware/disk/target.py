# SPDX-License-Identifier: Apache-2.0
"""A disk that is written: the target of a restore."""

import abc
import errno
import fcntl
import logging
import os
import threading
from typing import ClassVar

from ironic_snapshot_core import buffers
from ironic_snapshot_core import errors
from ironic_snapshot_core import units
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.disk import device
from ipa_snapshot_hardware.disk import holder

LOG = logging.getLogger(__name__)

# What O_DIRECT does not take from where it is goes through memory of at most
# this size.
_COPY_SIZE = 1 * units.MiB


class Target(base.Disk):
    """A disk, open for reading and writing.

    It keeps the contract of a disk, but that it is written here, and only
    here, and this:

    * Any thread writes at any time, each to places of its own. Reading is
      as with every disk, and not where something is written meanwhile.
    * What was written is on the medium after :meth:`flush`, and not before.
    * ``written`` counts the bytes written so far.
    """

    #: Bytes written so far.
    written: int

    @abc.abstractmethod
    def write(self, offset: int, data: base.Buffer | bytes) -> None:
        """Write all of the data.

        Large ones in page-aligned memory (``mmap``) are the fast ones. The
        data is not kept.

        :param offset: where to, in bytes, a multiple of the sector size.
        :param data: its length is a multiple of the sector size.
        :raises DiskWriteError: when not every byte could be written.
        :raises ValueError: when it is not within the disk, or no whole
            sectors.
        """

    @abc.abstractmethod
    def flush(self) -> None:
        """Bring everything written to the medium.

        Reads from here on ask the medium, not a cache of what was written,
        wherever the host makes that possible.

        :raises DiskWriteError: when it is not known to be there.
        """


class BlockTarget(device.Device, Target):
    """A block device or a regular file, open for reading and writing.

    Both are written with O_DIRECT where it works: through the page cache it
    takes several times the processor's time, and the medium has to wait.
    """

    _ACCESS: ClassVar[int] = os.O_RDWR
    _DIRECT_FILE: ClassVar[bool] = True

    @classmethod
    def create(
        cls, path: str, size: int, *, file_sector_size: int | None = None
    ) -> 'BlockTarget':
        """Make a file that reads as zeroes, and open it.

        :param size: in bytes.
        :raises FileExistsError: there is something at the path.
        :raises OSError: it cannot be made.
        """
        descriptor = os.open(
            path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600
        )
        try:
            os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)
        return cls(path, file_sector_size=file_sector_size)

    def write(self, offset: int, data: base.Buffer | bytes) -> None:
        if self._fd < 0:
            raise ValueError(f'{self.name} is closed')
        view = memoryview(data).cast('B')
        check_place(self, offset, len(view))
        try:
            self._write(offset, view)
        except OSError as error:
            raise errors.DiskWriteError(
                self.name, self.serial or 'unknown', offset, len(view),
                self.logical_sector_size, error.strerror or 'unknown error',
            ) from None
        with self._count:
            self.written += len(view)

    def flush(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise errors.DiskWriteError(
                self.name, self.serial or 'unknown', 0, self.size,
                self.logical_sector_size, error.strerror or 'unknown error',
            ) from None
        if not self._direct:
            os.posix_fadvise(self._fd, 0, 0, os.POSIX_FADV_DONTNEED)

    # Private

    def _open(self, kernel_name: str) -> None:
        self.written = 0
        self._count = threading.Lock()
        if not self._is_device:
            loops = holder.find_loops_of(self.name)
            if loops:
                raise errors.DiskBusy(self.name, '; '.join(loops))
        super()._open(kernel_name)

    def _claim(self) -> None:
        if self._is_device:
            if self._is_read_only():
                raise errors.DiskUnsuitable(
                    self.name, 'it is write-protected'
                )
            return
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise errors.DiskBusy(
                self.name, 'another program has it locked'
            ) from None

    def _write(self, offset: int, view: memoryview) -> None:
        # Where bytes lie in memory cannot be found out.
        if self._direct and (
            view.readonly or not self._is_aligned(offset, view)
        ):
            self._write_copy(offset, view)
        else:
            self._write_exact(offset, view)

    def _write_copy(self, offset: int, view: memoryview) -> None:
        """Write what O_DIRECT does not take from where it is in memory."""
        with (
            buffers.allocate(min(len(view), _COPY_SIZE)) as buffer,
            memoryview(buffer) as copy,
        ):
            for start in range(0, len(view), len(copy)):
                part = view[start : start + len(copy)]
                copy[: len(part)] = part
                with copy[: len(part)] as aligned:
                    self._write_exact(offset + start, aligned)

    def _write_exact(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            try:
                done += os.pwrite(self._fd, view[done:], offset + done)
            except OSError as error:
                if error.errno != errno.EINVAL or not self._direct:
                    raise
                self._leave_direct()


def check_place(target: Target, offset: int, length: int) -> None:
    """Refuse to write anywhere else than to whole sectors of the disk.

    :raises ValueError: it would be.
    """
    unit = target.logical_sector_size
    if (
        offset < 0
        or offset + length > target.size
        or offset % unit
        or length % unit
    ):
        raise ValueError(
            f'{length} bytes at {offset} are no whole sectors of {target.name}'
        )
