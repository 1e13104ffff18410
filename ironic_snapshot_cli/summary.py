# SPDX-License-Identifier: Apache-2.0
"""The figures of a snapshot, alike in all commands."""

import dataclasses
import typing

from ironic_snapshot_core import manifest as manifests


def to_dict(manifest: manifests.Manifest) -> dict[str, typing.Any]:
    """Give the figures as JSON has them; sizes in bytes."""
    return {
        'snapshot': manifest.id,
        'name': manifest.name,
        'created_at': manifest.created_at,
        'parent': manifest.parent,
        'full_reason': manifest.full_reason,
        'virtual_bytes': manifest.totals.virtual_bytes,
        'used_bytes': manifest.totals.used_bytes,
        'data_bytes': manifest.totals.data_bytes,
        'new_bytes': manifest.totals.stored_bytes,
        'shared_bytes': shared_bytes(manifest),
        'degraded': manifest.degraded,
    }


def details(record: manifests.CaptureReport | manifests.Manifest
            ) -> dict[str, typing.Any]:
    """Give how the disk was read, as JSON has it."""
    return {
        'regions': [dataclasses.asdict(each) for each in record.regions],
        'unreadable': [dataclasses.asdict(each) for each in record.unreadable],
    }


def shared_bytes(manifest: manifests.Manifest) -> int:
    """Tell what it uses of packs that others stored, in bytes."""
    return sum(
        pack.live_bytes
        for pack in manifest.packs
        if pack.attempt != manifest.id
    )
