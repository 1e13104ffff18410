# SPDX-License-Identifier: Apache-2.0
"""What is on the disk, cluster by cluster."""

import hypothesis
import pytest
from hypothesis import strategies

from ipa_snapshot_hardware import content
from ironic_snapshot_core import errors


def digest(letter):
    return letter.encode() * 32


def test_a_disk_of_zeroes():
    found = content.Content(5, 32)
    assert list(found) == []
    assert (found.data_clusters, found.new_clusters) == (0, 0)


def test_equal_clusters_share_a_slot():
    found = content.Content(6, 32)
    picture = 'AB-ABC'
    new = [
        found.add(cluster, digest(letter))
        for cluster, letter in enumerate(picture)
        if letter != '-'
    ]
    assert new == [True, True, False, False, True]
    assert (found.data_clusters, found.new_clusters) == (5, 3)
    # One pack that has put C before A before B.
    found.place(0, (2, 0, 1))
    assert list(found) == [(0, 1), (1, 2), (3, 1), (4, 2), (5, 0)]


def test_more_packs():
    found = content.Content(6, 32)
    found.add(0, digest('A'))
    found.add(1, digest('B'))
    found.place(0, (1, 0))
    for cluster, letter in enumerate('CADC', 2):
        found.add(cluster, digest(letter))
    found.place(2, (1, 0))
    assert list(found) == [(0, 1), (1, 0), (2, 3), (3, 1), (4, 2), (5, 3)]
    assert bytes(found.digests(0, 4)) == b''.join(map(digest, 'BADC'))
    assert found.digest_of(2) == digest('C')
    assert found.digest_of(6) is None
    assert list(found.between(1, 3)) == [(1, 0), (2, 3)]


def test_it_goes_on_behind_what_was_restored():
    found = content.Content(6, 32)
    found.restore(iter([(0, 1), (3, 0)]), digest('B') + digest('A'))
    assert not found.add(4, digest('A'))
    assert found.add(5, digest('C'))
    found.place(2, (0,))
    assert list(found) == [(0, 1), (3, 0), (4, 1), (5, 2)]


def test_what_is_known():
    found = content.Content(2, 32)
    assert found.find(digest('A')) is None
    found.add(1, digest('A'))
    assert found.find(digest('A')) == 0


def test_too_many_clusters():
    with pytest.raises(errors.InvalidValue, match='cluster_size'):
        content.Content(2**32, 32)


@hypothesis.given(
    strategies.text('ABCDEFG-', min_size=1, max_size=60), strategies.data()
)
def test_any_disk_and_any_shuffle(picture, data):
    found = content.Content(len(picture), 32)
    slots = []
    stored = []

    def close():
        first = len(slots)
        order = data.draw(strategies.permutations(range(len(stored))))
        found.place(first, order)
        slots.extend(stored[number] for number in order)
        stored.clear()

    for cluster, letter in enumerate(picture):
        if letter != '-' and found.add(cluster, digest(letter)):
            stored.append(letter)
            if data.draw(strategies.booleans()):
                close()
    if stored:
        close()
    restored = ['-'] * len(picture)
    for cluster, slot in found:
        restored[cluster] = slots[slot]
        assert found.digest_of(cluster) == digest(slots[slot])
    assert ''.join(restored) == picture
    assert bytes(found.digests(0, len(slots))) == b''.join(
        map(digest, slots)
    )
    assert all(
        found.find(digest(letter)) == slot for slot, letter in enumerate(slots)
    )


def test_neighbours_and_others_taken_in_together():
    found = content.Content(9, 32, 3)
    found.load(b''.join(map(digest, 'ABC')))
    found.extend([2, 3], [0, 1])
    found.extend([4, 6, 7], [2, 0, 1])
    found.extend(range(8, 9), range(2, 3))
    found.extend([], [])
    found.add(9, digest('A'))
    found.add(11, digest('B'))
    clusters = [2, 3, 4, 6, 7, 8, 9, 11]
    pairs = list(zip(clusters, [0, 1, 2, 0, 1, 2, 0, 1], strict=True))
    assert list(found) == pairs
    for first in range(len(pairs)):
        for last in range(first, len(pairs) + 1):
            assert list(found.between(first, last)) == pairs[first:last]
    assert [each for each in range(13) if found.digest_of(each)] == clusters
