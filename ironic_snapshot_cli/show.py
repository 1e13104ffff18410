# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot show``."""

import argparse
import dataclasses
import json
import typing

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import manifest as manifests
from ipa_snapshot_hardware import progress
from ironic_snapshot_cli import repository
from ironic_snapshot_cli import selection
from ironic_snapshot_cli import sizes
from ironic_snapshot_cli import status
from ironic_snapshot_cli import summary
from ironic_snapshot_cli import table
from ironic_snapshot_cli import terminal as terminals

_REGIONS = ('REGION', 'START', 'LENGTH', 'CONTENT', 'READ', 'USED', 'WHY')
# A disk with more unreadable runs is shown with --json only.
_MOST_RUNS = 20


def run(args: argparse.Namespace, terminal: terminals.Terminal) -> int:
    store = repository.open_to_read(
        args.repository, clocks.SystemClock(), threads=1
    )
    manifest = selection.find(store, args.snapshot)
    if args.json:
        print(json.dumps(_to_dict(manifest)))
    else:
        print('\n'.join(_lines(manifest)))
    return status.DONE


# Private


def _to_dict(manifest: manifests.Manifest) -> dict[str, typing.Any]:
    return {
        **summary.to_dict(manifest),
        **summary.details(manifest),
        'description': manifest.description,
        'lineage': dataclasses.asdict(manifest.lineage),
        'sequence': manifest.sequence,
        'host': manifest.node.name,
        'consistency': manifest.consistency,
        'started_at': manifest.started_at,
        'image': dataclasses.asdict(manifest.image),
        'disk': dataclasses.asdict(manifest.disk),
        'cluster_size': manifest.cluster_size,
        'codec': manifest.codec,
        'codec_level': manifest.codec_level,
        'digest': manifest.digest,
        'packs': len(manifest.packs),
        'totals': dataclasses.asdict(manifest.totals),
        'timings': manifest.timings,
        'software': manifest.software,
    }


def _lines(manifest: manifests.Manifest) -> list[str]:
    found = table.pairs(
        [(name, table.printable(text)) for name, text in _facts(manifest)]
    )
    if manifest.regions:
        found += ['', *_regions(manifest)]
    if manifest.unreadable:
        found += ['', *_unreadable(manifest)]
    return found


def _facts(manifest: manifests.Manifest) -> list[tuple[str, str]]:
    totals, disk = manifest.totals, manifest.disk
    level = '' if manifest.codec_level is None else f' {manifest.codec_level}'
    return [
        ('Snapshot', manifest.id),
        ('Name', manifest.name),
        ('Description', manifest.description),
        ('State', 'degraded' if manifest.degraded else 'ok'),
        ('Created', manifest.created_at),
        ('Parent', manifest.parent or ''),
        ('Full because', manifest.full_reason or ''),
        ('Host', manifest.node.name or ''),
        ('Disk', disk.name),
        ('Model', disk.model),
        ('Serial', disk.serial),
        ('WWN', disk.wwn),
        ('Sectors', f'{disk.logical_sector_size} bytes'),
        ('Partitions', disk.partition_table),
        ('Virtual size', sizes.show(totals.virtual_bytes)),
        ('In use', sizes.show(totals.used_bytes)),
        ('Read', sizes.show(totals.read_bytes)),
        ('Data', f'{sizes.show(totals.data_bytes)} that are not zero'),
        ('New', f'{sizes.show(totals.stored_bytes)} stored'),
        ('Shared', sizes.show(summary.shared_bytes(manifest))),
        ('Image', f'{sizes.show(manifest.image.size)} of qcow2'),
        (
            'Packs',
            f'{len(manifest.packs)} with clusters of '
            f'{sizes.show(manifest.cluster_size)}, {manifest.codec}{level}, '
            f'{manifest.digest}',
        ),
        (
            'Seconds',
            ', '.join(
                f'{phase} {seconds:.1f}'
                for phase, seconds in sorted(
                    manifest.timings.items(), key=lambda item: _rank(item[0])
                )
            ),
        ),
        (
            'Software',
            ', '.join(
                f'{name} {version}'
                for name, version in sorted(manifest.software.items())
            ),
        ),
    ]


def _rank(phase: str) -> int:
    """Sort phases as they came; what is no phase, behind them."""
    phases = progress.PHASES
    return phases.index(phase) if phase in phases else len(phases)


def _regions(manifest: manifests.Manifest) -> list[str]:
    rows = [
        [
            table.printable(region.name),
            str(region.start),
            sizes.show(region.length),
            table.printable(region.content) or '-',
            region.method,
            sizes.show(region.used_bytes),
            table.printable(region.reason),
        ]
        for region in manifest.regions
    ]
    return table.lines(_REGIONS, rows, right='START LENGTH USED')


def _unreadable(manifest: manifests.Manifest) -> list[str]:
    runs = manifest.unreadable
    sector = manifest.disk.logical_sector_size
    size = sum(run.length for run in runs)
    found = [
        f'Could not be read: {size} bytes; the image has zeroes there. '
        f'Sectors of {sector} bytes:'
    ]
    for run in runs[:_MOST_RUNS]:
        first = run.start // sector
        last = (run.start + run.length - 1) // sector
        found.append(f'  {first}-{last}' if last > first else f'  {first}')
    if len(runs) > _MOST_RUNS:
        found.append(f'  and {len(runs) - _MOST_RUNS} more (see --json)')
    return found
