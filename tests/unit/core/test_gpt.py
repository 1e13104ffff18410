# SPDX-License-Identifier: Apache-2.0
"""Partition tables moved to disks of other sizes, by the specification."""

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import errors
from ironic_snapshot_core import gpt
from ironic_snapshot_core.units import MiB

SECTORS = pytest.mark.parametrize('sector', [512, 4096])
SIZE = 8 * MiB
TYPE = bytes(range(16))


def le(value, size):
    return value.to_bytes(size, 'little')


def make_header(own, other, entries_lba, first, last, entries, number,
                entry_size=128, header_size=92, revision=0x10000,
                signature=b'EFI PART'):
    def fields(crc):
        return (signature + le(revision, 4) + le(header_size, 4)
                + le(crc, 4) + le(0, 4) + le(own, 8) + le(other, 8)
                + le(first, 8) + le(last, 8) + b'G' * 16
                + le(entries_lba, 8) + le(number, 4) + le(entry_size, 4)
                + le(zlib.crc32(entries), 4)).ljust(header_size, b'\0')
    return fields(zlib.crc32(fields(0)[:header_size]))


def make_mbr(records=((0xEE, 1, 0xFFFFFFFF),)):
    mbr = bytearray(b'boot code'.ljust(512, b'\0'))
    for number, (kind, first, blocks) in enumerate(records):
        struct.pack_into('<4xB3xII', mbr, 446 + 16 * number,
                         kind, first, blocks)
    mbr[510:] = b'\x55\xaa'
    return bytes(mbr)


