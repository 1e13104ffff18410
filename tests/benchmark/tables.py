# SPDX-License-Identifier: Apache-2.0
"""Results as people read them: on a terminal, and in the documentation."""

from collections.abc import Iterable, Sequence

from tests.benchmark import bars
from tests.benchmark import results

HEADER = ('program', 'runs', 'wall s', 'min-max', 'CPU s', 'peak MiB',
          'stored MB', 'wall x', 'stored x')

DISKS = {
    'root': 'Debian root, ext4',
    'changed': 'Debian root a day later, the second run for this disk',
    'unchanged': 'Debian root unchanged since, the third run',
    'restored': 'Debian root, restored',
    'aged': 'Aged xfs',
    'small': 'A disk of just what is used',
    'empty': 'Mostly empty 1 TiB, ext4',
}

#: In what order they are shown.
KINDS = ('ours', 'peer', 'limit')

#: What the others are compared with, on disks where it is not ``ours``.
REFERENCES = {'changed': 'ours-day', 'unchanged': 'ours-unchanged',
              'restored': 'ours-restore'}


def text(found: results.Results, judged: Sequence[bars.Bar]) -> str:
    """Give everything for a terminal."""
    lines = []
    for name, value in {**found.machine, **found.versions}.items():
        lines.append(f'{name}: {value}')
    lines.append(conditions(found))
    for disk in _disks(found):
        lines += ['', f'{_title(found, disk)}:', '']
        lines += _columns([HEADER, *_rows(found, disk)])
    lines += ['', 'The bar:', '']
    for bar in judged:
        lines.append(
            f'  {"met   " if bar.met else "MISSED"} {bar.value:8.3f} '
            f'({_sign(bar)} {bar.limit:g})  {bar.text}'
            + (f' [{bar.detail}]' if bar.detail else ''))
    return '\n'.join(lines)


def rst(found: results.Results, judged: Sequence[bars.Bar]) -> str:
    """Give everything for the documentation."""
    lines = ['.. Written by tools/benchmark.', '',
             f'Measured {found.started[:10]}. {conditions(found)}', '']
    lines += _rst_table(
        ('', ''), [*found.machine.items(), *found.versions.items()])
    for disk in _disks(found):
        title = _title(found, disk)
        lines += ['', title, '-' * len(title), '']
        lines += _rst_table(HEADER, _rows(found, disk))
        checked = [f'{each.title}: {each.verified}' for each in found.series
                   if each.disk == disk and each.verified and each.samples]
        if checked:
            lines += ['', 'Restored and found equal: '
                      + '; '.join(checked) + '.']
    lines += ['', 'The bar', '-------', '']
    lines += _rst_table(
        ('demand', 'allowed', 'found', '', 'figures'),
        [(bar.text, f'{_sign(bar)} {bar.limit:g}', f'{bar.value:.3f}',
          'met' if bar.met else '**missed**', bar.detail)
         for bar in judged])
    return '\n'.join(lines) + '\n'


def conditions(found: results.Results) -> str:
    """Say under what conditions it was measured."""
    options = found.options
    cache = ('The page cache was dropped before each run.'
             if options['cold'] else
             'The disk image was read once before each run, so it was in the '
             'page cache as far as memory goes.')
    scale = ('' if options['scale'] == 1 else
             f' All sizes but that of the 1 TiB disk are scaled by '
             f'{options["scale"]:g}, so the figures are no verdict.')
    return (f'{options["rounds"]} rounds, the programs one after another in '
            f'each. {cache}{scale}')


# Private


def _disks(found: results.Results) -> list[str]:
    return [name for name in DISKS if any(
        each.disk == name and each.samples for each in found.series)]


def _title(found: results.Results, disk: str) -> str:
    facts = found.disks[disk]
    return (f'{DISKS[disk]}: {_gib(facts["virtual"])} GiB, '
            f'{_gib(facts["allocated"])} GiB of it ever written')


def _gib(size: int) -> str:
    return f'{size / (1 << 30):.2f}'.rstrip('0').rstrip('.')


def _rows(found: results.Results, disk: str) -> list[tuple[str, ...]]:
    ours = found.get(disk, REFERENCES.get(disk, 'ours'))
    return [_row(each, ours) for each in sorted(
        found.series, key=lambda each: KINDS.index(each.kind))
            if each.disk == disk and each.samples]


def _row(each: results.Series, ours: results.Series | None
         ) -> tuple[str, ...]:
    limit = each.kind == 'limit'
    low, high = each.spread
    stored = each.stored
    return (
        each.title, str(len(each.samples)), f'{each.wall:.2f}',
        f'{low:.2f}-{high:.2f}', '' if limit else f'{each.cpu:.2f}',
        '' if limit else f'{each.peak / (1 << 20):.0f}',
        '' if stored is None else _megabytes(stored),
        f'{each.wall / ours.wall:.2f}' if ours else '',
        f'{stored / ours.stored:.2f}'
        if ours and ours.stored and stored else '')


def _megabytes(size: int) -> str:
    return f'{size / 1e6:.{3 if size < 10e6 else 0}f}'


def _sign(bar: bars.Bar) -> str:
    return '>=' if bar.at_least else '<='


def _columns(rows: Sequence[Sequence[str]]) -> Iterable[str]:
    """Line columns up: the first to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        first, *others = zip(row, widths, strict=True)
        yield '  ' + '  '.join([
            first[0].ljust(first[1]),
            *(cell.rjust(width) for cell, width in others)]).rstrip()


def _rst_table(header: Sequence[str], rows: Iterable[Sequence[str]]
               ) -> list[str]:
    lines = ['.. list-table::']
    if any(header):
        lines.append('   :header-rows: 1')
    lines.append('')
    for row in [header, *rows] if any(header) else rows:
        for number, cell in enumerate(row):
            lines.append(f'   {" " if number else "*"} - {cell}'.rstrip())
    return lines
