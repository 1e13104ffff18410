# SPDX-License-Identifier: Apache-2.0
"""A real block device, or a regular file, that is captured."""

import contextlib
import fcntl
import logging
import os
import struct

from ironic_snapshot_core import errors
from ipa_snapshot_hardware.disk import device

LOG = logging.getLogger(__name__)

# <linux/fs.h>
_BLKROSET = 0x125D

# Places of a file that are looked up in the page cache.
_CACHE_PROBES = 64


class BlockDisk(device.Device):
    """A block device or a regular file, open read-only.

    A device is made read-only for everybody else until it is closed; then it
    gets back what it had. A regular file that was in the page cache before
    stays there.
    """

    _ACCESS = os.O_RDONLY
    _was_read_only: bool | None = None

    def check_unchanged(self) -> None:
        super().check_unchanged()
        if not self._is_device and self._stat().st_mtime_ns != self._mtime_ns:
            raise errors.DiskChanged(
                device=self.name, reason='the file was written to'
            )

    def close(self) -> None:
        if self._was_read_only is False and self._fd >= 0:
            self._set_read_only(False)
        super().close()

    # Private

    def _claim(self) -> None:
        if not self._is_device:
            self._mtime_ns = self._stat().st_mtime_ns
            self.cached = self._keep_cached = self._is_cached()
        elif not self._is_read_only():
            self._was_read_only = not self._set_read_only(True)

    def _set_read_only(self, on: bool) -> bool:
        try:
            fcntl.ioctl(self._fd, _BLKROSET, struct.pack('i', on))
        except OSError as error:
            # Second line of defence: the disk is held exclusively, and is
            # open for reading only, without it.
            LOG.warning(
                'Cannot make %s %s: %s',
                self.name,
                'read-only' if on else 'writable again',
                error.strerror,
            )
            return False
        return True

    def _is_cached(self) -> bool:
        """Tell whether somebody keeps this file in the page cache."""
        byte = bytearray(1)
        hits = 0
        for number in range(_CACHE_PROBES):
            offset = self.size * number // _CACHE_PROBES
            # Nothing is read for it if it is not there.
            with contextlib.suppress(OSError):
                hits += os.preadv(self._fd, [byte], offset, os.RWF_NOWAIT)
        return hits > _CACHE_PROBES * 3 // 4
