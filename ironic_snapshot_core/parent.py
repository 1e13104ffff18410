# SPDX-License-Identifier: Apache-2.0
"""The snapshot that another builds upon."""

import contextlib
import dataclasses
import logging
import typing
from collections.abc import Callable

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import prune
from ironic_snapshot_core.manifest import Manifest
from ironic_snapshot_core.store.base import Store

LOG = logging.getLogger(__name__)

#: The latest snapshot of the lineage that will do.
AUTO = 'auto'
#: None: the snapshot is full.
NONE = 'none'

_MISSING = 'there is no such snapshot'
# How often one is chosen; each time but the last it was deleted meanwhile.
_CHOICES = 3

T = typing.TypeVar('T')


@dataclasses.dataclass(frozen=True, slots=True)
class Wanted:
    """What a parent must have in common with its child.

    :param cluster_size: in bytes.
    :param codec: id.
    :param digest: id.
    :param project: whose snapshots may be used; None where there are none.
    :param allow_degraded: one of which parts could not be read will do.
    """

    cluster_size: int
    codec: str
    digest: str
    project: str | None
    allow_degraded: bool


@dataclasses.dataclass(frozen=True, slots=True)
class Choice:
    """A parent, or why there is none; exactly one of them is None.

    :param latest: the highest sequence in the lineage, 0 if it is empty;
        None when it was not looked through.
    """

    manifest: Manifest | None
    reason: str | None
    latest: int | None = dataclasses.field(default=None, compare=False)


def choose(store: Store, lineage: layout.Lineage, asked: str, wanted: Wanted,
           mac_key: bytes | None) -> Choice:
    """Choose the parent of a new snapshot.

    Nothing holds it yet, see :func:`hold`: write a lease that names it, then
    see with :func:`check` whether it is still there. A commit does that again.

    :param asked: :data:`AUTO`, :data:`NONE`, or the id of a snapshot, which
        may be of another lineage.
    :raises ParentUnsuitable: the one that was asked for will not do.
    :raises StoreError: the store does not answer.
    """
    if asked == NONE:
        return Choice(None, 'asked for')
    condemned = prune.condemned(store)
    if asked != AUTO:
        return Choice(
            _named(store, lineage, asked, wanted, condemned, mac_key), None)
    return _latest(store, lineage, wanted, condemned, mac_key)


def hold(begin: Callable[[], T]) -> T:
    """Begin to build upon a parent that may be deleted at any moment.

    Whoever deletes a snapshot looks for leases first: a parent that is still
    there when the lease names it will stay, or the commit finds out.

    :param begin: chooses the parent, writes the lease that names it, and
        then looks whether it is still there, in this order; done again when
        it is not.
    :returns: what that returned.
    :raises ParentGone: it was not there each time.
    """
    for _ in range(_CHOICES - 1):
        with contextlib.suppress(errors.ParentGone):
            return begin()
    return begin()


def check(store: Store, manifest: Manifest, mac_key: bytes | None,
          condemned: frozenset[str] | None = None) -> str | None:
    """Tell whether a parent is no more what it was when it was chosen.

    :param manifest: as it was then.
    :param condemned: if that was just read, for it must be read first;
        :mod:`ironic_snapshot_core.commit` says why.
    :returns: a clause such as ``has been deleted``, or None if all is well.
    :raises StoreError: the store does not answer.
    """
    if condemned is None:
        condemned = prune.condemned(store)
    try:
        found = catalogue.read(
            store, manifest.lineage, manifest.id, mac_key)
    except errors.ObjectMissing:
        return 'has been deleted'
    except catalogue.UNUSABLE as e:
        return f'is damaged ({_clause(e)})'
    if found != manifest:
        return 'has been replaced'
    if not condemned.isdisjoint(catalogue.objects(manifest)):
        return 'is condemned: a prune is about to delete what it needs'
    return None


# Private

def _named(store: Store, lineage: layout.Lineage, snapshot: str,
           wanted: Wanted, condemned: frozenset[str],
           mac_key: bytes | None) -> Manifest:
    try:
        found = _find(store, lineage, snapshot, mac_key)
    except errors.InvalidName:
        found = None
    except catalogue.UNUSABLE as e:
        raise errors.ParentUnsuitable(
            snapshot, f'it is damaged ({_clause(e)})') from e
    # Nobody learns what others have.
    if found is None or found.project != wanted.project:
        raise errors.ParentUnsuitable(snapshot, _MISSING)
    reason = _unsuitable(found, wanted, condemned)
    if reason:
        raise errors.ParentUnsuitable(snapshot, f'it {reason}')
    return found


def _find(store: Store, lineage: layout.Lineage, snapshot: str,
          mac_key: bytes | None) -> Manifest | None:
    try:
        return catalogue.read(store, lineage, snapshot, mac_key)
    except errors.ObjectMissing:
        # It is of another lineage, then; that takes a listing.
        return catalogue.find(store, snapshot, mac_key)


def _latest(store: Store, lineage: layout.Lineage, wanted: Wanted,
            condemned: frozenset[str], mac_key: bytes | None) -> Choice:
    reasons: list[str] = []
    entries = list(catalogue.entries(
        store, mac_key, layout.snapshots_prefix(lineage)))
    latest = catalogue.latest_sequence(entries)
    # By age, damaged ones last: nobody knows their age.
    for entry in reversed(entries):
        manifest = entry.manifest
        if manifest is None:
            reason: str | None = f'is damaged ({entry.reason.rstrip(".")})'
        elif manifest.project != wanted.project:
            continue
        else:
            reason = _unsuitable(manifest, wanted, condemned)
        if reason is None:
            for each in reasons:
                LOG.warning('Passed over as a parent: %s', each)
            return Choice(manifest, None, latest)
        reasons.append(f'the latest snapshot {entry.id} {reason}'
                       if not reasons else f'snapshot {entry.id} {reason}')
    return Choice(None, reasons[0] if reasons
                  else 'it is the first of its lineage', latest)


def _unsuitable(manifest: Manifest, wanted: Wanted,
                condemned: frozenset[str]) -> str | None:
    if manifest.cluster_size != wanted.cluster_size:
        return (f'has clusters of {manifest.cluster_size} bytes instead of '
                f'{wanted.cluster_size}')
    if manifest.codec != wanted.codec:
        return f'is compressed with {manifest.codec}, not {wanted.codec}'
    if manifest.digest != wanted.digest:
        return f'has digests of {manifest.digest}, not {wanted.digest}'
    if manifest.degraded and not wanted.allow_degraded:
        return 'is degraded'
    if not condemned.isdisjoint(catalogue.objects(manifest)):
        return 'is condemned'
    return None


def _clause(e: errors.Error) -> str:
    return str(e).rstrip('.')
