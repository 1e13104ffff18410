# SPDX-License-Identifier: Apache-2.0
"""The snapshots that exist: what has a manifest, and nothing else."""

import dataclasses
import typing

from ironic_snapshot_core import committed
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core.manifest import Manifest
from ironic_snapshot_core.store.base import Store

#: Why a manifest that is there cannot be used.
UNUSABLE = (errors.Corrupted, errors.ObjectMismatch, errors.ObjectTooLarge,
            errors.UnsupportedVersion, errors.UnsupportedFeature)


@dataclasses.dataclass(frozen=True, slots=True)
class Entry:
    """A snapshot in a listing; a damaged one is listed, too.

    :param manifest: None if it is damaged, and then ``reason`` says how.
    """

    lineage: layout.Lineage
    id: str
    manifest: Manifest | None
    reason: str = ''


def read(store: Store, lineage: layout.Lineage, snapshot: str,
         mac_key: bytes | None) -> Manifest:
    """Read one committed snapshot.

    :param mac_key: the one it was committed with.
    :raises ObjectMissing: there is none of this id.
    :raises Corrupted: the manifest is not what was committed.
    """
    name = layout.manifest_name(lineage, snapshot)
    manifest = Manifest.from_bytes(store.get(name, document.MAX_SIZE),
                                   mac_key)
    if (manifest.lineage, manifest.id) != (lineage, snapshot):
        # Authentic, but copied here from another snapshot.
        raise errors.Corrupted(name, 'it belongs to another snapshot')
    return manifest


def entries(store: Store, mac_key: bytes | None,
            prefix: str = f'{layout.VERSION}/') -> typing.Iterator[Entry]:
    """Give all snapshots below a prefix, by lineage, then by age.

    That is, by sequence, then by creation, then by id: two that were taken
    at a time may have the same sequence. Damaged ones come first.

    :param prefix: for example a lineage's.
    """
    found = []
    for info in store.list(prefix):
        try:
            lineage, snapshot = layout.parse_manifest_name(info.name)
        except errors.InvalidName:
            continue
        try:
            found.append(Entry(lineage, snapshot, read(
                store, lineage, snapshot, mac_key)))
        except errors.ObjectMissing:
            pass  # Deleted since it was listed.
        except UNUSABLE as e:
            found.append(Entry(lineage, snapshot, None, str(e)))
    yield from sorted(found, key=lambda entry: (
        entry.lineage.prefix,
        entry.manifest.sequence if entry.manifest else -1,
        entry.manifest.created_at if entry.manifest else '', entry.id))


def latest_sequence(found: typing.Iterable[Entry]) -> int:
    """Give the highest sequence of snapshots of a lineage; 0 if none."""
    return max((entry.manifest.sequence for entry in found
                if entry.manifest), default=0)


def find(store: Store, snapshot: str,
         mac_key: bytes | None) -> Manifest | None:
    """Read a snapshot whose lineage is not known.

    :returns: None if there is none of this id.
    :raises Corrupted: the manifest is not what was committed.
    :raises UnsupportedVersion: a newer release wrote it.
    :raises UnsupportedFeature: likewise.
    """
    failed: errors.Error | None = None
    for info in store.list(f'{layout.VERSION}/'):
        try:
            lineage, found = layout.parse_manifest_name(info.name)
        except errors.InvalidName:
            continue
        if found != snapshot:
            continue
        try:
            return read(store, lineage, snapshot, mac_key)
        except errors.ObjectMissing:
            pass  # Deleted since it was listed.
        except UNUSABLE as e:
            # A copy below another lineage is no reason to end here.
            failed = e
    if failed is not None:
        raise failed
    return None


def objects(manifest: Manifest) -> typing.Iterator[str]:
    """Name all the objects that a snapshot needs, beside its manifest."""
    for each in committed.documents(manifest.lineage, manifest):
        yield each.name
    for each in committed.packs(manifest):
        yield each.name
    yield manifest.image.name
