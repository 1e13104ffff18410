# SPDX-License-Identifier: Apache-2.0
"""The index of an attempt."""

import array
import os
import struct
import tracemalloc
import uuid

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import envelope
from ironic_snapshot_core import errors
from ironic_snapshot_core import index
from ironic_snapshot_core import pack
from ironic_snapshot_core.units import GiB, KiB, MiB

C = 64 * KiB
ATTEMPT = '11111111-2222-4333-8444-555555555555'


def entries_of(lengths):
    return tuple(
        pack.PackEntry(bytes([n % 256]) * 32, length, length < C)
        for n, length in enumerate(sorted(lengths, key=lambda n: n < C)))


def make(*packs, attempt=ATTEMPT):
    return index.Index(attempt, C, 'zstd', 'blake3-256', tuple(
        index.IndexPack.of(f'pack-{n:06d}', entries_of(lengths))
        for n, lengths in enumerate(packs, 1)))


def content(found):
    return (found.attempt, found.cluster_size, found.codec, found.digest,
            [(each.name, list(each.entries)) for each in found.packs])


EXAMPLE = make([C, C, 100, 70], [300], [C])

lengths = st.lists(st.one_of(st.integers(1, C - 1), st.just(C)),
                   min_size=1, max_size=40)


@given(st.lists(lengths, max_size=6), st.uuids(version=4))
def test_what_is_encoded_comes_back(packs, attempt):
    found = make(*packs, attempt=str(attempt))
    again = index.decode(index.encode(found))
    assert content(again) == content(found)
    assert index.encode(again) == index.encode(found)


@given(st.lists(lengths, min_size=1, max_size=5))
def test_lookup_agrees_with_offsets(packs):
    found = make(*packs)
    slot = 0
    for number, each in enumerate(found.packs):
        entries = list(each.entries)
        for entry, offset in zip(
                entries, pack.offsets(entries, C), strict=True):
            assert found.lookup(slot) == index.Slot(
                number, offset, entry.length, entry.compressed,
                entry.digest)
            slot += 1
    assert len(found) == slot


def test_entries_can_be_looked_at_one_by_one():
    found = EXAMPLE.packs[0]
    assert [found.entry(n) for n in range(len(found))] == list(found.entries)


@pytest.mark.parametrize('slot', [-1, 6, 10**9])
def test_a_slot_there_is_none_of(slot):
    assert len(EXAMPLE) == 6
    with pytest.raises(errors.Corrupted, match='slot'):
        EXAMPLE.lookup(slot)


def test_the_slots_of_each_pack():
    assert [EXAMPLE.slots_of(number) for number in range(3)] == [
        range(4), range(4, 5), range(5, 6)]


def test_an_attempt_may_have_stored_nothing():
    assert len(index.decode(index.encode(make()))) == 0


@pytest.mark.parametrize('example', [EXAMPLE, make()],
                         ids=['some', 'nothing'])
def test_every_flipped_bit_is_found(example):
    data = index.encode(example)
    for position in range(len(data) * 8):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(errors.Corrupted):
            index.decode(bytes(changed))


def test_every_other_length_is_found():
    data = index.encode(EXAMPLE)
    for end in range(len(data)):
        with pytest.raises(errors.Corrupted):
            index.decode(data[:end])
    with pytest.raises(errors.Corrupted):
        index.decode(data + b'\0')


def sealed(body):
    """Give a document its digest: whoever writes one can."""
    return body + blake3.blake3(body).digest()


@given(st.binary(max_size=400), st.integers(0, 400))
def test_garbage_raises_our_error_only(noise, position):
    body = bytearray(index.encode(EXAMPLE)[:-32])
    position %= len(body)
    body[position:position + len(noise)] = noise
    try:
        index.decode(sealed(bytes(body)), 1000)
    except errors.Error:
        pass


