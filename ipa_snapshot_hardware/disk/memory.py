# SPDX-License-Identifier: Apache-2.0
"""A disk in memory, with sectors that fail when told to."""

import threading
from collections.abc import Iterable
from typing import Any

from ironic_snapshot_core import errors
from ipa_snapshot_hardware.disk import base
from ipa_snapshot_hardware.disk import partition_table
from ipa_snapshot_hardware.disk import sector
from ipa_snapshot_hardware.disk import target


class MemoryDisk(base.Disk):
    """A disk held in a bytearray.

    :param data: the content; its length is a multiple of the sector size.
    :param bad: (offset, length) in bytes of what cannot be read; every
        sector it touches fails, as on a real disk.
    """

    def __init__(
        self,
        data: bytes,
        *,
        name: str = '/dev/memory',
        logical_sector_size: int = 512,
        physical_sector_size: int = 4096,
        serial: str | None = None,
        wwn: str | None = None,
        model: str | None = None,
        bad: Iterable[tuple[int, int]] = (),
    ) -> None:
        if not data or len(data) % logical_sector_size:
            raise errors.DiskUnsuitable(
                device=name, reason=f'its size is {len(data)} bytes'
            )
        #: The content. Tests write here to play an active writer.
        self.content = bytearray(data)
        self.name = name
        self.path = None
        self.size = len(data)
        self.logical_sector_size = logical_sector_size
        self.physical_sector_size = physical_sector_size
        self.serial = serial
        self.wwn = wwn
        self.model = model
        self.partition_table = partition_table.detect(
            bytes(data[: partition_table.size_needed(logical_sector_size)]),
            logical_sector_size,
        )
        self.closed = False
        self._bad = [
            (start, start + length) for start, length in bad if length
        ]

    def read_into(self, offset: int, buffer: base.Buffer) -> None:
        if self.closed:
            raise ValueError(f'{self.name} is closed')
        length = len(buffer)
        if offset < 0 or offset + length > self.size:
            raise sector.read_error(
                self, offset, length, 'beyond the end'
            )
        if self._touches_bad(offset, length):
            start = offset - offset % self.logical_sector_size
            end = min(
                -(-(offset + length) // self.logical_sector_size)
                * self.logical_sector_size,
                self.size,
            )
            found = sector.find_unreadable(
                start,
                end - start,
                self.logical_sector_size,
                lambda at, size: not self._touches_bad(at, size),
            )
            if found:
                raise sector.read_error(self, *found, 'Input/output error')
        buffer[:] = self.content[offset : offset + length]

    def check_unchanged(self) -> None:
        if len(self.content) != self.size:
            raise errors.DiskChanged(
                device=self.name,
                reason=f'its size was {self.size} bytes and is '
                f'{len(self.content)} bytes now',
            )

    def close(self) -> None:
        self.closed = True

    # Private

    def _touches_bad(self, offset: int, length: int) -> bool:
        size = self.logical_sector_size
        return any(
            offset < -(-end // size) * size
            and start - start % size < offset + length
            for start, end in self._bad
        )


class MemoryTarget(MemoryDisk, target.Target):
    """A disk held in a bytearray, to be written."""

    #: Where it was written to, in order: (offset, length) in bytes.
    writes: list[tuple[int, int]]

    def __init__(self, data: bytes, **options: Any) -> None:
        super().__init__(data, **options)
        self.written = 0
        self.writes = []
        self._lock = threading.Lock()

    def write(self, offset: int, data: base.Buffer | bytes) -> None:
        if self.closed:
            raise ValueError(f'{self.name} is closed')
        target.check_place(self, offset, len(data))
        with self._lock:
            self.content[offset : offset + len(data)] = data
            self.written += len(data)
            self.writes.append((offset, len(data)))

    def flush(self) -> None:
        if self.closed:
            raise ValueError(f'{self.name} is closed')
