# SPDX-License-Identifier: Apache-2.0
"""A part of a disk: the view a file system has of it."""

import dataclasses

from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.survey import look


@dataclasses.dataclass(frozen=True)
class Part:
    """A range of a disk.

    :param start: in bytes.
    :param length: in bytes.
    """

    disk: base.Disk
    start: int
    length: int

    def read(self, offset: int, size: int) -> bytes:
        """Read a little of it.

        :param offset: in bytes from the start of the part.
        :raises Doubt: the part ends before.
        :raises DiskReadError: the disk cannot read it.
        """
        if offset < 0 or size < 0 or offset + size > self.length:
            raise look.Doubt('damaged')
        buffer = bytearray(size)
        self.disk.read_into(self.start + offset, buffer)
        return bytes(buffer)
