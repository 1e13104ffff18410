# SPDX-License-Identifier: Apache-2.0
"""Deleting snapshots, and what no snapshot needs any more.

Deleting a snapshot takes its manifest away, and its image; packs that others
need as well stay. What nobody needs is *garbage*, and so is what captures
have left that came to nothing; but not what an image in Glance is linked to
(:mod:`ironic_snapshot_core.published`). A prune *condemns* garbage that it
sees for the first time, and deletes what has been condemned for a while and
is still garbage. Why that is safe beside captures and commits stands in
:mod:`ironic_snapshot_core.commit`.

It never guesses: while there is a manifest that cannot be read, or a capture
whose parent is gone, nothing at all is deleted. Such a snapshot may need
anything, of other nodes as well.
"""

import dataclasses
import logging
import typing
from concurrent import futures

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease as leases
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import published
from ironic_snapshot_core.manifest import Manifest
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store.base import Store

LOG = logging.getLogger(__name__)

#: A grace that is shorter, and not 0, is refused. A commit may try for a
#: quarter of an hour to write a manifest, and the clocks of two machines may
#: differ by minutes.
MIN_GRACE_S = 3600

#: Requests at a time.
WORKERS = 8

#: At a time; the document that names them must have an end.
MAX_CONDEMNED = 250_000

#: So many are deleted before it is looked whether they are still condemned.
_BATCH = 1000

#: A snapshot, or an attempt that may become one.
_Key: typing.TypeAlias = tuple[layout.Lineage, str]

T = typing.TypeVar('T')


@dataclasses.dataclass(frozen=True, slots=True)
class Pruned:
    """What a prune has done.

    :param deleted: objects.
    :param deleted_bytes: of them.
    :param condemned: objects that a later one will delete.
    :param kept_for_leases: objects that no snapshot needs, of attempts that
        are under way.
    :param held: why nothing at all was deleted: sentences, or empty.
    """

    deleted: int
    deleted_bytes: int
    condemned: int
    kept_for_leases: int
    held: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Condemned:
    """What a prune is about to delete.

    :param since: name of an object -> when it was condemned, in seconds
        since the epoch.
    """

    since: dict[str, int]
    version: int = 1


def delete(store: Store, lineage: layout.Lineage, snapshot: str,
           mac_key: bytes | None, now: float) -> Manifest | None:
    """Delete a snapshot. Others stay whole; the space comes with prune.

    A damaged one can be deleted as well.

    :param now: seconds since the epoch.
    :returns: what it was; None if it was damaged.
    :raises SnapshotMissing: there is none of this id.
    :raises SnapshotInUse: a capture or a restore that is under way needs it.
    :raises StoreError: the store does not answer. What is left of the
        snapshot is garbage if the manifest is gone.
    """
    try:
        found: Manifest | None = catalogue.read(
            store, lineage, snapshot, mac_key)
    except errors.ObjectMissing:
        raise errors.SnapshotMissing(snapshot) from None
    except catalogue.UNUSABLE as e:
        LOG.warning('A damaged snapshot is deleted: %s', e)
        found = None
    refuse_used(store, snapshot, now)
    store.delete(layout.manifest_name(lineage, snapshot))
    store.delete(layout.image_name(lineage, snapshot))
    return found


def refuse_used(store: Store, snapshot: str, now: float) -> None:
    """Refuse to delete what a capture or restore under way needs.

    :raises SnapshotInUse: one does.
    """
    for where, lease in leases.entries(store):
        if (lease.parent == snapshot and not lease.expired(now)
                and not _exists(
                    store, layout.manifest_name(where, lease.snapshot))):
            raise errors.SnapshotInUse(
                snapshot, lease.snapshot,
                manifests.format_time(lease.expires))


def prune(store: Store, mac_key: bytes | None, now: float, grace_s: float,
          workers: int = WORKERS) -> Pruned:
    """Condemn garbage, and delete what has been condemned for long enough.

    It can be interrupted anywhere, and several may run at a time.

    :param mac_key: without which no manifest can be read, and nothing is
        deleted.
    :param now: seconds since the epoch.
    :param grace_s: seconds between condemning and deleting; 0 if nobody
        captures into the store meanwhile, or their clocks are exact.
    :param workers: requests at a time.
    :raises InvalidValue: the grace is shorter than is safe.
    :raises StoreError: the store does not answer; what was deleted until
        then was garbage.
    """
    if grace_s != 0 and not grace_s >= MIN_GRACE_S:
        raise errors.InvalidValue(
            'grace', grace_s, 'it is neither 0 nor at least '
            f'{MIN_GRACE_S} seconds')
    with futures.ThreadPoolExecutor(workers) as pool:
        before = _read_or_forget(store)
        mark = _mark(store, mac_key, now, pool)
        if mark.held:
            return Pruned(0, 0, len(before), mark.kept_for_leases, mark.held)
        since = {
            # A date in the future is of a clock that was wrong.
            name: min(before.get(name, int(now)), int(now))
            for name in sorted(mark.garbage)[:MAX_CONDEMNED]}
        if since != before:
            _write(store, since)
        deleted: list[base.ObjectInfo] = []
        if any(when + grace_s <= now for when in since.values()):
            again = _mark(store, mac_key, now, pool)
            if again.held:
                return Pruned(0, 0, len(since), again.kept_for_leases,
                              again.held)
            deleted = _delete_due(store, [
                again.garbage[name] for name, when in since.items()
                if when + grace_s <= now and name in again.garbage],
                since, pool)
            # As it is now: another prune may have written it meanwhile.
            since = _read_or_forget(store)
            for info in deleted:
                since.pop(info.name, None)
            _write(store, since)
        _run(pool, store.delete, [
            layout.lease_name(*key) for key, lease in mark.leases.items()
            if lease.expired(now - grace_s)])
    return Pruned(
        len(deleted),
        sum(info.size for info in deleted if info.kind == base.PLAIN),
        len(since), mark.kept_for_leases)


