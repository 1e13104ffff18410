# SPDX-License-Identifier: Apache-2.0
"""The text that LVM describes a volume group in.

Sections and assignments; values are whole numbers, strings and lists of
them::

    vg {
        id = "C0j4AQ-..."
        seqno = 2
        status = ["RESIZEABLE", "READ", "WRITE"]
        logical_volumes { ... }
    }
    contents = "Text Format Volume Group"    # and some more

It comes from a disk that anybody may have written, so this takes what LVM
writes and nothing else. Grammar: libdm/libdm-config.c of LVM2.
"""

import re

from ipa_snapshot_hardware.survey import look

Value = int | str | list[int | str]
Section = dict[str, 'Value | Section']

#: vg, logical_volumes, volume, segment: LVM writes no deeper.
MAX_DEPTH = 6

# What is repeated is bounded, for each repetition takes memory.
_TOKEN = re.compile(
    r'[ \t\n]*(?:#[^\n]*\n[ \t\n]*){0,1000}'
    r'(?:(?P<string>"[^"\\\0]*(?:\\["\\][^"\\\0]*){0,10000}")'
    r'|(?P<number>-?[0-9]{1,20}(?![A-Za-z0-9_.+-]))'
    r'|(?P<name>[A-Za-z0-9_.+-]{1,128})'
    r'|(?P<mark>[{}=\[\],])'
    r'|(?P<end>\Z))'
)
_ESCAPED = re.compile(r'\\(.)', re.DOTALL)


def parse(text: str) -> Section:
    """Read a text.

    :returns: its sections and values, by name.
    :raises Doubt: it is not what LVM writes.
    """
    tokens = _Tokens(text)
    root: Section = {}
    open_sections = [root]
    while True:
        kind, name = tokens.take()
        if kind == 'end':
            break
        if name == '}':
            open_sections.pop()
            if not open_sections:
                raise look.Doubt('bad metadata text')
            continue
        # A name of digits alone is a name all the same.
        if kind not in ('name', 'number') or name in open_sections[-1]:
            raise look.Doubt('bad metadata text')
        kind, mark = tokens.take()
        if mark == '{' and len(open_sections) < MAX_DEPTH:
            section: Section = {}
            open_sections[-1][name] = section
            open_sections.append(section)
        elif mark == '=' and kind == 'mark':
            open_sections[-1][name] = _value(tokens)
        else:
            raise look.Doubt('bad metadata text')
    if len(open_sections) != 1:
        raise look.Doubt('bad metadata text')
    return root


def sections(inside: Section) -> dict[str, Section]:
    """Give the sections in a section, by name."""
    return {
        name: value
        for name, value in inside.items()
        if isinstance(value, dict)
    }


def section(
    inside: Section,
    name: str,
    default: Section | None = None,
) -> Section:
    """Give a section in a section.

    :raises Doubt: it has none of that name, and there is no default.
    """
    found = inside.get(name, default)
    if not isinstance(found, dict):
        raise look.Doubt(f'no {name}')
    return found


def number(inside: Section, name: str, least: int) -> int:
    """Give a number of a section.

    :raises Doubt: it is no number, or too small or large.
    """
    found = inside.get(name)
    # 2^40 extents or sectors are beyond any disk.
    if not isinstance(found, int) or not least <= found < 1 << 40:
        raise look.Doubt(f'bad {name}')
    return found


def strings(
    inside: Section,
    name: str,
    default: tuple[str, ...] | None = None,
) -> set[str]:
    """Give the strings of a section's list.

    :raises Doubt: it is no list.
    """
    found = inside.get(name, default)
    if isinstance(found, str):
        return {found}
    if not isinstance(found, list | tuple):
        raise look.Doubt(f'bad {name}')
    return {str(each) for each in found}


# Private


class _Tokens:
    def __init__(self, text: str) -> None:
        self._text = text
        self._position = 0

    def take(self) -> tuple[str, str]:
        """Give kind and text of the next token."""
        found = _TOKEN.match(self._text, self._position)
        if found is None or found.lastgroup is None:
            raise look.Doubt('bad metadata text')
        self._position = found.end()
        return found.lastgroup, found[found.lastgroup]


def _value(tokens: _Tokens) -> Value:
    kind, text = tokens.take()
    if text != '[' or kind != 'mark':
        return _plain(kind, text)
    values: list[int | str] = []
    kind, text = tokens.take()
    if text == ']' and kind == 'mark':
        return values
    while True:
        values.append(_plain(kind, text))
        kind, text = tokens.take()
        if text == ']' and kind == 'mark':
            return values
        if text != ',' or kind != 'mark':
            raise look.Doubt('bad metadata text')
        kind, text = tokens.take()


def _plain(kind: str, text: str) -> int | str:
    if kind == 'number':
        return int(text)
    if kind == 'string':
        return _ESCAPED.sub(r'\1', text[1:-1])
    raise look.Doubt('bad metadata text')
