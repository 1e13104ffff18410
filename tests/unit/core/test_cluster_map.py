# SPDX-License-Identifier: Apache-2.0
"""The map of a snapshot."""

import array
import random
import struct
import tracemalloc
import uuid

import blake3
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import envelope
from ironic_snapshot_core import errors
from ironic_snapshot_core.cluster_map import ClusterMap
from ironic_snapshot_core.cluster_map import MapBuilder
from ironic_snapshot_core.cluster_map import MapExtent
from ironic_snapshot_core.units import KiB, MiB

C = 64 * KiB
ATTEMPTS = tuple(str(uuid.UUID(int=n << 64 | 4 << 76 | 2 << 62))
                 for n in range(1, 4))
EXAMPLE = ClusterMap(20 * C - 512, C, ATTEMPTS[:2], [
    MapExtent(0, 3, 0, 0), MapExtent(5, 2, 0, 3), MapExtent(7, 2, 1, 0),
    MapExtent(19, 1, 0, 1)])


@st.composite
def maps(draw):
    clusters = draw(st.dictionaries(
        st.integers(0, 60),
        st.tuples(st.integers(0, 2), st.integers(0, 2**32 - 2)),
        max_size=40))
    builder = MapBuilder(61 * C, C)
    for guest in sorted(clusters):
        attempt, slot = clusters[guest]
        builder.add(guest, ATTEMPTS[attempt], slot)
    wanted = [(guest, ATTEMPTS[clusters[guest][0]], clusters[guest][1])
              for guest in sorted(clusters)]
    return builder.build(), wanted


def content(found):
    return [(guest, found.attempts[number], slot)
            for guest, number, slot in found.clusters()]


@given(maps())
def test_what_is_built_and_encoded_comes_back(drawn):
    found, wanted = drawn
    assert content(found) == wanted
    assert found.data_count == len(wanted)
    data = cluster_map.encode(found)
    again = cluster_map.decode(data)
    assert again == found
    assert content(again) == wanted
    assert cluster_map.encode(again) == data


@given(maps())
def test_find_agrees_with_clusters(drawn):
    found, wanted = drawn
    known = {guest: (attempt, slot) for guest, attempt, slot in wanted}
    for guest in range(-1, 70):
        place = found.find(guest)
        if place is not None:
            place = found.attempts[place[0]], place[1]
        assert place == known.get(guest)


@given(maps())
def test_neighbours_are_merged(drawn):
    found, _ = drawn
    for one, two in zip(found.extents[:-1], found.extents[1:], strict=True):
        assert not (
            one.start_cluster + one.count == two.start_cluster
            and one.attempt_number == two.attempt_number
            and one.first_slot + one.count == two.first_slot)


def test_runs_can_be_added_at_once():
    builder = MapBuilder(100 * C, C)
    builder.add(0, ATTEMPTS[0], 0, count=10)
    builder.add(10, ATTEMPTS[0], 10, count=5)
    builder.add(15, ATTEMPTS[1], 15, count=5)
    assert list(builder.build().extents) == [
        MapExtent(0, 15, 0, 0), MapExtent(15, 5, 1, 15)]


def test_a_map_of_nothing():
    found = MapBuilder(512, C).build()
    assert list(found.clusters()) == []
    assert found.cluster_count == 1
    assert cluster_map.decode(cluster_map.encode(found)) == found


def test_extents_look_like_a_tuple():
    extents = EXAMPLE.extents
    assert extents[0] == MapExtent(0, 3, 0, 0)
    assert extents[-1] == MapExtent(19, 1, 0, 1)
    assert extents[1:3] == list(extents)[1:3]
    assert len(extents) == 4
    assert extents == tuple(extents)
    with pytest.raises(IndexError):
        extents[4]


@pytest.mark.parametrize('extents', [
    [(0, 0, 0, 0)],
    [(0, 2, 0, 0), (1, 1, 0, 5)],
    [(5, 1, 0, 0), (0, 1, 0, 1)],
    [(20, 1, 0, 0)],
    [(19, 2, 0, 0)],
    [(0, 1, 2, 0)],
    [(0, 2, 0, 2**32 - 2)],
    [(-1, 1, 0, 0)],
    [(0, 1, 0, 2**32)],
    [(0, 2**32 - 1, 0, 0)],
])
def test_what_makes_no_sense_is_refused(extents):
    with pytest.raises(errors.InvalidValue):
        ClusterMap(20 * C, C, ATTEMPTS[:2],
                   [MapExtent(*each) for each in extents])


@pytest.mark.parametrize('fields', [
    (0, C, ()), (511, C, ()), (512, 5, ()), (512, C, ('x',)),
    (512, C, ATTEMPTS[:1] * 2)])
def test_what_no_map_can_be(fields):
    with pytest.raises(errors.Error):
        ClusterMap(*fields, [])


def test_clusters_out_of_order_are_refused():
    builder = MapBuilder(20 * C, C)
    builder.add(5, ATTEMPTS[0], 0)
    builder.add(4, ATTEMPTS[0], 1)
    with pytest.raises(errors.InvalidValue):
        builder.build()


