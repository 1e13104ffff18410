# SPDX-License-Identifier: Apache-2.0
"""How a capture begins: with a parent, and a lease that protects it."""

import contextlib
import logging
from collections.abc import Iterator

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import lease as leases
from ironic_snapshot_core import parent as parents
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import request

LOG = logging.getLogger(__name__)

# Longer than any capture: it is not renewed, but deleted at the end.
_LEASE_S = 7 * 24 * 3600
# How often a parent is chosen; each time but the last it was deleted.
_CHOICES = 3


@contextlib.contextmanager
def leased(
    store: stores.Store,
    wanted: request.CaptureRequest,
    asked: str,
    clock: clocks.Clock,
    stop: executor.Stop,
) -> Iterator[parents.Choice]:
    """Choose the parent, and keep it until the capture has ended.

    Who deletes a snapshot looks for leases first; so a parent that is still
    there when the lease names it will stay, or the commit finds out.

    :param stop: set after an error, so that nobody waits for a store that
        cannot be reached only to delete the lease.
    :raises ParentUnsuitable: the one that was asked for does not do.
    """
    try:
        yield _choose(store, wanted, asked, clock)
    except BaseException:
        stop.set()
        raise
    finally:
        try:
            leases.delete(store, wanted.lineage, wanted.snapshot)
        except errors.Error as error:
            LOG.warning(
                'The lease %s stays behind until it expires, and with it what '
                'the capture has stored: %s',
                wanted.snapshot,
                error,
            )


# Private


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
    for left in reversed(range(_CHOICES)):
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
        if parent is None:
            break
        reason = parents.check(store, parent, None)
        if reason is None:
            break
        if not left:
            raise errors.ParentGone(wanted.snapshot, parent.id, reason)
    return choice
