# SPDX-License-Identifier: Apache-2.0
"""Known clusters: found by digest, in memory that was foretold."""

import tracemalloc

import hypothesis
import pytest
from hypothesis import strategies

from ipa_snapshot_hardware import known


def digest(number):
    return number.to_bytes(32, 'big')


def test_numbers_count_from_zero():
    table = known.KnownClusters(3, 32)
    assert [table.add(digest(n)) for n in (7, 5, 9)] == [0, 1, 2]
    assert table.find(digest(5)) == 1
    assert table.find(digest(6)) is None
    assert len(table) == 3


def test_a_full_table_refuses_more():
    table = known.KnownClusters(1, 32)
    table.add(digest(1))
    with pytest.raises(ValueError, match='more than 1'):
        table.add(digest(2))


def test_equal_beginnings_are_not_taken_for_equal():
    # digest() differs only behind the bytes that choose the place.
    table = known.KnownClusters(100, 32)
    for number in range(100):
        table.add(digest(number))
    assert [table.find(digest(n)) for n in range(100)] == list(range(100))
    assert table.find(digest(100)) is None


def test_a_run_gets_its_final_numbers():
    table = known.KnownClusters(5, 32)
    for number in (10, 11):
        table.add(digest(number))
    table.settle()
    for number in (12, 13, 14):
        table.add(digest(number))
    table.settle((2, 0, 1))
    found = [10, 11, 14, 12, 13]
    assert [table.find(digest(n)) for n in found] == [0, 1, 2, 3, 4]
    assert bytes(table.digests(0, 5)) == b''.join(map(digest, found))


DIGESTS = strategies.binary(min_size=32, max_size=32)


@hypothesis.given(strategies.lists(DIGESTS))
def test_it_is_a_dict(digests):
    table = known.KnownClusters(len(digests), 32)
    model = {}
    for each in digests:
        assert table.find(each) == model.get(each)
        number = table.add(each)
        assert number == model.setdefault(each, len(model))
    assert len(table) == len(model)


@hypothesis.given(strategies.lists(DIGESTS), strategies.lists(DIGESTS))
def test_what_is_loaded_is_known(loaded, added):
    table = known.KnownClusters(len(loaded) + len(added), 32)
    table.load(b''.join(loaded))
    assert len(table) == len(loaded)
    # Of two that are equal the first is found.
    for each in loaded:
        assert table.find(each) == loaded.index(each)
    assert [table.digest(n) for n in range(len(loaded))] == loaded
    model = {each: loaded.index(each) for each in loaded}
    for each in added:
        number = len(table)
        assert table.add(each) == model.setdefault(each, number)


def test_no_more_is_loaded_than_fits():
    table = known.KnownClusters(2, 32)
    table.add(digest(1))
    with pytest.raises(ValueError, match='more than 2'):
        table.load(digest(2) + digest(3))


def test_what_is_loaded_is_not_settled_again():
    table = known.KnownClusters(4, 32)
    table.load(digest(1) + digest(2))
    table.add(digest(3))
    table.add(digest(4))
    table.settle((1, 0))
    assert [table.find(digest(n)) for n in (1, 2, 4, 3)] == [0, 1, 2, 3]


def test_memory_is_as_foretold():
    clusters = 100_000
    tracemalloc.start()
    try:
        table = known.KnownClusters(clusters, 32)
        for number in range(clusters):
            scattered = number * 0x9E3779B97F4A7C15 % 2**64
            table.add(scattered.to_bytes(32, 'little'))
            if number % 500 == 499:
                table.settle()
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # That of the digests is not from the heap.
    assert used <= 4 * 6 / 5 * clusters + 4096


@pytest.mark.parametrize('capacity', [1, 2, 3, 7, 50])
def test_all_places_are_found_whatever_the_digests_share(capacity):
    """With the first eight bytes in common all take the same steps."""
    found = known.KnownClusters(capacity, 32)
    digests = [
        bytes(8) + number.to_bytes(24, 'big') for number in range(capacity)
    ]
    assert [found.add(each) for each in digests] == list(range(capacity))
    assert [found.find(each) for each in digests] == list(range(capacity))
    loaded = known.KnownClusters(capacity, 32)
    loaded.load(b''.join(digests))
    assert [loaded.find(each) for each in digests] == list(range(capacity))
