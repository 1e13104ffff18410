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


def build(picture):
    builder = pack.PackBuilder(C, 16 * MiB)
    clusters = [cluster(kind, n) for n, kind in enumerate(picture)]
    for data in clusters:
        add(builder, data)
    return clusters, builder.build()


@given(st.text('RT', min_size=1, max_size=30))
def test_each_cluster_comes_back(picture):
    clusters, built = build(picture)
    at = pack.offsets(built.entries, C)
    assert sorted(built.order) == list(range(len(picture)))
    for position, number in enumerate(built.order):
        entry = built.entries[position]
        blob = built.data[at[position]:at[position] + entry.length]
        assert pack.read_cluster(
            entry, blob, ZSTD, DIGEST, C) == clusters[number]
        if not entry.compressed:
            assert at[position] == position * C
    kinds = [entry.compressed for entry in built.entries]
    assert kinds == sorted(kinds)
    end = at[-1] + built.entries[-1].length
    assert len(built.data) % C == 0
    assert len(built.data) >= MiB
    assert not any(built.data[end:])
    assert len(built.data) - end < max(C, MiB)


def test_the_order_of_clusters_of_a_kind_is_kept():
    _, built = build('TRTRT')
    assert built.order == (1, 3, 0, 2, 4)


def test_hashes_are_of_the_whole():
    _, built = build('RT')


def test_building_again_gives_the_same_bytes():
    assert build('RTTR')[1] == build('RTTR')[1]


def test_it_is_full_at_its_target():
    builder = pack.PackBuilder(C, 2 * C)
    assert not builder.full
    builder.add(NOISE[:C], bytes(32), False)
    assert not builder.full
    builder.add(NOISE[:C], bytes(32), False)
    assert builder.full and len(builder) == 2
    builder.build()
    assert not builder.full and len(builder) == 0


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
