# SPDX-License-Identifier: Apache-2.0
"""Leases of what a node is at: a capture, or a restore.

A lease names the snapshot that is read meanwhile, so that nobody deletes it.
"""
import dataclasses
from typing import Any

from oslo_log import log

from ironic_snapshot import exchange
from ironic_snapshot.targets import swift
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core.store.base import Store

LOG = log.getLogger(__name__)


def write(this: Any, store: Store, lineage: layout.Lineage, holder: str,
          parent: str | None, expires: int) -> Any:
    """Write a lease, or write it anew, to outlive a moment.

    The margin saves writing it with each slice, too.

    :param this: the record of the node.
    :param lineage: the node's.
    :param holder: id of the attempt, or of the restore.
    :param parent: id of the snapshot that it reads, or None.
    :param expires: the moment, in seconds since the epoch.
    :returns: the record, with when the lease ends.
    """
    this = dataclasses.replace(this, lease_expires=expires + lease.MARGIN_S)
    lease.put(store, lineage, lease.Lease(
        snapshot=holder, parent=parent, expires=this.lease_expires))
    return this


def end(this: Any, node, holder: str) -> None:
    """End a lease, or leave it to expire. Safe to call twice."""
    try:
        lease.delete(swift.named(this.container).store,
                     layout.Lineage(node.uuid, this.generation), holder)
    except Exception as exc:
        LOG.warning('The lease of %(holder)s stays behind until it expires: '
                    '%(error)s',
                    {'holder': holder, 'error': exchange.explain(exc)})
