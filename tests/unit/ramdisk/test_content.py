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
    assert (found.data_clusters, found.distinct_clusters) == (0, 0)


def test_equal_clusters_share_a_slot():
    found = content.Content(6, 32)
    picture = 'AB-ABC'
    new = [
        found.add(cluster, digest(letter))
        for cluster, letter in enumerate(picture)
        if letter != '-'
    ]
    assert new == [True, True, False, False, True]
    assert (found.data_clusters, found.distinct_clusters) == (5, 3)
    # One pack that has put C before A before B.
    found.place(0, (2, 0, 1))
    assert list(found) == [(0, 1), (1, 2), (3, 1), (4, 2), (5, 0)]


def test_more_packs():
    found = content.Content(4, 32)
    for cluster, letter in enumerate('ABCD'):
        found.add(cluster, digest(letter))
    found.place(2, (1, 0))
    found.place(0, (1, 0))
    assert list(found) == [(0, 1), (1, 0), (2, 3), (3, 2)]


def test_what_is_known():
    found = content.Content(2, 32)
    assert not found.is_known(digest('A'))
    found.add(1, digest('A'))
    assert found.is_known(digest('A'))


def test_too_many_clusters():
    with pytest.raises(errors.InvalidValue, match='cluster_size'):
        content.Content(2**32, 32)


@hypothesis.given(
    strategies.text('ABCDEFG-', min_size=1, max_size=60), strategies.data()
)
def test_any_disk_and_any_shuffle(picture, data):
    found = content.Content(len(picture), 32)
    stored = []
    for cluster, letter in enumerate(picture):
        if letter != '-' and found.add(cluster, digest(letter)):
            stored.append(letter)
    slots = []
    first = 0
    while first < len(stored):
        size = data.draw(strategies.integers(1, len(stored) - first))
        order = data.draw(strategies.permutations(range(size)))
        found.place(first, order)
        slots += [stored[first + number] for number in order]
        first += size
    restored = ['-'] * len(picture)
    for cluster, slot in found:
        restored[cluster] = slots[slot]
    assert ''.join(restored) == picture
