# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot list``."""

import argparse
import collections
import dataclasses
import itertools
import json
import shutil
import sys
import typing
from collections.abc import Mapping
from collections.abc import Sequence

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import figures
from ironic_snapshot_core import history
from ironic_snapshot_core import layout
from ironic_snapshot_core.store import base
from ironic_snapshot_cli import repository
from ironic_snapshot_cli import selection
from ironic_snapshot_cli import sizes
from ironic_snapshot_cli import status
from ironic_snapshot_cli import summary
from ironic_snapshot_cli import table
from ironic_snapshot_cli import terminal as terminals
from ironic_snapshot_cli import tree

_HEADING = (
    'ID', 'NAME', 'CREATED', 'VIRTUAL', 'USED', 'NEW', 'SHARED', 'STATE'
)  # fmt: skip
_SIZES = 'VIRTUAL USED NEW SHARED'


def run(args: argparse.Namespace, terminal: terminals.Terminal) -> int:
    store = repository.open_to_read(
        args.repository, clocks.SystemClock(), threads=1
    )
    key = repository.read_manifest_key(args.manifest_key)
    entries = list(catalogue.entries(store, key))
    restores = _restores(store, key)
    totals = figures.total(e.manifest for e in entries if e.manifest)
    if args.json:
        print(
            json.dumps(
                {
                    'snapshots': [
                        _to_dict(each, restores[each.id]) for each in entries
                    ]
                }
                | dataclasses.asdict(totals)
            )
        )
    elif entries:
        print('\n'.join(_Listing(entries, restores, args.long).lines()))
        if totals.stored_bytes:
            print(f'\n{_footer(totals)}')
    else:
        terminal.line('There are no snapshots.')
    return status.DONE


# Private


class _Listing:
    """A table, with a part for each lineage.

    :param restores: that a disk has seen, by snapshot.
    :param whole: show whole ids and times, and why a snapshot is full or
        damaged.
    """

    def __init__(
        self,
        entries: Sequence[catalogue.Entry],
        restores: Mapping[str, Sequence[history.Restore]],
        whole: bool,
    ) -> None:
        self._entries = entries
        self._restores = restores
        self._whole = whole
        self._length = (
            None
            if whole
            else selection.short_length([each.id for each in entries])
        )
        self._homes = {each.id: each.lineage for each in entries}

    def lines(self) -> list[str]:
        groups = [
            (lineage, list(group))
            for lineage, group in itertools.groupby(
                self._entries, lambda entry: entry.lineage
            )
        ]
        rows = [
            self._row(lead, entry)
            for _, group in groups
            for lead, entry in tree.arrange(group)
        ]
        heading, *lines = table.lines(
            _HEADING,
            rows,
            right=_SIZES,
            shrink='NAME',
            columns=(
                shutil.get_terminal_size().columns
                if sys.stdout.isatty() and not self._whole
                else None
            ),
        )
        found = [heading]
        titles = _titles(groups)
        for lineage, group in groups:
            if len(groups) > 1:
                found += ['', f'{titles[lineage]}:']
            found += lines[: len(group)]
            del lines[: len(group)]
        return found

    # Private

    def _row(self, lead: str, entry: catalogue.Entry) -> list[str]:
        manifest = entry.manifest
        id = f'{lead}{entry.id[: self._length]}'
        if manifest is None:
            state = _state(entry)
            if self._whole:
                state = table.printable(f'{state}: {entry.reason}')
            return [id, '-', '-', '-', '-', '-', '-', state]
        totals = manifest.totals
        created = manifest.created_at
        return [
            id,
            table.printable(manifest.name),
            self._time(created),
            sizes.show_short(totals.virtual_bytes),
            sizes.show_short(totals.used_bytes),
            sizes.show_short(totals.stored_bytes),
            sizes.show_short(figures.shared_bytes(manifest)),
            ', '.join(
                [
                    *self._states(entry, manifest.parent),
                    *self._rollbacks(entry),
                ]
            ),
        ]

    def _rollbacks(self, entry: catalogue.Entry) -> list[str]:
        """Tell when the disk became this one again, the last time."""
        found = [
            each.restored_at
            for each in self._restores[entry.id]
            if each.verb == history.ROLLBACK
        ]
        return [f'restored {self._time(each)}' for each in found[-1:]]

    def _time(self, time: str) -> str:
        """Show a time, as a rule to the minute: 2026-01-31T12:00Z."""
        return time if self._whole else f'{time[:-4]}Z'

    def _states(
        self, entry: catalogue.Entry, parent: str | None
    ) -> typing.Iterator[str]:
        manifest = selection.sound(entry)
        if manifest.degraded:
            yield _state(entry)
        if parent is None:
            reason = table.printable(manifest.full_reason or '')
            yield f'full: {reason}' if self._whole else 'full'
            return
        yield 'incremental'
        if parent not in self._homes:
            yield f'parent {self._short(parent)} deleted'
        elif self._homes[parent] != entry.lineage:
            yield f'parent {self._short(parent)} of another lineage'

    def _short(self, id: str) -> str:
        return id[: self._length or selection.SHORT_ID]


def _state(entry: catalogue.Entry) -> str:
    if entry.manifest is None:
        return 'damaged'
    return 'degraded' if entry.manifest.degraded else 'ok'


def _restores(
    store: base.Store, key: bytes | None
) -> Mapping[str, list[history.Restore]]:
    """Read the restores, the earliest first, by snapshot."""
    found = collections.defaultdict(list)
    for _, each in history.entries(store, key):
        found[each.snapshot].append(each)
    return found


def _to_dict(
    entry: catalogue.Entry, restores: Sequence[history.Restore]
) -> dict[str, typing.Any]:
    figures: dict[str, typing.Any] = {
        'snapshot': entry.id,
        'lineage': dataclasses.asdict(entry.lineage),
    }
    if entry.manifest is not None:
        figures = summary.to_dict(entry.manifest)
    return figures | {
        'state': _state(entry),
        'reason': entry.reason,
        'restores': [dataclasses.asdict(each) for each in restores],
    }


def _titles(
    groups: Sequence[tuple[layout.Lineage, list[catalogue.Entry]]],
) -> dict[layout.Lineage, str]:
    """Name lineages after their disks, and so that no two are alike."""
    titles = {lineage: _title(lineage, group) for lineage, group in groups}
    names = list(titles.values())
    return {
        lineage: (
            title
            if names.count(title) == 1
            else f'{title}, node {lineage.node[: selection.SHORT_ID]}, '
            f'deployment {lineage.generation[: selection.SHORT_ID]}'
        )
        for lineage, title in titles.items()
    }


def _title(
    lineage: layout.Lineage, entries: Sequence[catalogue.Entry]
) -> str:
    """Name a lineage after the disk of its latest snapshot."""
    for entry in reversed(entries):
        if entry.manifest is not None:
            disk, node = entry.manifest.disk, entry.manifest.node
            serial = f' (serial {disk.serial})' if disk.serial else ''
            host = f' on {node.name}' if node.name else ''
            return table.printable(f'{disk.name}{serial}{host}')
    return f'Node {lineage.node}'


def _footer(totals: figures.Totals) -> str:
    return (
        f'{sizes.show(totals.data_bytes)} of data stored in '
        f'{sizes.show(totals.stored_bytes)}: dedupe ratio '
        f'{summary.show_ratio(totals.dedupe_ratio)}, compression '
        f'{summary.show_ratio(totals.compression_ratio)}'
    )
