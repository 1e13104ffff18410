# SPDX-License-Identifier: Apache-2.0
"""How a capture begins, and a restore: with a lease on what it reads."""

import contextlib
import logging
import uuid
from collections.abc import Iterator

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease as leases
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import parent as parents
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import request

LOG = logging.getLogger(__name__)

# Longer than it takes: a lease is not renewed, but deleted at the end.
_LEASE_S = 7 * 24 * 3600


@contextlib.contextmanager
def leased(
    store: stores.Store,
    wanted: request.CaptureRequest,
    asked: str,
    clock: clocks.Clock,
    stop: executor.Stop,
) -> Iterator[parents.Choice]:
    """Choose the parent, and keep it until the capture has ended.

    :param stop: set after an error, so that nobody waits for a store that
        cannot be reached only to delete the lease.
    :raises ParentUnsuitable: the one that was asked for does not do.
    """
    with _ended(
        store,
        wanted.lineage,
        wanted.snapshot,
        stop,
        'what the capture has stored',
    ):
        yield _choose(store, wanted, asked, clock)


@contextlib.contextmanager
def reading(
    store: stores.Store,
    manifest: manifests.Manifest,
    clock: clocks.Clock,
    stop: executor.Stop,
) -> Iterator[None]:
    """Keep a snapshot from being deleted while it is restored.

    Where there can be no lease, as in a repository that cannot be written
    to, a warning has to do.

    :param stop: as of a capture.
    """
    holder = str(uuid.uuid4())
    expires = int(clock.time()) + _LEASE_S
    with contextlib.ExitStack() as stack:
        try:
            leases.put(
                store,
                manifest.lineage,
                leases.Lease(holder, manifest.id, expires),
            )
            stack.enter_context(
                _ended(
                    store,
                    manifest.lineage,
                    holder,
                    stop,
                    'the snapshot, which cannot be deleted',
                )
            )
        except errors.StoreError as error:
            LOG.warning(
                'Nothing keeps the snapshot from being deleted meanwhile: %s',
                error,
            )
        yield


# Private


@contextlib.contextmanager
def _ended(
    store: stores.Store,
    lineage: layout.Lineage,
    holder: str,
    stop: executor.Stop,
    kept: str,
) -> Iterator[None]:
    """End a lease, whatever happens.

    :param holder: id in its name.
    :param kept: what stays behind with a lease that cannot be deleted.
    """
    try:
        yield
    except BaseException:
        stop.set()
        raise
    finally:
        try:
            leases.delete(store, lineage, holder)
        except errors.Error as error:
            LOG.warning(
                'The lease %s stays behind until it expires, and with it %s: '
                '%s',
                holder,
                kept,
                error,
            )


def _choose(
    store: stores.Store,
    wanted: request.CaptureRequest,
    asked: str,
    clock: clocks.Clock,
) -> parents.Choice:
    terms = parents.Wanted(
        cluster_size=wanted.cluster_size,
        codec=wanted.codec.id,
        digest=wanted.digest.id,
        project=None,
        allow_degraded=wanted.allow_bad_sectors,
    )

    def begin() -> parents.Choice:
        choice = parents.choose(store, wanted.lineage, asked, terms, None)
        parent = choice.manifest
        leases.put(
            store,
            wanted.lineage,
            leases.Lease(
                snapshot=wanted.snapshot,
                parent=parent.id if parent else None,
                expires=int(clock.time()) + _LEASE_S,
            ),
        )
        if parent is not None:
            reason = parents.check(store, parent, None)
            if reason is not None:
                raise errors.ParentGone(wanted.snapshot, parent.id, reason)
        return choice

    return parents.hold(begin)
