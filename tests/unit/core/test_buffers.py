# SPDX-License-Identifier: Apache-2.0
"""Bytes in several buffers."""

import ctypes
import hashlib
import mmap
import os
import pathlib

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import buffers
from ironic_snapshot_core.store import directory

PIECES = st.lists(st.binary(max_size=20), max_size=6)


@given(PIECES)
def test_they_are_the_joined_bytes(pieces):
    found = buffers.Buffers(pieces)
    assert bytes(found) == b''.join(pieces)
    assert len(found) == sum(map(len, pieces))


def test_empty_parts_are_left_out():
    found = buffers.Buffers([b'', b'01', bytearray(), memoryview(b'2'), b''])
    assert list(map(bytes, found.parts)) == [b'01', b'2']
    assert buffers.Buffers([b'', b'']).parts == ()
    assert buffers.Buffers([]).parts == ()


def test_parts_are_not_copied():
    data = bytearray(b'0123')
    found = buffers.Buffers([data])
    data[0:1] = b'x'
    assert bytes(found) == b'x123'


def test_any_iterable_will_do():
    assert bytes(buffers.Buffers(iter([b'0', b'1']))) == b'01'


@pytest.mark.parametrize('kind', [bytes, bytearray, memoryview])
def test_one_buffer_is_its_own_part(kind):
    data = kind(b'0123')
    assert buffers.parts(data) == (data,)
    assert buffers.parts(data)[0] is data


def test_the_parts_of_several():
    found = buffers.Buffers([b'01', b'', b'23'])
    assert buffers.parts(found) is found.parts


@pytest.mark.parametrize('new_hash', [
    hashlib.md5, blake3.blake3, directory._Hash])
@given(pieces=PIECES)
def test_the_hash_is_that_of_the_joined_bytes(new_hash, pieces):
    whole = new_hash()
    whole.update(b''.join(pieces))
    wanted = whole.hexdigest()
    assert buffers.hexdigest(new_hash(), buffers.Buffers(pieces)) == wanted
    assert buffers.hexdigest(new_hash(), b''.join(pieces)) == wanted


@pytest.mark.parametrize('size', [1, 4096, 300_000, 5_000_000])
def test_allocated_memory_is_aligned_and_writable(size):
    buffer = buffers.allocate(size)
    view = memoryview(buffer)
    assert len(view) == size
    assert not view.readonly
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    assert address % mmap.PAGESIZE == 0
    assert not any(view)
    data = os.urandom(size)
    view[:] = data
    assert view == data


def test_a_child_does_not_get_the_memory():
    buffer = buffers.allocate(300_000)
    address = ctypes.addressof(ctypes.c_char.from_buffer(buffer))
    flags = inside = None
    for line in pathlib.Path('/proc/self/smaps').read_text().splitlines():
        key, _, value = line.partition(' ')
        if '-' in key:
            start, end = (int(each, 16) for each in key.split('-'))
            inside = start <= address < end
        elif inside and key == 'VmFlags:':
            flags = value.split()
    # "Do not copy on fork."
    assert 'dc' in flags


def test_memory_without_large_pages_will_do(monkeypatch):
    class Map(mmap.mmap):
        def madvise(self, advice):
            if advice == mmap.MADV_HUGEPAGE:
                raise OSError('there are none')
            super().madvise(advice)

    monkeypatch.setattr(buffers.mmap, 'mmap', Map)
    assert len(buffers.allocate(10_000)) == 10_000


KINDS = pytest.mark.parametrize('kind', [
    bytes, memoryview, lambda data: memoryview(bytearray(data)),
    lambda data: memoryview(b'xy' + data + b'z')[2:-1],
    lambda data: memoryview(bytearray(b'xy' + data + b'z'))[2:-1],
], ids=['bytes', 'read-only', 'writable', 'read-only slice',
        'writable slice'])


@KINDS
@pytest.mark.parametrize('start', [0, 3, 6])
def test_a_copy(kind, start):
    room = bytearray(b'.' * 10)
    buffers.copy(memoryview(room), start, kind(b'0123'))
    assert room == b'.' * start + b'0123' + b'.' * (6 - start)


@KINDS
def test_a_copy_into_a_part_of_a_room(kind):
    room = bytearray(b'.' * 10)
    buffers.copy(memoryview(room)[2:8], 1, kind(b'0123'))
    assert room == b'...0123...'


@KINDS
def test_a_copy_of_nothing(kind):
    room = bytearray(b'.' * 4)
    buffers.copy(memoryview(room), 4, kind(b''))
    assert room == b'....'


@KINDS
@pytest.mark.parametrize('start', [-1, 7, 10, 11])
def test_a_copy_never_goes_beyond_the_room(kind, start):
    room = bytearray(b'.' * 10)
    with pytest.raises(ValueError):
        buffers.copy(memoryview(room), start, kind(b'0123'))
    assert room == b'.' * 10


def test_a_room_can_be_freed_after_a_copy():
    room, data = buffers.allocate(4096), buffers.allocate(4096)
    with memoryview(room) as target, memoryview(data) as source:
        buffers.copy(target, 0, source)
    room.close()
    data.close()
