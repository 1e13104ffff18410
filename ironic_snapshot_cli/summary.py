# SPDX-License-Identifier: Apache-2.0
"""The figures of a snapshot, alike in all commands."""

import dataclasses
import typing

from ironic_snapshot_core import figures
from ironic_snapshot_core import manifest as manifests


def to_dict(manifest: manifests.Manifest) -> dict[str, typing.Any]:
    """Give the figures as JSON has them; sizes in bytes."""
    return {
        'snapshot': manifest.id,
        'name': manifest.name,
        'created_at': manifest.created_at,
        'lineage': dataclasses.asdict(manifest.lineage),
        'sequence': manifest.sequence,
        'parent': manifest.parent,
        'full_reason': manifest.full_reason,
        'virtual_bytes': manifest.totals.virtual_bytes,
        'used_bytes': manifest.totals.used_bytes,
        'data_bytes': manifest.totals.data_bytes,
        'new_bytes': manifest.totals.stored_bytes,
        'shared_bytes': figures.shared_bytes(manifest),
        'dedupe_ratio': figures.dedupe_ratio(manifest),
        'degraded': manifest.degraded,
    }


def details(record: manifests.CaptureReport | manifests.Manifest
            ) -> dict[str, typing.Any]:
    """Give how the disk was read, as JSON has it."""
    return {
        'regions': [dataclasses.asdict(each) for each in record.regions],
        'unreadable': [dataclasses.asdict(each) for each in record.unreadable],
    }


def show_ratio(ratio: float | None) -> str:
    """Write a ratio; where there is none, nothing."""
    return '' if ratio is None else f'{ratio:.1f}'
