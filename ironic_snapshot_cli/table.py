# SPDX-License-Identifier: Apache-2.0
"""Plain tables."""

import unicodedata
from collections.abc import Sequence


def lines(
    heading: Sequence[str], rows: Sequence[Sequence[str]], right: str = ''
) -> list[str]:
    """Lay out a table in columns as wide as need be.

    :param right: columns that are aligned to the right, by their headings'
        first words, separated by spaces.
    """
    table = [heading, *rows]
    widths = [max(map(width, column)) for column in zip(*table, strict=True)]
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


def printable(text: str) -> str:
    """Replace what would move the cursor or change colours."""
    return ''.join(
        character if character.isprintable() else '?' for character in text
    )
