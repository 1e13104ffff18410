# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot show``."""

import argparse
import dataclasses
import json
import typing

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import figures
from ironic_snapshot_core import history
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
# Likewise, one upon which more snapshots build, ...
_MOST_CHILDREN = 5
# ... or that was restored more often.
_MOST_RESTORES = 5


def run(args: argparse.Namespace, terminal: terminals.Terminal) -> int:
    store = repository.open_to_read(
        args.repository, clocks.SystemClock(), threads=1
    )
    key = repository.read_manifest_key(args.manifest_key)
    entries = list(catalogue.entries(store, key))
    manifest = selection.sound(selection.choose(entries, args.snapshot))
    family = _Family(manifest, entries)
    restores = [
        each
        for _, each in history.entries(store, key)
        if each.snapshot == manifest.id
    ]
    if args.json:
        print(
            json.dumps(
                _to_dict(manifest, family)
                | {'restores': [dataclasses.asdict(each) for each in restores]}
            )
        )
    else:
        print('\n'.join(_lines(manifest, family, restores)))
    return status.DONE


# Private


class _Family:
    """A snapshot's parent and children."""

    def __init__(
        self, manifest: manifests.Manifest, entries: list[catalogue.Entry]
    ) -> None:
        self._length = selection.short_length([each.id for each in entries])
        self._parent = manifest.parent
        self._names = {
            each.id: each.manifest and each.manifest.name for each in entries
        }
        self.children = [
            each.id
            for each in entries
            if each.manifest and each.manifest.parent == manifest.id
        ]

    def describe_parent(self) -> str:
        if self._parent is None:
            return ''
        if self._parent not in self._names:
            return f'{self._parent[: self._length]}, deleted'
        return self._describe(self._parent)

    def describe_children(self) -> str:
        found = [self._describe(id) for id in self.children[:_MOST_CHILDREN]]
        more = len(self.children) - len(found)
        return ', '.join(found + [f'and {more} more'] * bool(more))

    # Private

    def _describe(self, id: str) -> str:
        short, name = id[: self._length], self._names[id]
        return f'"{name}" ({short})' if name else f'{short}, damaged'


def _to_dict(
    manifest: manifests.Manifest, family: _Family
) -> dict[str, typing.Any]:
    own, shared, spares = _sort_packs(manifest)
    return {
        **summary.to_dict(manifest),
        **summary.details(manifest),
        'description': manifest.description,
        'children': family.children,
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
        'own_packs': own,
        'shared_packs': shared,
        'spare_packs': spares,
        'generations': _generations(manifest),
        'totals': dataclasses.asdict(manifest.totals),
        'timings': manifest.timings,
        'software': manifest.software,
    }


def _sort_packs(manifest: manifests.Manifest) -> tuple[int, int, int]:
    """Count the packs that it stored, shares, and has as spares."""
    own = sum(pack.attempt == manifest.id for pack in manifest.packs)
    spares = sum(pack.spare for pack in manifest.packs)
    return own, len(manifest.packs) - own - spares, spares


def _generations(manifest: manifests.Manifest) -> int:
    """Tell how many snapshots in a row rely on a pack at most."""
    return max(
        (pack.generations for pack in manifest.packs if not pack.spare),
        default=0,
    )


def _lines(
    manifest: manifests.Manifest,
    family: _Family,
    restores: list[history.Restore],
) -> list[str]:
    found = table.pairs(
        [
            (name, table.printable(text))
            for name, text in [
                *_facts(manifest, family),
                ('Restored', _restored(restores)),
            ]
        ]
    )
    if manifest.regions:
        found += ['', *_regions(manifest)]
    if manifest.unreadable:
        found += ['', *_unreadable(manifest)]
    return found


def _facts(
    manifest: manifests.Manifest, family: _Family
) -> list[tuple[str, str]]:
    own, shared, spares = _sort_packs(manifest)
    generations = _generations(manifest)
    totals, disk = manifest.totals, manifest.disk
    level = '' if manifest.codec_level is None else f' {manifest.codec_level}'
    return [
        ('Snapshot', manifest.id),
        ('Name', manifest.name),
        ('Description', manifest.description),
        ('State', 'degraded' if manifest.degraded else 'ok'),
        ('Created', manifest.created_at),
        ('Parent', family.describe_parent()),
        ('Full because', manifest.full_reason or ''),
        ('Children', family.describe_children()),
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
        ('Shared', sizes.show(figures.shared_bytes(manifest))),
        (
            'Dedupe ratio',
            summary.show_ratio(figures.dedupe_ratio(manifest)),
        ),
        ('Image', f'{sizes.show(manifest.image.size)} of qcow2'),
        ('Packs', f'{own} own, {shared} shared, {spares} spare'),
        (
            'Generations',
            f'up to {generations} in a row rely on a pack' * bool(shared),
        ),
        (
            'Clusters',
            f'of {sizes.show(manifest.cluster_size)}, '
            f'{manifest.codec}{level}, {manifest.digest}',
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


def _restored(restores: list[history.Restore]) -> str:
    """Tell of the latest restores, and of those onto which node."""
    found = [
        each.restored_at
        if each.verb == history.ROLLBACK
        else f'{each.restored_at} onto {each.node.name or each.node.uuid}'
        for each in reversed(restores[-_MOST_RESTORES:])
    ]
    more = len(restores) - len(found)
    return ', '.join(found + [f'and {more} more'] * bool(more))


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
