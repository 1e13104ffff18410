# SPDX-License-Identifier: Apache-2.0
"""Bytes in several buffers, one after the other, without joining them."""

import collections.abc
import contextlib
import ctypes
import mmap
import typing


class Buffers:
    """Several buffers that are one object's bytes.

    :param parts: each bytes-like.
    """

    __slots__ = ('_size', 'parts')

    def __init__(self, parts: collections.abc.Iterable[typing.Any]) -> None:
        #: None of them is empty.
        self.parts: tuple[memoryview, ...] = tuple(
            view for view in (memoryview(part) for part in parts) if len(view))
        self._size = sum(map(len, self.parts))

    def __len__(self) -> int:
        """Bytes in all parts."""
        return self._size

    def __bytes__(self) -> bytes:
        return b''.join(self.parts)


Data: typing.TypeAlias = bytes | bytearray | memoryview | Buffers


def parts(data: Data) -> collections.abc.Sequence[
        bytes | bytearray | memoryview]:
    """Give the buffers in which some bytes are."""
    return data.parts if isinstance(data, Buffers) else (data,)


def allocate(size: int) -> mmap.mmap:
    """Get memory for a buffer that is used again and again.

    It starts at a page, as O_DIRECT wants it, and consists of large pages
    where there are any: hundreds of MiB of small ones take a tenth of a
    second to get.
    """
    # Without the flags it would be a shared file, of small pages.
    buffer = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):
        buffer.madvise(mmap.MADV_HUGEPAGE)
    # Reads with O_DIRECT into private memory may get lost when another
    # thread forks, unless the child does not have it: see open(2).
    buffer.madvise(mmap.MADV_DONTFORK)
    return buffer


def keep_freed(size: int) -> None:
    """Have the C library keep about so much memory that was freed.

    Otherwise it gives small amounts back to the system again and again, and
    getting them anew takes a tenth of the time of compressing. glibc does so
    once it has seen a piece of that size freed: see mallopt(3),
    M_MMAP_THRESHOLD. Other libraries take no notice.

    :param size: in bytes, at most 32 MiB.
    """
    bytearray(size)


def copy(room: memoryview, start: int, data: bytes | memoryview) -> None:
    """Copy bytes into a part of a room, while other threads go on.

    Assigning to a slice would keep them waiting for Python's lock.

    :param room: writable.
    :raises ValueError: it does not have the space.
    """
    # memmove() would write beyond its end.
    if not 0 <= start <= len(room) - len(data):
        raise ValueError('there is no room for the bytes')
    if not len(data):
        return
    if isinstance(data, memoryview):
        if data.readonly:
            room[start:start + len(data)] = data
            return
        source: typing.Any = ctypes.byref(ctypes.c_char.from_buffer(data))
    else:
        source = data
    ctypes.memmove(
        ctypes.byref(ctypes.c_char.from_buffer(room, start)), source,
        len(data))


class Hash(typing.Protocol):
    """What hashlib and blake3 make."""

    def update(self, data: typing.Any, /) -> typing.Any: ...

    def hexdigest(self) -> str: ...


def hexdigest(hash: Hash, data: Data) -> str:
    """Finish a hash with these bytes and give it in hex."""
    for part in parts(data):
        hash.update(part)
    return hash.hexdigest()
