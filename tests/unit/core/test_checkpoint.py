# SPDX-License-Identifier: Apache-2.0
"""Checkpoints, encoded and read again."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import checkpoint
from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import errors
from ironic_snapshot_core import index
from ironic_snapshot_core import manifest
from ironic_snapshot_core import pack
from ironic_snapshot_core.units import KiB, MiB

C = 64 * KiB
ATTEMPT = '33333333-3333-4333-8333-333333333333'
OTHER = '44444444-4444-4444-8444-444444444444'


def make(attempt=ATTEMPT, **changes):
    packs = [
        index.IndexPack.of(f'pack-{number:06d}', [
            pack.PackEntry(bytes([number] * 32), C, False),
            pack.PackEntry(bytes([number + 100] * 32), 1000 + number, True),
        ]) for number in (4, 5)]
    builder = cluster_map.MapBuilder(100 * C, C)
    builder.add(12, attempt, 6, 2)
    builder.add(20, attempt, 2)
    builder.add(30, attempt, 8, 2)
    return dataclasses.replace(checkpoint.Checkpoint(
        number=3,
        before=b'b' * 32,
        extents=b'e' * 32,
        first_cluster=10,
        next_cluster=40,
        packs=tuple(
            manifest.PackRecord.new(
                attempt, each.name, MiB, '0' * 31 + 'a', 2, C + 1000 + number)
            for number, each in enumerate(packs, 4)),
        index=index.Index(attempt, C, 'zstd', 'blake3-256', tuple(packs)),
        map=builder.build(),
        unreadable=(manifest.Unreadable(13 * C, 512),)), **changes)


def same(one, two):
    return checkpoint.encode(one) == checkpoint.encode(two)


def test_it_comes_back():
    found = checkpoint.decode(checkpoint.encode(make()), ATTEMPT)
    wanted = make()
    assert same(found, wanted)
    for name in ('number', 'before', 'extents', 'first_cluster',
                 'next_cluster', 'packs', 'map', 'unreadable'):
        assert getattr(found, name) == getattr(wanted, name), name
    assert found.attempt == ATTEMPT
    assert [list(pack.entries) for pack in found.index.packs] == [
        list(pack.entries) for pack in wanted.index.packs]


def test_its_digest_names_it():
    data = checkpoint.encode(make())
    assert checkpoint.digest(data) == data[-32:]
    assert checkpoint.digest(data) != checkpoint.digest(
        checkpoint.encode(make(number=4)))


def with_parent(**changes):
    """Some of its clusters are in older attempts."""
    builder = cluster_map.MapBuilder(100 * C, C)
    builder.add(11, OTHER, 7000)
    builder.add(12, ATTEMPT, 6, 2)
    builder.add(14, OTHER, 3, 9)
    return make(map=builder.build(), **changes)


def nothing_new():
    """All of its clusters are in older attempts."""
    builder = cluster_map.MapBuilder(100 * C, C)
    builder.add(11, OTHER, 7000)
    return make(packs=(), index=index.Index(ATTEMPT, C, 'zstd', 'blake3-256',
                                            ()), map=builder.build())


@pytest.mark.parametrize('wanted', [with_parent(), nothing_new()],
                         ids=['some', 'all'])
def test_clusters_of_older_attempts_come_back(wanted):
    found = checkpoint.decode(checkpoint.encode(wanted), ATTEMPT)
    assert same(found, wanted)
    assert found.map == wanted.map
    assert found.packs == wanted.packs
    assert OTHER in found.map.attempts


@pytest.mark.parametrize('example', [make(), with_parent(), nothing_new()],
                         ids=['first', 'parent', 'nothing new'])
def test_every_flipped_bit_is_found(example):
    whole = checkpoint.encode(example)
    for position in range(len(whole) * 8):
        data = bytearray(whole)
        data[position // 8] ^= 1 << position % 8
        with pytest.raises((errors.Corrupted, errors.UnsupportedVersion)):
            checkpoint.decode(bytes(data), ATTEMPT)


@given(st.integers(0, 10 ** 6))
def test_every_cut_is_found(length):
    data = checkpoint.encode(make())
    with pytest.raises(errors.Corrupted):
        checkpoint.decode(data[:length % len(data)], ATTEMPT)


@pytest.mark.parametrize('wrong', [
    make(OTHER),
    make(first_cluster=13),
    make(next_cluster=31),
    make(next_cluster=10),
    make(next_cluster=101),
    make(index=make(OTHER).index),
], ids=range(6))
def test_what_makes_no_sense_is_refused(wrong):
    with pytest.raises(errors.Corrupted):
        checkpoint.decode(checkpoint.encode(wrong), ATTEMPT, 100)


def test_more_than_the_disk_has_is_refused_before_it_is_read():
    with pytest.raises(errors.Corrupted, match='too large'):
        checkpoint.decode(checkpoint.encode(make()), ATTEMPT, 20)
