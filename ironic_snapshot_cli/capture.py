# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot capture``."""

import argparse
import contextlib
import dataclasses
import json
import os
import platform
import shlex
import typing
import uuid

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import commit
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import pack
from ironic_snapshot_core import parent as parents
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import capture
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import priority
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import request
from ipa_snapshot_hardware import software
from ipa_snapshot_hardware.disk import base as disks
from ipa_snapshot_hardware.disk import block
from ironic_snapshot_cli import arguments
from ironic_snapshot_cli import beginning
from ironic_snapshot_cli import interrupt
from ironic_snapshot_cli import repository
from ironic_snapshot_cli import selection
from ironic_snapshot_cli import sizes
from ironic_snapshot_cli import source
from ironic_snapshot_cli import status
from ironic_snapshot_cli import summary
from ironic_snapshot_cli import table
from ironic_snapshot_cli import terminal as terminals

_LABELS = {
    progress.SURVEY: 'survey',
    progress.CLUSTERS: 'capture',
    progress.SAMPLE: 'second look',
    progress.DOCUMENTS: 'finish',
}
_CONSISTENCY = 'offline'


def run(args: argparse.Namespace, terminal: terminals.Terminal) -> int:
    stop = executor.Stop()
    clock = executor.StoppableClock(stop)
    path = os.path.abspath(args.source)
    _warn(path, terminal)
    if args.io_priority != priority.NORMAL:
        # All threads and programs of the capture begin with it.
        priority.lower(args.io_priority)
    with (
        interrupt.stopping(stop),
        block.BlockDisk(path, file_sector_size=args.sector_size) as disk,
    ):
        return _Capture(args, terminal, disk, stop, clock).run()


# Private


class _Capture:
    """One capture; :meth:`run` tells the story."""

    def __init__(
        self,
        args: argparse.Namespace,
        terminal: terminals.Terminal,
        disk: disks.Disk,
        stop: executor.Stop,
        clock: executor.StoppableClock,
    ) -> None:
        self._args = args
        self._terminal = terminal
        self._disk = disk
        self._stop = stop
        self._clock = clock
        self._now = manifests.format_time(clock.time())
        self._wanted = self._request()

    def run(self) -> int:
        began = self._clock.monotonic()
        allowed = budget.plan(
            disk_size=self._disk.size,
            cluster_size=self._wanted.cluster_size,
            pack_size=self._wanted.pack_size,
            codec=self._wanted.codec,
            workers=self._wanted.workers,
            memory_limit=self._wanted.memory_limit,
        )
        asked = self._find_parent()
        store = repository.open_to_write(
            self._args.repository,
            self._clock,
            # Documents are stored beside the uploads; the commit comes later.
            max(allowed.uploads + 1, commit.WORKERS),
            self._wanted.bandwidth_limit,
        )
        with beginning.leased(
            store, self._wanted, asked, self._clock, self._stop
        ) as choice:
            captured = self._capture(store, allowed, choice)
            self._stop.check()
            manifest = self._commit(store, captured, choice)
        seconds = self._clock.monotonic() - began
        if manifest is None:
            self._tell(
                _measured(captured.report, seconds),
                ['Measured only: there is no snapshot'],
                [],
            )
        else:
            self._tell(
                _result(manifest, seconds),
                _heading(manifest, choice.manifest),
                [
                    f'Get it back with: {terminals.PROGRAM} export '
                    f'{shlex.quote(self._args.repository)} '
                    f'{manifest.id[: selection.SHORT_ID]} OUT.qcow2',
                ],
            )
        return (
            status.DEGRADED if captured.report.unreadable else status.DONE
        )

    # Private

    def _find_parent(self) -> str:
        """Give ``auto``, ``none``, or the id of the snapshot that is meant.

        Before anything is written, the repository itself for example.
        """
        asked: str = self._args.parent
        if asked in (arguments.AUTO, arguments.NONE):
            return asked
        store = repository.open_to_read(
            self._args.repository, self._clock, threads=1
        )
        with contextlib.closing(store):
            return selection.find(store, asked).id

    def _request(self) -> request.CaptureRequest:
        args = self._args
        adaptive = args.compression == arguments.AUTO
        return request.CaptureRequest(
            snapshot=str(uuid.uuid4()),
            name=args.name
            or f'{os.path.basename(args.source)} {self._now}',
            lineage=source.lineage(self._disk),
            cluster_size=args.cluster_size,
            codec=codecs.get_codec(
                codecs.DEFAULT_CODEC if adaptive else args.compression,
                args.level,
            ),
            digest=digests.DEFAULT_DIGEST,
            pack_size=pack.TARGET_SIZE,
            workers=args.workers,
            memory_limit=args.memory_limit,
            all_blocks=args.all_blocks,
            skip_gaps=args.skip_gaps,
            allow_bad_sectors=args.allow_bad_sectors,
            adaptive_level=adaptive,
            bandwidth_limit=args.bandwidth_limit,
            redundancy=args.redundancy,
        )

    def _capture(
        self,
        store: stores.Store,
        allowed: budget.Budget,
        choice: parents.Choice,
    ) -> capture.Captured:
        counters = progress.CaptureProgress(self._clock)
        with terminals.Progress(
            self._terminal,
            lambda: _step(counters.state()),
            self._clock,
            quiet=self._args.quiet,
            only_bar=self._args.json,
        ):
            return capture.capture(
                self._disk,
                store,
                dataclasses.replace(
                    self._wanted,
                    parent=_parent_request(choice.manifest),
                    full_reason=choice.reason,
                ),
                allowed=allowed,
                clock=self._clock,
                stop=self._stop,
                software=software.versions(),
                counters=counters,
            )

    def _commit(
        self,
        store: stores.Store,
        captured: capture.Captured,
        choice: parents.Choice,
    ) -> manifests.Manifest | None:
        if self._args.repository == repository.NULL:
            return None
        lineage = self._wanted.lineage
        facts = {
            'sequence': _next_sequence(store, lineage, choice),
            'name': self._wanted.name,
            'description': self._args.description,
            'node': manifests.NodeRecord(
                lineage.node, platform.node() or None, None
            ),
            'project': None,
            'consistency': _CONSISTENCY,
            'started_at': self._now,
            'created_at': manifests.format_time(self._clock.time()),
        }
        return commit.commit(
            store,
            commit.Intent(
                lineage,
                self._wanted.snapshot,
                captured.record,
                facts,
                parent=choice.manifest,
                full_reason=choice.reason,
            ),
            mac_key=None,
        )

    def _tell(
        self,
        result: dict[str, typing.Any],
        before: list[str],
        after: list[str],
    ) -> None:
        if self._args.json:
            print(json.dumps(result))
        else:
            print('\n'.join([*before, *_figures(result), *after]))


