# SPDX-License-Identifier: Apache-2.0
"""The ends of the step ``restore``: its snapshot, and its result."""

import dataclasses
from collections.abc import Callable

from ironic_snapshot_core import committed
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import arguments
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import restore
from ipa_snapshot_hardware import restore_request


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """A restore with all that comes after it.

    :param serial: of the target, or None.
    :param size: of the target, in bytes.
    :param identity: what of the system's identity was reset, where.
    """

    restored: restore.Restored
    serial: str | None
    size: int
    identity: tuple[str, ...]


def read_manifest(
    store: stores.Store,
    wanted: restore_request.RestoreRequest,
    readable: Callable[[str], bool],
) -> manifests.Manifest:
    """Read the manifest of the snapshot, and see that the rest can be read.

    :param readable: whether the grant permits to read below a prefix.
    :raises Corrupted: it is not what the conductor has named.
    :raises UnsupportedVersion: a newer release wrote it.
    :raises UnsupportedFeature: likewise.
    :raises InvalidValue: the grant does not permit to read its attempts.
    :raises StoreError: it cannot be had.
    """
    name = layout.manifest_name(wanted.lineage, wanted.snapshot)
    data = committed.read(store, name, wanted.size, wanted.digest)
    found = manifests.Manifest.from_bytes(data, None, verified=True)
    if (found.id, found.lineage) != (wanted.snapshot, wanted.lineage):
        raise errors.Corrupted(name, 'it is of another snapshot')
    for prefix in found.attempt_prefixes:
        if not readable(prefix):
            raise arguments.not_permitted('GET', prefix)
    return found


def report(
    wanted: restore_request.RestoreRequest, state: progress.State
) -> dict[str, object]:
    """Make the result of a slice that is not the last."""
    return {
        'protocol': arguments.PROTOCOL,
        'snapshot': wanted.snapshot,
        'operation': wanted.operation,
        'more': True,
        'touched': state.touched,
        'progress': state.to_dict(),
    }


def summarise(
    wanted: restore_request.RestoreRequest, done: Done
) -> dict[str, object]:
    """Make the last result: small, for it goes into a database."""
    restored = done.restored
    return {
        'protocol': arguments.PROTOCOL,
        'snapshot': wanted.snapshot,
        'operation': wanted.operation,
        'more': False,
        'touched': (
            restored.touched or wanted.identity == restore_request.RESET
        ),
        'totals': dataclasses.asdict(restored.totals),
        'identity': list(done.identity),
        'disk': {'serial': done.serial, 'size': done.size},
        'repaired': len(restored.repaired),
        'degraded': restored.degraded,
        'seconds': round(sum(restored.timings.values()), 1),
        'progress': restored.state.to_dict(),
    }
