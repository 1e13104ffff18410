# SPDX-License-Identifier: Apache-2.0
"""Where clusters are in an image that is written once."""

import pytest

from ironic_snapshot_core import qcow2_sequence
from ironic_snapshot_core.qcow2_sequence import Group
from ironic_snapshot_core.units import KiB

C = 64 * KiB


@pytest.mark.parametrize(('lengths', 'groups'), [
    pytest.param([], [], id='nothing'),
    pytest.param([0, 0], [], id='zeroes'),
    pytest.param([C], [Group(1, 1, 0, C)], id='raw'),
    pytest.param([1], [Group(1, 0, 1, C)], id='compressed'),
    pytest.param([0, 10, C, C - 9, 0], [Group(4, 1, C + 1, 3 * C)],
                 id='all kinds'),
    pytest.param([C, C, C], [Group(2, 2, 0, 2 * C), Group(3, 1, 0, C)],
                 id='full'),
    pytest.param([C, C, 0, 0], [Group(2, 2, 0, 2 * C)],
                 id='zeroes behind the last')])
def test_groups(lengths, groups):
    assert qcow2_sequence.arrange(lengths, C, 2 * C) == groups


def test_raw_clusters_come_first_in_each_group():
    lengths = [10, C, 0, 30, 20, C, 40]
    groups = qcow2_sequence.arrange(lengths, C, C + 40)
    assert [group.end for group in groups] == [4, 7]
    assert list(qcow2_sequence.placements(
        range(100, 107), lengths, groups, C)) == [
            (100, 0, C, 10, True), (101, 0, 0, C, False),
            (103, 0, C + 10, 30, True), (104, 1, C, 20, True),
            (105, 1, 0, C, False), (106, 1, C + 20, 40, True)]


def test_numbers_and_lengths_must_fit():
    groups = qcow2_sequence.arrange([C], C)
    with pytest.raises(ValueError, match='longer'):
        list(qcow2_sequence.placements([], [C], groups, C))