def rehearse(store: Store, mac_key: bytes | None, now: float, grace_s: float,
             workers: int = WORKERS) -> Pruned:
    """Tell what :func:`prune` would do, and change nothing."""
    with futures.ThreadPoolExecutor(workers) as pool:
        before = _read_or_forget(store)
        mark = _mark(store, mac_key, now, pool)
    if mark.held:
        return Pruned(0, 0, len(before), mark.kept_for_leases, mark.held)
    due = [info for name, info in mark.garbage.items()
           if before.get(name, int(now)) + grace_s <= now]
    return Pruned(
        len(due), sum(info.size for info in due if info.kind == base.PLAIN),
        len(mark.garbage) - len(due), mark.kept_for_leases)


def condemned(store: Store) -> frozenset[str]:
    """Name what a prune is about to delete.

    :raises Corrupted: nobody knows; the next prune starts afresh.
    """
    return frozenset(_read(store))


# Private

@dataclasses.dataclass(frozen=True, slots=True)
class _Mark:
    """What there is, seen after some moment.

    :param garbage: by name.
    :param leases: of attempts, expired ones as well.
    """

    garbage: dict[str, base.ObjectInfo]
    leases: dict[_Key, leases.Lease]
    kept_for_leases: int
    held: tuple[str, ...]


def _mark(store: Store, mac_key: bytes | None, now: float,
          pool: futures.ThreadPoolExecutor) -> _Mark:
    """Tell what is garbage.

    First all objects are listed, then leases are read, then manifests; the
    order matters. A listing may lag behind, so it is not believed in what it
    lacks: manifests, and leases of what has none, are looked for by name.
    """
    found = _list(store)
    keys = {(place.lineage, place.snapshot): None for place, _ in found
            if place.folder not in (layout.RESTORES, layout.IMAGES)}
    listed = {(place.lineage, place.snapshot) for place, _ in found
              if place.folder == layout.SNAPSHOTS
              and place.rest == layout.MANIFEST}
    leased = {(place.lineage, place.snapshot) for place, _ in found
              if place.folder == layout.LEASES}
    known = {
        key: lease for key, lease in _each(
            pool, [key for key in keys if key in leased or key not in listed],
            lambda key: leases.get(store, *key))
        if lease is not None}
    committed, needed, held = _needed(store, mac_key, keys, pool)
    linked, unreadable = _linked(store, mac_key, {
        (place.lineage, place.snapshot): None for place, _ in found
        if place.folder == layout.IMAGES}, committed, pool)
    for record in linked.values():
        needed.update(record.objects)
    held += unreadable
    live = {key for key, lease in known.items()
            if key not in committed and not lease.expired(now)}
    ids = {snapshot for _, snapshot in committed}
    held += [
        f'{snapshot} is being captured or restored, and snapshot '
        f'{known[lineage, snapshot].parent}, which it needs, is gone.'
        for lineage, snapshot in live
        if known[lineage, snapshot].parent not in (None, *ids)]
    inhabited = {lineage for lineage, _ in (*committed, *live)}
    garbage = {}
    kept = 0
    for place, info in found:
        key = (place.lineage, place.snapshot)
        if (info.name in needed or key in linked
                or not _may_be_garbage(
                    place, key in committed, place.lineage in inhabited)):
            continue
        if key in known and not known[key].expired(now):
            kept += 1
        else:
            garbage[info.name] = info
    return _Mark(garbage, known, kept, tuple(sorted(held)))


def _list(store: Store) -> list[tuple[layout.Place, base.ObjectInfo]]:
    found = []
    for info in store.list(f'{layout.VERSION}/'):
        try:
            found.append((layout.parse(info.name), info))
        except errors.InvalidName:
            continue  # None of ours.
    return found


