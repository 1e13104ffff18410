# SPDX-License-Identifier: Apache-2.0
"""Plain tables."""

from ironic_snapshot_cli import table


def test_columns_are_as_wide_as_need_be():
    assert table.lines(
        ('NAME', 'SIZE', 'STATE'),
        [('a', '10 B', 'ok'), ('longer', '1000 B', '')],
        right='SIZE',
    ) == [
        'NAME      SIZE  STATE',
        'a         10 B  ok',
        'longer  1000 B',
    ]


def test_wide_characters_count_twice():
    found = table.lines(('N', 'X'), [('日本', '1'), ('e\u0301', '2')])
    assert found == ['N     X', '日本  1', 'e\u0301     2']


def test_pairs_leave_out_what_is_empty():
    assert table.pairs([('Name', 'golden'), ('WWN', ''), ('Id', '1')]) == [
        'Name:  golden',
        'Id:    1',
    ]


def test_nothing_moves_the_cursor():
    assert table.printable('a\x1b[31m\nb\u202e') == 'a?[31m?b?'


def test_one_column_shrinks_for_a_narrow_terminal():
    rows = [('1', 'a name of 20 columns', '3'), ('2', 'short', '4')]
    whole = table.lines(('N', 'NAME', 'X'), rows, shrink='NAME', columns=26)
    assert max(map(len, whole)) == 26
    assert table.lines(
        ('N', 'NAME', 'X'), rows, shrink='NAME', columns=20
    ) == [
        'N  NAME            X',
        '1  a name of 20..  3',
        '2  short           4',
    ]
    # Not to nothing, whatever else is in the table.
    narrow = table.lines(('N', 'NAME', 'X'), rows, shrink='NAME', columns=5)
    assert narrow[1] == '1  a name..  3'


def test_what_is_cut_is_no_wider_than_the_room():
    assert table.cut('日本語の名前', 9) == '日本語..'
    assert table.cut('日本', 4) == '日本'
