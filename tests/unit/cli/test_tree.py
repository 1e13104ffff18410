# SPDX-License-Identifier: Apache-2.0
"""The tree of a lineage."""

import textwrap

import hypothesis
from hypothesis import strategies

from ironic_snapshot_cli import tree
from tests.unit.cli import snapshots


def draw(*parents):
    """Draw snapshots; each is its name, its parent's name and more."""
    entries = [
        snapshots.make_entry(name, parent, sequence=number)
        if name != 'damaged'
        else snapshots.damaged(name)
        for number, (name, parent) in enumerate(parents, start=1)
    ]
    names = {snapshots.make_id(name): name for name, _ in parents}
    return '\n'.join(
        f'{lead}{names[entry.id]}' for lead, entry in tree.arrange(entries)
    )


def check(drawn, expected):
    assert drawn == textwrap.dedent(expected).strip('\n')


def test_one_after_the_other_is_no_tree():
    check(
        draw(('a', None), ('b', 'a'), ('c', 'b'), ('d', None), ('e', 'd')),
        """
        a
        b
        c
        d
        e
        """,
    )


def test_branches():
    check(
        draw(
            ('a', None),
            ('b', 'a'),
            ('c', 'b'),
            ('d', 'b'),
            ('e', 'c'),
            ('f', 'd'),
            ('g', 'e'),
            ('h', 'e'),
            ('i', 'g'),
            ('j', None),
        ),
        """
        a
        b
        |- c
        |  e
        |  |- g
        |  |  i
        |  `- h
        `- d
           f
        j
        """,
    )


def test_a_deleted_parent_leaves_a_tree_of_its_own():
    check(
        draw(('a', None), ('b', 'deleted'), ('c', 'b'), ('d', 'b')),
        """
        a
        b
        |- c
        `- d
        """,
    )


def test_a_damaged_one_keeps_its_children():
    check(
        draw(('damaged', None), ('a', None), ('b', 'damaged')),
        """
        damaged
        b
        a
        """,
    )


def test_what_builds_upon_itself_is_shown():
    check(draw(('a', 'b'), ('b', 'a'), ('c', None)), 'c\na\nb')


@hypothesis.given(strategies.lists(strategies.integers(-1, 30), max_size=30))
def test_each_is_shown_once_and_behind_its_parent(parents):
    """Whatever the parents are: deleted, younger, or in a circle."""
    entries = [
        snapshots.make_entry(
            str(n), None if p in (-1, n) else str(p), sequence=n
        )
        for n, p in enumerate(parents)
    ]
    shown = [entry.id for _, entry in tree.arrange(entries)]
    assert sorted(shown) == sorted(each.id for each in entries)
    for number, parent in enumerate(parents):
        if 0 <= parent < number:
            ids = map(snapshots.make_id, (str(parent), str(number)))
            first, second = map(shown.index, ids)
            assert first < second


def test_a_thousand_generations_are_no_problem():
    entries = [
        snapshots.make_entry(str(n), str(n - 1) if n else None)
        for n in range(1500)
    ]
    assert [lead for lead, _ in tree.arrange(entries)] == [''] * 1500