@given(st.integers(0, 10**9))
def test_a_flipped_bit_with_a_good_digest_raises_our_error_only(position):
    body = bytearray(index.encode(EXAMPLE)[:-32])
    position %= len(body) * 8
    body[position // 8] ^= 1 << position % 8
    try:
        index.decode(sealed(bytes(body)), 1000)
    except errors.Error:
        pass


def forge(pack_count, count, numbers, counts, raw, offsets, size=None):
    header = struct.pack('<16sI16s16sII', uuid.UUID(ATTEMPT).bytes, C,
                         b'zstd', b'blake3-256', pack_count, count)
    columns = [envelope.column(array.array('I', each))
               for each in (numbers, counts, raw, offsets)]
    return envelope.wrap(b'ISIX', 1, header, [
        *columns, bytes(32 * (count if size is None else size))])


def test_a_forged_one_that_is_right_is_read():
    found = index.decode(forge(1, 2, [1], [2], [1], [C, 5]))
    assert [entry.length for entry in found.packs[0].entries] == [C, 5]


@pytest.mark.parametrize('fields', [
    (1, 2, [1], [2], [1], [C, C]),
    (1, 2, [1], [2], [1], [C, 0]),
    (1, 2, [1], [2], [2], [C, 5]),
    (1, 2, [1], [2], [1], [5, C]),
    (1, 2, [1], [2], [3], [C, 5]),
    (1, 2, [1], [1], [1], [C, 5]),
    (1, 2, [1], [3], [1], [C, 5]),
    (1, 2, [0], [2], [1], [C, 5]),
    (1, 2, [1_000_000], [2], [1], [C, 5]),
    (2, 2, [1, 1], [1, 1], [1, 1], [C, C]),
    (2, 2, [2, 1], [1, 1], [1, 1], [C, C]),
    (2, 2, [1, 2], [2, 0], [2, 0], [C, C]),
    (1, 2, [1], [2], [1], [C, 5], 3),
    (1, 2, [1], [2], [1], [C, 2**32 - 1]),
    (3, 2, [1, 2, 3], [1, 1, 0], [1, 1, 0], [C, C]),
])
def test_what_makes_no_sense_is_refused(fields):
    with pytest.raises(errors.Corrupted):
        index.decode(forge(*fields))


def test_a_pack_that_is_too_large_is_refused():
    count = 4 * GiB // C
    with pytest.raises(errors.Corrupted):
        index.decode(forge(1, count, [1], [count], [count], [C] * count))


def test_more_clusters_than_allowed_are_refused_before_they_cost():
    body = bytearray(forge(1, 2, [1], [2], [1], [C, 5])[:-32])
    # The count of clusters is the last field of the header.
    at = bytes(body).index(b'blake3-256') + 20
    struct.pack_into('<I', body, at, 2**32 - 1)
    tracemalloc.start()
    try:
        with pytest.raises(errors.Corrupted, match='allowed'):
            index.decode(sealed(bytes(body)))
        assert tracemalloc.get_traced_memory()[1] < MiB
    finally:
        tracemalloc.stop()
    with pytest.raises(errors.Corrupted, match='allowed'):
        index.decode(index.encode(EXAMPLE), max_clusters=5)


@pytest.mark.parametrize('field, value, cls', [
    ('codec', 'lzma', errors.UnsupportedFeature),
    ('digest', 'md5', errors.UnsupportedFeature),
    ('cluster_size', 5, errors.InvalidValue),
    ('attempt', 'x', errors.InvalidName)])
def test_what_no_index_can_be(field, value, cls):
    fields = {'attempt': ATTEMPT, 'cluster_size': C, 'codec': 'zstd',
              'digest': 'blake3-256', 'packs': ()}
    with pytest.raises(cls):
        index.Index(**{**fields, field: value})


def test_raw_clusters_come_first():
    with pytest.raises(errors.InvalidValue):
        index.IndexPack.of('pack-000001', entries_of([5, C])[::-1])
    with pytest.raises(errors.InvalidValue):
        index.IndexPack.of('pack-000001', ())


def test_an_index_is_small_in_memory_and_on_disk():
    count = 100_000
    packs = tuple(
        index.IndexPack(f'pack-{n + 1:06d}', 0, array.array(
            'I', range(0, 100 * 251, 100)), os.urandom(32 * 250))
        for n in range(count // 250))
    encoded = index.encode(
        index.Index(ATTEMPT, C, 'zstd', 'blake3-256', packs))
    assert len(encoded) / count < 35
    tracemalloc.start()
    try:
        found = index.decode(encoded)
        assert len(found) == count
        assert tracemalloc.get_traced_memory()[0] / count < 40
    finally:
        tracemalloc.stop()
