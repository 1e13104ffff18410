# SPDX-License-Identifier: Apache-2.0
"""The contract of a disk: what is captured, and how it is read."""

import abc
import types

#: Something that reads can be written into: bytearray, mmap, memoryview.
Buffer = bytearray | memoryview


class Disk(abc.ABC):
    """A disk, open for reading.

    These docstrings are the contract; every disk keeps it:

    * A disk never changes what it reads: nothing here writes.
    * ``size`` is fixed when the disk is opened and is a multiple of 512.
    * A disk is used by one thread at a time; different threads may take
      turns. One that is ``cached`` is read by any number of them.
    * A disk holds no more memory than one buffer of its own, of at most
      1 MiB, whatever its size.
    * Closing twice is harmless; reading a closed disk raises ValueError.
    """

    #: What messages call the disk, e.g. ``/dev/sda``.
    name: str
    #: Where programs find it, ``/dev/...`` or a file; None: nowhere.
    path: str | None
    #: Size in bytes.
    size: int
    #: The unit of the disk's own addresses (LBA), in bytes.
    logical_sector_size: int
    #: The unit the medium is written in, in bytes.
    physical_sector_size: int
    #: Serial number as the agent reports it, or None.
    serial: str | None
    #: World wide name as the agent reports it, or None.
    wwn: str | None
    #: Model as the agent reports it, or None.
    model: str | None
    #: Kind of the partition table: ``gpt``, ``dos``, or None.
    partition_table: str | None
    #: Whether all of it is in memory, so that reading takes the processor and
    #: waits for no medium.
    cached: bool = False

    @abc.abstractmethod
    def read_into(self, offset: int, buffer: Buffer) -> None:
        """Fill the whole buffer from the disk.

        Any offset, any length and any buffer will do; large reads into a
        page-aligned buffer (``mmap``) are the fast ones. The data comes
        from the medium, not from a cache of an earlier read, wherever the
        host makes that possible. The buffer is not kept.

        :param offset: where to start, in bytes.
        :param buffer: what to fill.
        :raises DiskReadError: when not every byte could be read, naming
            the sectors that fail; the buffer's content is then undefined.
        """

    @abc.abstractmethod
    def check_unchanged(self) -> None:
        """Check that the disk is still what was opened.

        :raises DiskChanged: when its size is another one now.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Give the disk back as it was found."""

    def __enter__(self) -> 'Disk':
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        self.close()
