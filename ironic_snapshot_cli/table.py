# SPDX-License-Identifier: Apache-2.0
"""Plain tables."""

import math
import unicodedata
from collections.abc import Sequence

# What is left of a column that must shrink.
_NARROWEST = 8
_CUT = '..'


def lines(
    heading: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: str = '',
    shrink: str = '',
    columns: int | None = None,
) -> list[str]:
    """Lay out a table in columns as wide as need be.

    :param right: columns that are aligned to the right, by their headings'
        first words, separated by spaces.
    :param shrink: the column whose texts may be cut for the table to fit.
    :param columns: of the terminal; None: nothing is cut.
    """
    table = [heading, *rows]
    widths = [max(map(width, column)) for column in zip(*table, strict=True)]
    excess = sum(widths) + 2 * len(widths) - 2 - (columns or math.inf)
    if shrink and excess > 0:
        place = heading.index(shrink)
        room = max(widths[place] - int(excess), _NARROWEST)
        if room < widths[place]:
            table = [
                [*row[:place], cut(row[place], room), *row[place + 1 :]]
                for row in table
            ]
            widths[place] = room
    to_right = [name in right.split() for name in heading]
    found = []
    for row in table:
        cells = []
        for cell, wide, flush in zip(row, widths, to_right, strict=True):
            padding = ' ' * (wide - width(cell))
            cells.append(padding + cell if flush else cell + padding)
        found.append('  '.join(cells).rstrip())
    return found


def pairs(rows: Sequence[tuple[str, str]]) -> list[str]:
    """Lay out names and values; what has no value is left out."""
    rows = [(name, value) for name, value in rows if value]
    wide = max(width(name) for name, _ in rows)
    return [f'{name + ":":{wide + 1}}  {value}' for name, value in rows]


def width(text: str) -> int:
    """Tell how many columns of a terminal a text takes."""
    return sum(
        0
        if unicodedata.combining(character)
        else 1 + (unicodedata.east_asian_width(character) in 'WF')
        for character in text
    )


def cut(text: str, room: int) -> str:
    """Shorten a text to so many columns of a terminal."""
    if width(text) <= room:
        return text
    while width(text) > room - len(_CUT):
        text = text[:-1]
    return text + _CUT


def printable(text: str) -> str:
    """Replace what would move the cursor or change colours."""
    return ''.join(
        character if character.isprintable() else '?' for character in text
    )
