# SPDX-License-Identifier: Apache-2.0
"""What says that an attempt is under way, and what it builds upon.

While a lease has not expired, prune keeps everything of its attempt, and its
parent cannot be deleted. It is written before the attempt stores anything,
written anew before it expires, and deleted after the manifest is written.
"""

import dataclasses
import logging
import typing

from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import geometry
from ironic_snapshot_core import layout
from ironic_snapshot_core.store.base import Store
from ironic_snapshot_core.units import KiB

LOG = logging.getLogger(__name__)

VERSION = 1

#: A lease must outlive what it is for by so many seconds: it is read with
#: another machine's clock.
MARGIN_S = 600

#: When a lease expires that cannot be read.
NEVER = document.MAX_INTEGER

_MAX_SIZE = 4 * KiB


@dataclasses.dataclass(frozen=True, slots=True)
class Lease:
    """An attempt that is under way.

    :param snapshot: id of the attempt.
    :param parent: id of the snapshot it builds upon, or None.
    :param expires: in seconds since the epoch.
    """

    snapshot: str
    parent: str | None
    expires: int
    version: int = VERSION

    def __post_init__(self) -> None:
        layout.validate_uuid(self.snapshot)
        if self.parent is not None:
            layout.validate_uuid(self.parent)
        geometry.between('expiry', self.expires, 0, NEVER)
        geometry.between('version', self.version, VERSION, VERSION)

    def expired(self, now: float) -> bool:
        return self.expires <= now


def put(store: Store, lineage: layout.Lineage, lease: Lease) -> None:
    """Write a lease, or write it anew.

    :raises StoreError: it is not certain that others see it.
    """
    store.put(layout.lease_name(lineage, lease.snapshot),
              document.encode(lease))


def get(store: Store, lineage: layout.Lineage,
        snapshot: str) -> Lease | None:
    """Read the lease of an attempt.

    :returns: None if there is none. One that cannot be understood never
        expires, and names no parent.
    :raises StoreError: the store does not answer.
    """
    name = layout.lease_name(lineage, snapshot)
    try:
        found = document.decode(Lease, store.get(name, _MAX_SIZE), name)
        if found.snapshot != snapshot:
            raise errors.Corrupted(name, 'it is of another attempt')
        return found
    except errors.ObjectMissing:
        return None
    except (errors.Corrupted, errors.ObjectMismatch,
            errors.ObjectTooLarge) as e:
        LOG.warning('A lease counts until it is deleted by hand: %s', e)
        return Lease(snapshot, None, NEVER)


def delete(store: Store, lineage: layout.Lineage, snapshot: str) -> None:
    """End a lease; it does no harm if there is none.

    After a commit that is done last: prune must see one of them, lease or
    manifest, at any time.
    """
    store.delete(layout.lease_name(lineage, snapshot))


def entries(store: Store, prefix: str = f'{layout.VERSION}/'
            ) -> typing.Iterator[tuple[layout.Lineage, Lease]]:
    """Give all leases below a prefix, expired ones as well.

    :param prefix: for example a lineage's.
    """
    for info in store.list(prefix):
        try:
            place = layout.parse(info.name)
        except errors.InvalidName:
            continue
        if place.folder == layout.LEASES:
            found = get(store, place.lineage, place.snapshot)
            if found is not None:
                yield place.lineage, found
