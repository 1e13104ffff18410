# SPDX-License-Identifier: Apache-2.0
"""The restores that a disk has seen: a small document for each.

Whoever looks at the snapshots of a lineage sees with it when the disk became
one of them again. Nothing else depends on it.
"""

import dataclasses
import logging

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core.store.base import Store
from ironic_snapshot_core.units import KiB

LOG = logging.getLogger(__name__)

VERSION = 1

#: Onto the node that the snapshot is of, ...
ROLLBACK = 'rollback'
#: ... or onto another.
CLONE = 'clone'

_MAX_SIZE = 64 * KiB


@dataclasses.dataclass(frozen=True, slots=True)
class Restore:
    """A restore that is done.

    :param operation: its id, a UUID.
    :param snapshot: id of what was restored.
    :param lineage: of that snapshot.
    :param node: whose disk was written.
    :param verb: :data:`ROLLBACK` or :data:`CLONE`.
    :param identity: ``keep`` or ``reset``.
    :param before: id of the snapshot that was taken right before, or None.
    :param started_at: ISO 8601, UTC, whole seconds.
    :param restored_at: likewise.
    :param totals: what was done, in bytes, by name.
    :param degraded: whether parts of the snapshot are missing.
    """

    operation: str
    snapshot: str
    lineage: layout.Lineage
    node: manifests.NodeRecord
    project: str | None
    verb: str
    identity: str
    before: str | None
    started_at: str
    restored_at: str
    totals: dict[str, int]
    degraded: bool
    version: int = VERSION

    def __post_init__(self) -> None:
        for id in (self.operation, self.snapshot, self.before):
            if id is not None:
                layout.validate_uuid(id)
        for time in (self.started_at, self.restored_at):
            manifests.parse_time(time)
        if self.version != VERSION:
            raise errors.InvalidValue(
                'version', self.version, f'it is not {VERSION}')


def put(store: Store, lineage: layout.Lineage, restore: Restore,
        mac_key: bytes | None) -> None:
    """Write it down.

    :param lineage: of the node whose disk was written.
    :raises StoreError: it is not certain that others see it.
    """
    store.put(layout.restore_name(lineage, restore.operation),
              document.encode(restore, mac_key))


def entries(store: Store, mac_key: bytes | None,
            prefix: str = f'{layout.VERSION}/'
            ) -> list[tuple[layout.Lineage, Restore]]:
    """Give all restores below a prefix, the earliest first.

    One that cannot be read is passed over.

    :param prefix: for example a lineage's.
    """
    found = []
    for info in store.list(prefix):
        try:
            place = layout.parse(info.name)
        except errors.InvalidName:
            continue
        if place.folder != layout.RESTORES:
            continue
        try:
            found.append((place.lineage, _read(store, info.name, mac_key)))
        except errors.ObjectMissing:
            pass  # Deleted since it was listed.
        except catalogue.UNUSABLE as e:
            LOG.info('A restore is passed over: %s', e)
    return sorted(found, key=lambda each: (
        each[1].restored_at, each[1].operation))


# Private

def _read(store: Store, name: str, mac_key: bytes | None) -> Restore:
    found = document.decode(
        Restore, store.get(name, _MAX_SIZE), name, mac_key)
    if layout.parse(name).snapshot != found.operation:
        raise errors.Corrupted(name, 'it is about another restore')
    return found
