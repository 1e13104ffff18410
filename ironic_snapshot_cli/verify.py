# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot verify``."""

import argparse
import dataclasses
import json
import typing
from collections.abc import Iterator
from collections.abc import Sequence

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import errors
from ironic_snapshot_core import parallel
from ironic_snapshot_core import verify
from ipa_snapshot_hardware import executor
from ironic_snapshot_cli import counter as counters
from ironic_snapshot_cli import repository
from ironic_snapshot_cli import selection
from ironic_snapshot_cli import sizes
from ironic_snapshot_cli import status
from ironic_snapshot_cli import table
from ironic_snapshot_cli import terminal as terminals

# Of an object's clusters on the disk, runs that are shown.
_MOST_RUNS = 5


def run(args: argparse.Namespace, terminal: terminals.Terminal) -> int:
    stop = executor.Stop()
    clock = executor.StoppableClock(stop)
    began = clock.monotonic()
    threads = repository.reading_threads()
    store = repository.open_to_read(args.repository, clock, threads)
    key = repository.read_manifest_key(args.manifest_key)
    entries = list(catalogue.entries(store, key))
    if args.snapshot:
        wanted = [selection.choose(entries, each) for each in args.snapshot]
        entries = list({each.id: each for each in wanted}.values())
    counter = counters.Counter('verify', clock)
    if args.data:
        counter.expect(
            verify.size(each.manifest for each in entries if each.manifest)
        )
    verifier = verify.Verifier(
        store,
        data=args.data,
        workers=parallel.Workers(threads, stop),
        done=counter.add,
    )
    with terminals.Progress(
        terminal,
        counter.step,
        clock,
        quiet=args.quiet,
        only_bar=args.json,
    ):
        results = list(_verify(verifier, entries, bool(args.snapshot)))
    seconds = clock.monotonic() - began
    if args.json:
        print(
            json.dumps(
                {
                    'snapshots': [each.to_dict() for each in results],
                    'data': args.data,
                    'read_bytes': counter.done,
                    'seconds': round(seconds, 3),
                }
            )
        )
    else:
        for each in results:
            print('\n'.join(each.lines()))
        print(_outcome(len(results), args.data, counter.done, seconds))
    if args.manifest_key is None and any(
        each.entry.manifest is None for each in results
    ):
        terminal.line(
            f'{terminals.PROGRAM}: warning: whether a manifest that a '
            'conductor has written is damaged can be told with '
            '--manifest-key only'
        )
    if all(each.sound for each in results):
        return status.DONE
    return status.DEGRADED


# Private


class _Result(typing.NamedTuple):
    """What was found out about a snapshot.

    :param findings: None if its manifest is damaged.
    """

    entry: catalogue.Entry
    findings: verify.Findings | None

    @property
    def sound(self) -> bool:
        return self.findings is not None and self.findings.sound

    @property
    def restorable(self) -> bool:
        return self.findings is not None and self.findings.restorable

    def to_dict(self) -> dict[str, typing.Any]:
        manifest, findings = self.entry.manifest, self.findings
        return {
            'snapshot': self.entry.id,
            'name': manifest and manifest.name,
            'sound': self.sound,
            'restorable': self.restorable,
            'reason': self.entry.reason,
            'objects': findings.objects if findings else 0,
            'findings': [
                dataclasses.asdict(each)
                for each in (findings.findings if findings else ())
            ],
        }

    def lines(self) -> Iterator[str]:
        manifest, findings = self.entry.manifest, self.findings
        short = self.entry.id[: selection.SHORT_ID]
        if manifest is None or findings is None:
            yield f'{short}: damaged: {table.printable(self.entry.reason)}'
            return
        name = f'"{table.printable(manifest.name)}" ({short})'
        if findings.sound:
            objects = sizes.show_count(findings.objects, 'object')
            yield f'{name}: sound, {objects}'
            return
        yield f'{name}: damaged, ' + (
            'but all of its disk can be restored'
            if findings.restorable
            else 'and parts of its disk are lost'
        )
        for each in findings.findings:
            yield f'  {each.object}'
            yield f'    {each.reason}; {_extent(each)}'


def _verify(
    verifier: verify.Verifier,
    entries: Sequence[catalogue.Entry],
    asked_for: bool,
) -> Iterator[_Result]:
    """Verify snapshots.

    :param asked_for: by name, so that none may be missing.
    """
    for entry in entries:
        if entry.manifest is None:
            yield _Result(entry, None)
            continue
        try:
            yield _Result(entry, verifier.verify(entry.manifest))
        except errors.SnapshotMissing:
            # Deleted since it was listed.
            if asked_for:
                raise


def _extent(found: verify.Finding) -> str:
    """Tell what of the disk is concerned."""
    if found.lost:
        return f'lost: {_show(found.lost)}'
    if found.clusters:
        return f'second copies have {_show(found.clusters)}'
    return 'nothing of the disk depends on it'


def _show(runs: Sequence[verify.Run]) -> str:
    shown = [
        f'{first}-{first + count - 1}' if count > 1 else f'{first}'
        for first, count in runs[:_MOST_RUNS]
    ]
    more = len(runs) - len(shown)
    return (
        sizes.show_count(sum(count for _, count in runs), 'cluster')
        + f' of the disk ({", ".join(shown)}'
        + (f' and {more} more runs, see --json' if more else '')
        + ')'
    )


def _outcome(snapshots: int, data: bool, read: int, seconds: float) -> str:
    how = (
        f'{sizes.show(read)} of packs read'
        if data
        else 'packs not read (--data reads them)'
    )
    return (
        f'{sizes.show_count(snapshots, "snapshot")} verified, {how}, '
        f'in {sizes.show_seconds(seconds)}'
    )