def _warn(path: str, terminal: terminals.Terminal) -> None:
    found = source.container_format(path)
    if found:
        terminal.line(
            f'{terminals.PROGRAM}: warning: {path} is a {found} file; '
            'its container is captured, not the disk in it'
        )


def _step(state: progress.CaptureState) -> terminals.Step:
    reading = state.phase == progress.CLUSTERS
    return terminals.Step(
        label=_LABELS[state.phase],
        done=state.read,
        total=state.total if reading else 0,
        rate=state.rate,
        eta=state.eta,
    )


def _next_sequence(
    store: stores.Store, lineage: layout.Lineage, choice: parents.Choice
) -> int:
    latest = choice.latest
    if latest is None:
        latest = catalogue.latest_sequence(
            catalogue.entries(store, None, layout.snapshots_prefix(lineage))
        )
    return latest + 1


def _result(
    manifest: manifests.Manifest, seconds: float
) -> dict[str, typing.Any]:
    return {
        **summary.to_dict(manifest),
        **summary.details(manifest),
        'seconds': round(seconds, 3),
        'packs': len(manifest.packs),
        'image': dataclasses.asdict(manifest.image),
    }


def _measured(
    report: manifests.CaptureReport, seconds: float
) -> dict[str, typing.Any]:
    """Give the result of a capture that kept nothing."""
    return {
        'snapshot': None,
        'parent': None,
        'full_reason': report.full_reason,
        'virtual_bytes': report.totals.virtual_bytes,
        'used_bytes': report.totals.used_bytes,
        'data_bytes': report.totals.data_bytes,
        'new_bytes': report.totals.stored_bytes,
        'shared_bytes': 0,
        'dedupe_ratio': None,
        'degraded': bool(report.unreadable),
        **summary.details(report),
        'seconds': round(seconds, 3),
        'packs': len(report.packs),
        'image': None,
    }


def _heading(
    manifest: manifests.Manifest, parent: manifests.Manifest | None
) -> list[str]:
    """Say what was made, and upon what it builds."""
    name = table.printable(manifest.name)
    found = [f'Captured "{name}" as {manifest.id}']
    # The capture may have passed over the parent.
    if manifest.parent and parent:
        found.append(
            f'  incremental to "{table.printable(parent.name)}" '
            f'({parent.id[: selection.SHORT_ID]})'
        )
    else:
        found.append(f'  full: {table.printable(manifest.full_reason or "")}')
    return found


def _parent_request(
    parent: manifests.Manifest | None,
) -> request.ParentRequest | None:
    if parent is None:
        return None
    size, digest = digests.identify(parent.to_bytes(None))
    return request.ParentRequest(parent.id, parent.lineage, size, digest)


def _figures(result: dict[str, typing.Any]) -> list[str]:
    rate = result['used_bytes'] / max(result['seconds'], 0.001)
    rows = [
        ('Virtual size', sizes.show(result['virtual_bytes'])),
        ('In use', sizes.show(result['used_bytes'])),
        ('New', f'{sizes.show(result["new_bytes"])} stored'),
        (
            'Shared',
            f'{sizes.show(result["shared_bytes"])} with earlier snapshots'
            * bool(result['parent']),
        ),
        ('Dedupe ratio', summary.show_ratio(result['dedupe_ratio'])),
        (
            'Time',
            f'{sizes.show_seconds(result["seconds"])} '
            f'({sizes.show(rate)}/s)',
        ),
        ('Read whole', ', '.join(_read_whole(result['regions']))),
    ]
    if result['degraded']:
        size = sum(each['length'] for each in result['unreadable'])
        rows.append(('Degraded', f'{size} bytes could not be read'))
    return [f'  {line}' for line in table.pairs(rows)]


def _read_whole(regions: list[dict[str, typing.Any]]) -> list[str]:
    """Name what was read whole for a reason."""
    return [
        table.printable(f'{each["name"]} ({each["reason"]})')
        for each in regions
        if each['method'] == manifests.WHOLE and each['reason']
    ]
