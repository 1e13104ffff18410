# SPDX-License-Identifier: Apache-2.0
"""Ranges of data against a plain set of bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import errors
from ironic_snapshot_core import extent

SIZE = 200


@st.composite
def ranges(draw):
    pairs = draw(st.lists(st.tuples(
        st.integers(0, SIZE), st.integers(0, 40))))
    return sorted((start, min(start + length, SIZE))
                  for start, length in pairs)


def build(pairs, **kwargs):
    extents = extent.DataExtents(**kwargs)
    for start, end in pairs:
        extents.add(start, end)
    return extents


def covered(pairs):
    return {each for start, end in pairs for each in range(start, end)}


@given(ranges())
def test_it_holds_what_was_added(pairs):
    extents = build(pairs)
    assert covered(extents) == covered(pairs)
    assert extents.size == len(covered(pairs))
    found = list(extents)
    assert len(extents) == len(found)
    # Neighbours are joined: between two ranges there is a hole.
    assert all(one[1] < two[0]
               for one, two in zip(found, found[1:], strict=False))


@given(ranges(), st.integers(1, 50))
def test_clusters_are_those_with_any_data(pairs, cluster_size):
    runs = list(build(pairs).clusters(cluster_size))
    found = [each for first, count in runs
             for each in range(first, first + count)]
    assert found == sorted({each // cluster_size
                            for each in covered(pairs)})
    assert all(one[0] + one[1] < two[0]
               for one, two in zip(runs, runs[1:], strict=False))


@given(ranges(), st.integers(0, SIZE), st.integers(0, SIZE))
def test_holes_are_the_rest(pairs, start, length):
    extents = build(pairs)
    end = start + length
    assert (covered(extents.holes(start, end))
            == set(range(start, end)) - covered(pairs))


@given(ranges(), st.integers(4, 8))
def test_few_ranges_lose_holes_and_never_data(pairs, most):
    extents = build(pairs, max_ranges=most)
    assert len(extents) <= most
    assert covered(pairs) <= covered(extents)


def test_it_refuses_disorder():
    extents = build([(10, 20)])
    with pytest.raises(errors.InvalidValue, match='before the one before'):
        extents.add(5, 8)


def test_whole():
    assert list(extent.whole(512)) == [(0, 512)]
