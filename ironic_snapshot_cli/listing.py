# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot list``."""

import argparse
import json
import typing

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_cli import repository
from ironic_snapshot_cli import selection
from ironic_snapshot_cli import sizes
from ironic_snapshot_cli import status
from ironic_snapshot_cli import summary
from ironic_snapshot_cli import table
from ironic_snapshot_cli import terminal as terminals

_HEADING = (
    'ID', 'NAME', 'CREATED', 'VIRTUAL', 'USED', 'NEW', 'SHARED', 'STATE'
)  # fmt: skip
_SIZES = 'VIRTUAL USED NEW SHARED'


def run(args: argparse.Namespace, terminal: terminals.Terminal) -> int:
    store = repository.open_to_read(
        args.repository, clocks.SystemClock(), threads=1
    )
    entries = list(catalogue.entries(store, None))
    if args.json:
        print(json.dumps({'snapshots': [_to_dict(each) for each in entries]}))
    elif entries:
        length = selection.short_length([each.id for each in entries])
        rows = [_row(each, None if args.long else length) for each in entries]
        print('\n'.join(table.lines(_HEADING, rows, right=_SIZES)))
    else:
        terminal.line('There are no snapshots.')
    return status.DONE


# Private


def _state(entry: catalogue.Entry) -> str:
    if entry.manifest is None:
        return 'damaged'
    return 'degraded' if entry.manifest.degraded else 'ok'


def _to_dict(entry: catalogue.Entry) -> dict[str, typing.Any]:
    figures: dict[str, typing.Any] = {'snapshot': entry.id}
    if entry.manifest is not None:
        figures = summary.to_dict(entry.manifest)
    return figures | {'state': _state(entry), 'reason': entry.reason}


def _row(entry: catalogue.Entry, length: int | None) -> list[str]:
    manifest = entry.manifest
    if manifest is None:
        state = f'{_state(entry)}: {entry.reason}'
        return [entry.id[:length], '-', '-', '-', '-', '-', '-', state]
    totals = manifest.totals
    return [
        entry.id[:length],
        table.printable(manifest.name),
        manifest.created_at,
        sizes.show(totals.virtual_bytes),
        sizes.show(totals.used_bytes),
        sizes.show(totals.stored_bytes),
        sizes.show(summary.shared_bytes(manifest)),
        _state(entry),
    ]
