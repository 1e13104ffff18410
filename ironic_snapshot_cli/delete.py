# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot delete``."""

import argparse
import json
import shlex

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import figures
from ironic_snapshot_core import prune
from ironic_snapshot_cli import repository
from ironic_snapshot_cli import selection
from ironic_snapshot_cli import sizes
from ironic_snapshot_cli import status
from ironic_snapshot_cli import table
from ironic_snapshot_cli import terminal as terminals


def run(args: argparse.Namespace, terminal: terminals.Terminal) -> int:
    clock = clocks.SystemClock()
    store = repository.open_to_read(args.repository, clock, threads=1)
    entries = list(catalogue.entries(store, None))
    chosen = {
        entry.id: entry
        for entry in (
            selection.choose(entries, each) for each in args.snapshot
        )
    }
    for id in chosen:
        prune.refuse_used(store, id, clock.time())
    if not args.yes and not _is_sure(list(chosen.values()), terminal):
        terminal.line('Nothing was deleted.')
        return status.FAILED
    for entry in chosen.values():
        prune.delete(store, entry.lineage, entry.id, None, clock.time())
        if not args.json:
            print(f'Deleted {_describe(entry)}')
    to_free = figures.only_needed_by(
        [each.manifest for each in chosen.values() if each.manifest],
        [
            each.manifest
            for each in entries
            if each.manifest and each.id not in chosen
        ],
    )
    if args.json:
        result = {'deleted': list(chosen), 'prunable_bytes': to_free}
        print(json.dumps(result))
    else:
        print(_outlook(to_free, args.repository))
    return status.DONE


# Private


def _is_sure(
    chosen: list[catalogue.Entry], terminal: terminals.Terminal
) -> bool:
    for entry in chosen:
        terminal.line(f'  {_describe(entry)}')
    what = 'this snapshot' if len(chosen) == 1 else f'{len(chosen)} snapshots'
    return terminal.ask(f'Delete {what}? [y/N] ').lower() in ('y', 'yes')


def _outlook(to_free: int, repository_name: str) -> str:
    if not to_free:
        return 'Other snapshots need all packs, so there is little to free.'
    return (
        f'To free the {sizes.show(to_free)} that no other snapshot needs: '
        f'{terminals.PROGRAM} prune {shlex.quote(repository_name)}'
    )


def _describe(entry: catalogue.Entry) -> str:
    short = entry.id[: selection.SHORT_ID]
    if entry.manifest is None:
        return f'{short}, which is damaged'
    return (
        f'"{table.printable(entry.manifest.name)}" ({short}) of '
        f'{entry.manifest.created_at}'
    )