def make(sector, size=SIZE, partitions=((64, 99), (100, 200)), count=128,
         mbr=None, entries_at=2, **changes):
    """Make the start of a disk.

    :param partitions: first and last block of each.
    :param changes: of the header.
    """
    last = size // sector - 1
    array = -(-max(count * 128, 16384) // sector)
    entries = b''.join(
        TYPE + b'U' * 16 + le(begin, 8) + le(end, 8) + bytes(80)
        for begin, end in partitions).ljust(count * 128, b'\0')
    header = make_header(
        **{'own': 1, 'other': last, 'entries_lba': entries_at,
           'first': entries_at + array, 'last': last - array - 1,
           'entries': entries, 'number': count, **changes})
    if mbr is None:
        mbr = make_mbr([(0xEE, 1, last)])
    return b''.join((
        mbr.ljust(sector, b'\0'), header.ljust(sector, b'\0'),
        bytes((entries_at - 2) * sector),
        entries.ljust(array * sector, b'\0')))


def fields_of(header):
    return struct.unpack('<8s4I4Q16sQ3I', header[:92])


@SECTORS
@pytest.mark.parametrize('new_size', [
    SIZE, 2 * SIZE, SIZE // 2, 2 * SIZE + 512, 4 << 40])
def test_it_is_as_made_for_the_new_size(sector, new_size):
    made = gpt.relocate(make(sector), SIZE, new_size, sector)
    last = new_size // sector - 1
    array = 16384 // sector
    assert made.primary == make(
        sector, new_size, mbr=make_mbr([(0xEE, 1, min(last, 0xFFFFFFFF))]))
    entries = made.primary[2 * sector:]
    assert made.backup == entries + make_header(
        last, 1, last - array, 2 + array, last - array - 1, entries,
        128).ljust(sector, b'\0')
    assert made.backup_offset == (last - array) * sector


@SECTORS
@given(data=st.data())
def test_there_and_back(sector, data):
    blocks = SIZE // sector
    count = data.draw(st.integers(1, 300))
    array = -(-max(count * 128, 16384) // sector)
    bounds = data.draw(st.lists(
        st.integers(2 + array, blocks - array - 2), unique=True,
        max_size=2 * count).map(sorted))
    partitions = list(zip(bounds[::2], bounds[1::2], strict=False))
    first = make(sector, partitions=partitions, count=count)
    end = partitions[-1][1] + 1 if partitions else 0
    assert gpt.last_used(first, sector) == end * sector
    least = max(end, 2 + array) + array + 1
    new_size = sector * data.draw(st.integers(least, 3 * blocks))
    there = gpt.relocate(first, SIZE, new_size, sector)
    assert gpt.last_used(there.primary, sector) == end * sector
    assert there.backup_offset + len(there.backup) == new_size
    assert gpt.relocate(
        there.primary, new_size, SIZE, sector).primary == first
    with pytest.raises(errors.InvalidValue, match=f'need {least * sector} '):
        gpt.relocate(first, SIZE, (least - 1) * sector, sector)


@SECTORS
def test_what_the_other_header_says_does_not_matter(sector):
    """The image of a small disk, written to a larger one."""
    mbr = make_mbr([(0xEE, 1, SIZE // sector - 1)])
    start = make(sector, mbr=mbr)
    assert gpt.backup_header(start[sector:], sector) == SIZE - sector
    made = gpt.relocate(start, 4 * SIZE, 2 * SIZE, sector)
    assert made.primary == make(sector, 2 * SIZE)


@pytest.mark.parametrize('records, new_size, expected', [
    ([(0xEE, 1, 63), (0x83, 64, 36)], 2 * SIZE, None),
    ([(0xEE, 1, 63), (0x83, 64, 36)], SIZE // 2, None),
    ([(0x83, 64, 36), (0xEE, 100, SIZE // 512 - 100)], SIZE // 2,
     [(0x83, 64, 36), (0xEE, 100, SIZE // 1024 - 100)]),
    ([(0xEE, 1, 7)], SIZE, [(0xEE, 1, SIZE // 512 - 1)]),
])
def test_an_mbr_with_other_records(records, new_size, expected):
    start = make(512, mbr=make_mbr(records))
    made = gpt.relocate(start, SIZE, new_size, 512)
    assert made.primary[:512] == make_mbr(expected or records)


@SECTORS
def test_a_large_header_is_kept(sector):
    start = bytearray(make(sector, header_size=200))
    # Of no known meaning, but part of what the checksum is made of.
    start[sector + 150] = 7
    start[sector + 16:sector + 20] = bytes(4)
    start[sector + 16:sector + 20] = le(
        zlib.crc32(start[sector:sector + 200]), 4)
    made = gpt.relocate(bytes(start), SIZE, 2 * SIZE, sector)
    for header in (made.primary[sector:2 * sector], made.backup[-sector:]):
        assert header[150] == 7
        crc = fields_of(header)[3]
        assert crc == zlib.crc32(
            header[:16] + bytes(4) + header[20:200])


@SECTORS
def test_entries_may_lie_further_away(sector):
    """As some boards need it that boot from the first sectors."""
    start = make(sector, entries_at=16, partitions=[(300, 400)])
    needed = gpt.size_needed(start[:2 * sector], sector)
    assert needed == 16 * sector + 16384
    made = gpt.relocate(start, SIZE, 2 * SIZE, sector)
    assert made.primary == make(
        sector, 2 * SIZE, entries_at=16, partitions=[(300, 400)])
    assert made.backup[:-sector] == start[16 * sector:]
    with pytest.raises(errors.InvalidValue):
        gpt.last_used(start[:needed - 1], sector)


@SECTORS
@pytest.mark.parametrize('changes', [
    {'signature': b'EFI PARS'},
    {'revision': 0x20000},
    {'header_size': 91},
    {'own': 2},
    {'entries_lba': 1},
    {'entries_at': 63, 'first': 64},
    {'entries_lba': 2 ** 60, 'first': 2 ** 61},
    {'count': 0, 'partitions': ()},
    {'number': 2 ** 13 + 1, 'first': 2 ** 40},
    {'entry_size': 64},
    {'entry_size': 192},
    {'mbr': bytes(512)},
    {'mbr': make_mbr([(0x83, 1, 63)])},
    {'partitions': [(64, 100), (100, 200)]},
    {'partitions': [(64, 63)]},
    {'partitions': [(1, 63)]},
    {'partitions': [(64, SIZE // 512)]},
], ids=str)
def test_what_is_not_sound_is_refused(sector, changes):
    with pytest.raises(errors.Corrupted, match='partition table'):
        gpt.relocate(make(sector, **changes), SIZE, 2 * SIZE, sector)


@SECTORS
def test_each_bit_is_checked(sector):
    start = make(sector)
    for offset in [*range(92), sector, sector + 16383]:
        damaged = bytearray(start)
        damaged[sector + offset] ^= 1
        with pytest.raises(errors.Corrupted, match='partition table'):
            gpt.relocate(bytes(damaged), SIZE, 2 * SIZE, sector)


@SECTORS
def test_a_disk_that_ends_too_soon(sector):
    start = make(sector)
    for size in (0, sector, 2 * sector - 1):
        with pytest.raises(errors.Corrupted, match='partition table'):
            gpt.relocate(start[:size], SIZE, 2 * SIZE, sector)
