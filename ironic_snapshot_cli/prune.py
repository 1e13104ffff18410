# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot prune``."""

import argparse
import dataclasses
import json
import typing

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import prune
from ironic_snapshot_cli import repository
from ironic_snapshot_cli import sizes
from ironic_snapshot_cli import status
from ironic_snapshot_cli import terminal as terminals

# A listing in Swift may lag behind, one of a directory never does.
_SWIFT_GRACE_H = 48


def run(args: argparse.Namespace, terminal: terminals.Terminal) -> int:
    clock = clocks.SystemClock()
    store = repository.open_to_read(
        args.repository, clock, threads=prune.WORKERS
    )
    hours = args.grace
    if hours is None:
        in_swift = args.repository.startswith(repository.SWIFT)
        hours = _SWIFT_GRACE_H if in_swift else 0
    work = prune.rehearse if args.dry_run else prune.prune
    found = work(store, None, clock.time(), 3600 * hours)
    if args.json:
        print(
            json.dumps(
                dataclasses.asdict(found)
                | {'dry_run': args.dry_run, 'grace_hours': hours}
            )
        )
    else:
        print('\n'.join(_lines(found, hours, args.dry_run)))
    for each in found.held:
        terminal.line(f'{terminals.PROGRAM}: warning: {each}')
    return status.FAILED if found.held else status.DONE


# Private


def _lines(
    found: prune.Pruned, hours: int, rehearsed: bool
) -> typing.Iterator[str]:
    if found.held:
        yield 'Nothing was deleted.'
        return
    if found.deleted:
        did = 'Would free' if rehearsed else 'Freed'
        size = sizes.show(found.deleted_bytes)
        yield f'{did} {size} in {_objects(found.deleted)}.'
    elif not found.condemned:
        yield 'There is nothing to delete.'
    if found.condemned:
        yield (
            f'{_objects(found.condemned)} to be deleted by a prune in '
            f'{sizes.show_count(hours, "hour")}.'
        )
    if found.kept_for_leases:
        yield f'{_objects(found.kept_for_leases)} kept for captures under way.'


def _objects(number: int) -> str:
    return sizes.show_count(number, 'object')