@pytest.mark.parametrize('example', [
    EXAMPLE, ClusterMap(20 * C, C, (), []),
    # Each cluster from another attempt than the one before.
    ClusterMap(20 * C, C, ATTEMPTS, [
        MapExtent(n, 1, n % len(ATTEMPTS), 2**31 - n) for n in range(20)]),
], ids=['two attempts', 'nothing', 'many'])
def test_every_flipped_bit_is_found(example):
    data = cluster_map.encode(example)
    for position in range(len(data) * 8):
        changed = bytearray(data)
        changed[position // 8] ^= 1 << position % 8
        with pytest.raises(errors.Corrupted):
            cluster_map.decode(bytes(changed))


def test_every_other_length_is_found():
    data = cluster_map.encode(EXAMPLE)
    for end in range(len(data)):
        with pytest.raises(errors.Corrupted):
            cluster_map.decode(data[:end])
    with pytest.raises(errors.Corrupted):
        cluster_map.decode(data + b'\0')


def sealed(body):
    return body + blake3.blake3(body).digest()


@given(st.binary(max_size=200), st.integers(0, 200))
def test_garbage_raises_our_error_only(noise, position):
    body = bytearray(cluster_map.encode(EXAMPLE)[:-32])
    position %= len(body)
    body[position:position + len(noise)] = noise
    try:
        cluster_map.decode(sealed(bytes(body)), 1000)
    except errors.Error:
        pass


def forge(disk_size, cluster_size, attempts, *columns, count=None):
    header = struct.pack(
        '<QIII', disk_size, cluster_size, attempts,
        len(columns[0]) if count is None else count)
    return envelope.wrap(b'ISMP', 1, header, [
        *(uuid.UUID(each).bytes for each in ATTEMPTS[:attempts]),
        *(envelope.column(array.array('I', each)) for each in columns)])


def test_a_forged_one_that_is_right_is_read():
    found = cluster_map.decode(forge(
        20 * C, C, 1, [0, 3], [2, 2], [0, 0], [7, 2**32 - 9]))
    # The jump goes back, to slot 0.
    assert list(found.extents) == [
        MapExtent(0, 2, 0, 7), MapExtent(5, 2, 0, 0)]


BIG = 2**32 - 1


@pytest.mark.parametrize('forged', [
    forge(20 * C, C, 1, [0], [0], [0], [0]),
    forge(20 * C, C, 1, [0], [21], [0], [0]),
    forge(20 * C, C, 1, [20], [1], [0], [0]),
    forge(20 * C, C, 1, [0], [1], [1], [0]),
    forge(20 * C, C, 1, [0, BIG], [1, 1], [0, 0], [0, 0]),
    forge(20 * C, C, 1, [BIG], [BIG], [0], [0]),
    forge(20 * C, C, 1, [0], [2], [0], [BIG]),
    forge(20 * C, C, 1, [0], [1], [0], [0], count=2),
    forge(20 * C, C, 1, [0], [1], [0], [0], count=BIG),
    forge(2**62, C, 1, [0], [1], [0], [0]),
    forge(20 * C, 0, 1, [0], [1], [0], [0]),
    forge(20 * C, C + 512, 1, [0], [1], [0], [0]),
    forge(100, C, 1, [0], [1], [0], [0]),
    forge(C, C, 1, [0, 1], [1, 1], [0, 0], [0, 0]),
])
def test_a_forged_one_that_makes_no_sense_is_refused(forged):
    with pytest.raises(errors.Corrupted):
        cluster_map.decode(forged)


def test_a_disk_larger_than_allowed_is_refused():
    data = cluster_map.encode(EXAMPLE)
    assert cluster_map.decode(data, 20) == EXAMPLE
    with pytest.raises(errors.Corrupted):
        cluster_map.decode(data, 19)


def test_a_bomb_takes_no_memory():
    header = struct.pack('<QIII', 20 * C, C, 0, 1)
    bomb = envelope.wrap(b'ISMP', 1, header, [bytes(64 * MiB)])
    assert len(bomb) < 10_000
    tracemalloc.start()
    try:
        with pytest.raises(errors.Corrupted):
            cluster_map.decode(bomb)
        assert tracemalloc.get_traced_memory()[1] < MiB
    finally:
        tracemalloc.stop()


def test_a_typical_map_is_small():
    source = random.Random(1)
    builder = MapBuilder(4_000_000 * 256 * KiB, 256 * KiB)
    guest = slot = 0
    for _ in range(500):
        guest += source.randrange(1, 5000)
        count = source.randrange(1, 2000)
        builder.add(guest, ATTEMPTS[0], slot, count)
        guest += count
        slot += count
    data = cluster_map.encode(builder.build())
    assert len(data) < 500 * 5


def test_versions_and_features_of_the_future_are_refused():
    data = bytearray(cluster_map.encode(EXAMPLE)[:-32])
    data[4] = 2
    with pytest.raises(errors.UnsupportedVersion):
        cluster_map.decode(sealed(bytes(data)))
    data[4:8] = b'\1\0\1\0'
    with pytest.raises(errors.UnsupportedFeature):
        cluster_map.decode(sealed(bytes(data)))
