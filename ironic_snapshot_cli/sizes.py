# SPDX-License-Identifier: Apache-2.0
"""Sizes, numbers and times as people write and read them."""

import re

_UNITS = ('B', 'KiB', 'MiB', 'GiB', 'TiB', 'PiB')
_SIZE = re.compile(r'(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?', re.IGNORECASE)


def parse(text: str) -> int:
    """Read a size: ``65536``, ``256K``, ``1.5GiB``; powers of 1024.

    :returns: bytes.
    :raises ValueError: it is none.
    """
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f'{text!r} is no size like 262144, 256K or 1.5G')
    power = ' KMGTP'.index(match[2].upper() or ' ')
    return int(float(match[1]) * 1024**power)


def show(size: float) -> str:
    """Write bytes with one decimal in the largest unit that fits."""
    power = 0
    # What would be rounded to 1024.0 belongs to the next unit.
    while round(size, 1) >= 1024 and power < len(_UNITS) - 1:
        size /= 1024
        power += 1
    return f'{size:.1f} {_UNITS[power]}' if power else f'{int(size)} B'


def show_short(size: int) -> str:
    """Write bytes for a table: ``700.0M``."""
    text = show(size)
    return text.replace('iB', '').replace(' ', '').removesuffix('B')


def show_count(number: int, what: str) -> str:
    """Write a number of things: ``1 object`` or ``2 objects``."""
    return f'{number} {what}{"s" * (number != 1)}'


def show_seconds(seconds: float) -> str:
    """Write a duration: ``4.2 s``, ``3:07`` or ``1:02:03``."""
    if seconds < 60:
        return f'{seconds:.1f} s'
    return show_clock(seconds)


def show_clock(seconds: float) -> str:
    """Write a duration in minutes and seconds, and hours if need be."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f'{hours}:{minutes:02}:{rest:02}'
    return f'{minutes}:{rest:02}'
