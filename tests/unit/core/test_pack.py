# SPDX-License-Identifier: Apache-2.0
"""Packs, built and read again."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import codec
from ironic_snapshot_core import digest
from ironic_snapshot_core import errors
from ironic_snapshot_core import pack
from ironic_snapshot_core.units import KiB, MiB

C = 64 * KiB
TARGET = 16 * MiB
ZSTD = codec.get_codec('zstd')
DIGEST = digest.DEFAULT_DIGEST
NOISE = os.urandom(4 * C)


def cluster(kind, n=0):
    """R random, T text."""
    if kind == 'R':
        return NOISE[n * 7:n * 7 + C]
    return (b'text %d ' % n * C)[:C]


def add(builder, data):
    blob = ZSTD.compress(data)
    builder.add(blob or data, DIGEST.digest(data), blob is not None)


def build(picture, room=None):
    builder = pack.PackBuilder(C, TARGET, room)
    clusters = [cluster(kind, n) for n, kind in enumerate(picture)]
    for data in clusters:
        add(builder, data)
    return clusters, builder.build()


@given(st.text('RT', min_size=1, max_size=30))
def test_each_cluster_comes_back(picture):
    clusters, built = build(picture)
    data = bytes(built.data)
    at = pack.offsets(built.entries, C)
    assert sorted(built.order) == list(range(len(picture)))
    for position, number in enumerate(built.order):
        entry = built.entries[position]
        blob = data[at[position]:at[position] + entry.length]
        assert pack.read_cluster(
            entry, blob, ZSTD, DIGEST, C) == clusters[number]
        if not entry.compressed:
            assert at[position] == position * C
    kinds = [entry.compressed for entry in built.entries]
    assert kinds == sorted(kinds)
    end = at[-1] + built.entries[-1].length
    assert len(built.data) == len(data)
    assert len(data) % C == 0
    assert len(data) >= MiB
    assert not any(data[end:])
    assert len(data) - end < max(C, MiB)


def test_raw_clusters_come_first_and_reversed():
    clusters, built = build('TRTRT')
    assert built.order == (3, 1, 0, 2, 4)
    assert bytes(built.data)[:2 * C] == clusters[3] + clusters[1]


@given(st.text('RT', min_size=1, max_size=30))
def test_each_part_is_a_multiple_of_the_cluster_size(picture):
    _, built = build(picture)
    sizes = [len(part) for part in built.data.parts]
    assert not any(size % C for size in sizes)
    if 'R' in picture:
        assert sizes[0] == picture.count('R') * C


def test_its_bytes_cannot_be_changed():
    for part in build('RT')[1].data.parts:
        assert part.readonly


def facts(built):
    return bytes(built.data), built.order, built.entries


def test_building_again_gives_the_same_bytes():
    assert facts(build('RTTR')[1]) == facts(build('RTTR')[1])


@given(st.text('RT', min_size=1, max_size=30),
       st.text('RT', min_size=1, max_size=30))
def test_a_used_room_gives_the_same_bytes(before, picture):
    room = memoryview(bytearray(b'\xff' * pack.room_needed(C, TARGET)))
    build(before, room)
    _, built = build(picture, room)
    assert facts(built) == facts(build(picture)[1])


@pytest.mark.parametrize('cluster_size, target', [
    (C, C), (C, MiB), (C, MiB + 1), (C, 3 * MiB - 1), (C, 3 * MiB),
    (512, MiB + 512), (2 * MiB, 2 * MiB), (2 * MiB, 5 * MiB)])
@pytest.mark.parametrize('kinds', ['R', 'T', 'RT', 'TTR'])
def test_the_fullest_pack_has_room(cluster_size, target, kinds):
    # The last cluster goes as far beyond the target as one can.
    room = memoryview(bytearray(pack.room_needed(cluster_size, target)))
    builder = pack.PackBuilder(cluster_size, target, room)
    wanted = {'R': [], 'T': []}
    while not builder.full:
        number = len(builder)
        kind = kinds[number % len(kinds)]
        data = bytes([number % 255 + 1]) * (
            cluster_size - (kind == 'T'))
        builder.add(data, number.to_bytes(32, 'big'), kind == 'T')
        wanted[kind].append(data)
    built = builder.build()
    data = b''.join([*reversed(wanted['R']), *wanted['T']])
    assert bytes(built.data) == data + bytes(len(built.data) - len(data))
    assert len(built.data) % cluster_size == 0


def test_too_small_a_room_is_refused():
    room = memoryview(bytearray(pack.room_needed(C, TARGET) - 1))
    with pytest.raises(errors.InvalidValue, match='room'):
        pack.PackBuilder(C, TARGET, room)


def test_it_is_full_at_its_target():
    builder = pack.PackBuilder(C, 2 * C)
    assert not builder.full
    builder.add(NOISE[:C], bytes(32), False)
    assert not builder.full
    builder.add(NOISE[:C], bytes(32), False)
    assert builder.full and len(builder) == 2


def test_an_empty_pack_is_none():
    with pytest.raises(errors.InvalidValue):
        pack.PackBuilder(C).build()


@pytest.mark.parametrize('length, compressed', [
    (C - 1, False), (C + 1, False), (0, False), (0, True), (C, True)])
def test_impossible_lengths_are_refused(length, compressed):
    with pytest.raises(errors.InvalidValue):
        pack.PackBuilder(C).add(bytes(length), bytes(32), compressed)


@pytest.mark.parametrize('target', [0, C - 1, 5 * 1024 * MiB])
def test_impossible_targets_are_refused(target):
    with pytest.raises(errors.InvalidValue):
        pack.PackBuilder(C, target)


@pytest.mark.parametrize('entries', [
    [pack.PackEntry(b'', 10, True), pack.PackEntry(b'', C, False)],
    [pack.PackEntry(b'', C - 1, False)]])
def test_offsets_refuses_impossible_entries(entries):
    with pytest.raises(errors.InvalidValue):
        pack.offsets(entries, C)


@given(st.sampled_from('RT'), st.integers(0, 10**9))
def test_every_flipped_bit_is_found(kind, position):
    data = cluster(kind)
    blob = ZSTD.compress(data) or data
    entry = pack.PackEntry(DIGEST.digest(data), len(blob), len(blob) < C)
    changed = bytearray(blob)
    position %= len(changed) * 8
    changed[position // 8] ^= 1 << position % 8
    with pytest.raises(errors.Corrupted) as caught:
        # Not every change of a compressed cluster changes what comes out.
        if pack.read_cluster(
                entry, bytes(changed), ZSTD, DIGEST, C) == data:
            raise errors.Corrupted(entry.digest.hex(), 'harmless')
    assert entry.digest.hex() in str(caught.value)


@pytest.mark.parametrize('kind', 'RT')
@pytest.mark.parametrize('change', [
    lambda blob: blob[:-1], lambda blob: blob + b'x', lambda blob: b''])
def test_every_other_length_is_found(kind, change):
    data = cluster(kind)
    blob = ZSTD.compress(data) or data
    entry = pack.PackEntry(DIGEST.digest(data), len(blob), len(blob) < C)
    with pytest.raises(errors.Corrupted):
        pack.read_cluster(entry, change(blob), ZSTD, DIGEST, C)


def test_a_cluster_in_the_place_of_another_is_found():
    one, two = (NOISE[:C], NOISE[C:2 * C])
    entry = pack.PackEntry(DIGEST.digest(one), C, False)
    with pytest.raises(errors.Corrupted):
        pack.read_cluster(entry, two, ZSTD, DIGEST, C)