def _needed(store: Store, mac_key: bytes | None, keys: typing.Iterable[_Key],
            pool: futures.ThreadPoolExecutor
            ) -> tuple[set[_Key], set[str], list[str]]:
    """Give the snapshots that exist, what they need, and what holds.

    :param keys: of all that may exist.
    """
    committed = set()
    needed: set[str] = set()
    held = []
    for key, manifest in _each(pool, keys, lambda key: _manifest(
            store, mac_key, *key)):
        if manifest is None:
            continue
        committed.add(key)
        if isinstance(manifest, Manifest):
            needed.update(catalogue.objects(manifest))
        else:
            held.append(f'Snapshot {key[1]} cannot be read, and may need '
                        f'anything: {manifest}')
    return committed, needed, held


def _linked(store: Store, mac_key: bytes | None,
            keys: typing.Iterable[_Key], committed: typing.Container[_Key],
            pool: futures.ThreadPoolExecutor
            ) -> tuple[dict[_Key, published.Record], list[str]]:
    """Give the images that there are, and what holds.

    :param keys: of all that may be.
    :param committed: the snapshots that exist.
    """
    found = {}
    held = []
    for key, record in _each(pool, keys, lambda key: _record(
            store, mac_key, *key)):
        if isinstance(record, str):
            held.append(f'Image {key[1]} may need anything: {record}')
        elif record is not None and (
                # A copy needs nothing, and is known as long as its snapshot.
                record.objects
                or (record.lineage, record.snapshot) in committed):
            found[key] = record
    return found, held


def _record(store: Store, mac_key: bytes | None, lineage: layout.Lineage,
            image: str) -> published.Record | str | None:
    """Read what an image needs; give a sentence if that is damaged.

    :returns: None if there is no such image any more.
    """
    there = _exists(store, layout.published_name(lineage, image))
    try:
        record = published.get(store, lineage, image, mac_key)
    except errors.ObjectMissing:
        return ('its record is missing.' if there else None)
    except catalogue.UNUSABLE as e:
        return str(e) if there else None
    return record if there or not record.objects else None


def _manifest(store: Store, mac_key: bytes | None, lineage: layout.Lineage,
              snapshot: str) -> Manifest | str | None:
    """Read a manifest; give a sentence if it is damaged."""
    try:
        return catalogue.read(store, lineage, snapshot, mac_key)
    except errors.ObjectMissing:
        return None
    except catalogue.UNUSABLE as e:
        return str(e)


def _may_be_garbage(place: layout.Place, committed: bool,
                    inhabited: bool) -> bool:
    """Tell whether an object goes when no snapshot needs it.

    :param committed: the snapshot, if it is one's, exists.
    :param inhabited: the lineage has a snapshot, or one is under way.
    """
    if place.folder in (layout.ATTEMPTS, layout.IMAGES):
        return True
    if place.folder == layout.RESTORES:
        return not inhabited
    return (place.folder == layout.SNAPSHOTS and not committed
            # Not what a later release may keep there.
            and place.rest.startswith(layout.IMAGE))


def _delete_due(store: Store, due: typing.Sequence[base.ObjectInfo],
                since: typing.Mapping[str, int],
                pool: futures.ThreadPoolExecutor) -> list[base.ObjectInfo]:
    """Delete, and give what was deleted.

    Another prune may have found meanwhile that something is needed again,
    and has taken it from the document then.
    """
    deleted = []
    for start in range(0, len(due), _BATCH):
        valid = _read_or_forget(store)
        batch = [info for info in due[start:start + _BATCH]
                 if valid.get(info.name) == since[info.name]]
        _run(pool, store.delete, [info.name for info in batch])
        deleted += batch
    return deleted


def _read(store: Store) -> dict[str, int]:
    try:
        data = store.get(layout.CONDEMNED, document.MAX_SIZE)
    except errors.ObjectMissing:
        return {}
    except (errors.ObjectMismatch, errors.ObjectTooLarge) as e:
        raise errors.Corrupted(
            layout.CONDEMNED, str(e).rstrip('.')) from e
    return document.decode(Condemned, data, layout.CONDEMNED).since


def _read_or_forget(store: Store) -> dict[str, int]:
    try:
        return _read(store)
    except errors.Corrupted as e:
        LOG.warning('What was condemned is condemned anew: %s', e)
        return {}


def _write(store: Store, since: dict[str, int]) -> None:
    if since:
        store.put(layout.CONDEMNED, document.encode(Condemned(since)))
    else:
        store.delete(layout.CONDEMNED)


def _exists(store: Store, name: str) -> bool:
    try:
        store.stat(name)
    except errors.ObjectMissing:
        return False
    return True


def _each(pool: futures.ThreadPoolExecutor, keys: typing.Iterable[_Key],
          read: typing.Callable[[_Key], T]
          ) -> typing.Iterator[tuple[_Key, T]]:
    """Read something for each key, several at a time."""
    keys = list(keys)
    return zip(keys, pool.map(read, keys), strict=True)


def _run(pool: futures.ThreadPoolExecutor,
         function: typing.Callable[[str], None],
         names: typing.Iterable[str]) -> None:
    for _ in pool.map(function, names):
        pass
