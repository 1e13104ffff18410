# SPDX-License-Identifier: Apache-2.0
"""Runs of bytes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ironic_snapshot_core import errors
from ironic_snapshot_core import extent
from ironic_snapshot_core.extent import Extent
from ironic_snapshot_core.extent import Kind

KINDS = {'A': Kind.DATA, '0': Kind.ZERO, '-': Kind.HOLE}


def picture(text):
    """Give an extent for each letter."""
    return [Extent(n, 1, KINDS[each]) for n, each in enumerate(text)]


def draw(extents):
    names = {kind: name for name, kind in KINDS.items()}
    return ' '.join(names[each.kind] * each.length for each in extents)


@pytest.mark.parametrize('before, after', [
    ('', ''), ('A', 'A'), ('AAA', 'AAA'), ('AA0--A', 'AA 0 -- A'),
    ('0A0', '0 A 0')])
def test_merge_joins_neighbours_of_a_kind(before, after):
    assert draw(extent.merge(picture(before))) == after


def test_merge_keeps_gaps():
    apart = [Extent(0, 1, Kind.DATA), Extent(2, 1, Kind.DATA)]
    assert list(extent.merge(apart)) == apart


@pytest.mark.parametrize('second', [0, 5, 9])
def test_merge_refuses_what_overlaps(second):
    with pytest.raises(errors.InvalidValue):
        list(extent.merge([Extent(0, 10, Kind.DATA),
                           Extent(second, 3, Kind.DATA)]))


@pytest.mark.parametrize('start, length', [(-1, 1), (0, 0), (0, -1)])
def test_no_extent_is_negative_or_empty(start, length):
    with pytest.raises(errors.InvalidValue):
        Extent(start, length, Kind.DATA)


runs = st.builds(Extent, st.integers(0, 2**40), st.integers(1, 10_000),
                 st.sampled_from(Kind))
units = st.sampled_from([512, 4096, 65536])


@given(runs, units)
def test_align_covers_and_is_minimal(run, n):
    found = extent.align(run, n)
    assert found.start % n == found.end % n == 0
    assert found.start <= run.start < found.start + n
    assert found.end - n < run.end <= found.end
    assert found.kind is run.kind


@given(runs, st.sampled_from([7, 512, 4096]))
def test_split_tiles_exactly(run, n):
    pieces = list(extent.split(run, n))
    assert list(extent.merge(pieces)) == [run]
    for piece in pieces:
        assert piece.start // n == (piece.end - 1) // n
    assert all(piece.start % n == 0 for piece in pieces[1:])


@given(st.text('A0-', max_size=50))
def test_merge_loses_nothing(text):
    merged = list(extent.merge(picture(text)))
    assert draw(merged).replace(' ', '') == text
    for one, two in zip(merged, merged[1:], strict=False):
        assert one.kind is not two.kind
