# SPDX-License-Identifier: Apache-2.0
"""What need not be read, because a hint proves that it did not change."""

import array

import pytest

from ipa_snapshot_hardware import parent
from ipa_snapshot_hardware import takeover
from ipa_snapshot_hardware.disk import memory
from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import extent
from ironic_snapshot_core import index
from ironic_snapshot_core import manifest
from ironic_snapshot_core import units

C = 64 * units.KiB
A = '11111111-1111-4111-8111-111111111111'
B = '22222222-2222-4222-8222-222222222222'
OWN = '33333333-3333-4333-8333-333333333333'


def pack(attempt, number, clusters, first_slot, first):
    """A pack of raw clusters."""
    name = f'pack-{number:06d}'
    return parent.ParentPack(
        manifest.PackRecord.new(
            attempt, name, clusters * C, '0' * 32, clusters, clusters * C
        ),
        index.IndexPack(
            name,
            clusters,
            array.array('I', range(0, (clusters + 1) * C, C)),
            bytes(32 * clusters),
        ),
        first_slot,
        first,
    )


# Of A, slots 4 to 7 are in a pack that is stored again.
SHARED = parent.Shared(
    [pack(A, 1, 4, 0, 0), pack(A, 3, 4, 8, 4), pack(B, 1, 2, 0, 8)]
)


def extents(*ranges):
    found = extent.DataExtents()
    for start, end in ranges:
        found.add(start, end)
    return found


def test_slots_and_numbers():
    assert SHARED.size == 10
    assert parent.NOTHING.size == 0
    assert SHARED.number_of(A, 1) == (1, 3)
    assert SHARED.number_of(A, 4) is None
    assert SHARED.number_of(A, 7) is None
    assert SHARED.number_of(A, 11) == (7, 1)
    assert SHARED.number_of(A, 12) is None
    assert SHARED.number_of(B, 0) == (8, 2)
    assert SHARED.number_of(OWN, 0) is None
    numbered = enumerate([2, 3, 4, 5, 8, 10, 12, 7, 11, 12])
    assert list(SHARED.places(numbered, OWN)) == [
        (0, A, 2, 2),
        (2, A, 8, 2),
        (4, B, 0, 1),
        (5, OWN, 0, 1),
        (6, OWN, 2, 1),
        (7, A, 11, 1),
        (8, OWN, 1, 2),
    ]
    assert list(parent.NOTHING.places([(5, 2)], OWN)) == [(5, OWN, 2, 1)]
    # Their numbers follow, but they do not.
    assert list(parent.NOTHING.places([(5, 2), (7, 3)], OWN)) == [
        (5, OWN, 2, 1),
        (7, OWN, 3, 1),
    ]


def find(unchanged, data=((0, 16 * C),), size=16 * C):
    # 0 1 2 3 4 5 | zero: 6 7 | 8 9 | zero: 10 | 11 12 13 14 15
    #     A 2 ..  |           | B   |          | A 8 ..
    places = cluster_map.ClusterMap(
        size,
        C,
        [A, B],
        [
            cluster_map.MapExtent(0, 6, 0, 2),
            cluster_map.MapExtent(8, 2, 1, 0),
            cluster_map.MapExtent(11, 4, 0, 8),
        ],
    )
    return takeover.find(
        memory.MemoryDisk(bytes(size)),
        extents(*data),
        extents(*unchanged),
        places,
        SHARED,
    )


def test_everything_but_what_is_stored_again():
    taken = find([(0, 16 * C)])
    assert list(taken.runs()) == [
        (0, 2, 2),
        (6, 2, None),
        (8, 2, 8),
        (10, 1, None),
        (11, 4, 4),
        (15, 1, None),
    ]
    left = taken.without(extents((0, 16 * C)), C)
    assert list(left) == [(2 * C, 6 * C)]
    assert [each for each in range(18) if each in taken] == [
        *(0, 1),
        *range(6, 16),
    ]
    assert (taken.find(1), taken.find(7), taken.find(12)) == (3, None, 5)
    with pytest.raises(KeyError):
        taken.find(2)


def test_only_whole_clusters():
    taken = find([(512, 9 * C + 512), (10 * C - 512, 12 * C)])
    assert list(taken.runs()) == [
        (1, 1, 3),
        (6, 2, None),
        (8, 1, 8),
        (10, 1, None),
        (11, 1, 4),
    ]


def test_only_what_is_all_data():
    # The parent's cluster may hold what is not data any more.
    data = [(0, C), (8 * C, 9 * C - 512), (9 * C - 512 + 1, 12 * C)]
    taken = find([(0, 16 * C)], data)
    assert list(taken.runs()) == [
        (0, 1, 2),
        (9, 1, 9),
        (10, 1, None),
        (11, 1, 4),
    ]
    left = taken.without(extents(*data), C)
    assert list(left) == [(8 * C, 9 * C - 512), (9 * C - 511, 9 * C)]


def test_a_last_cluster_that_sticks_out():
    size = 15 * C + 512
    assert list(find([(14 * C, size)], [(0, size)], size).runs()) == [
        (14, 1, 7),
        (15, 1, None),
    ]
    assert list(find([(14 * C, size - 1)], [(0, size)], size).runs()) == [
        (14, 1, 7)
    ]


def test_runs_from_somewhere():
    taken = find([(0, 16 * C)])
    assert list(taken.runs(7))[0] == (7, 1, None)
    assert list(taken.runs(9))[0] == (9, 1, 9)
    assert list(taken.runs(13)) == [(13, 2, 6), (15, 1, None)]
    assert list(taken.runs(16)) == []


def test_nothing_is_known():
    taken = find([])
    assert (len(taken), list(taken.runs())) == (0, [])
    assert 0 not in taken
    assert list(taken.without(extents((5, 900)), C)) == [(5, 900)]
