# SPDX-License-Identifier: Apache-2.0
"""The snapshot that a new one builds upon, as the conductor sees it.

The node record holds where the parent is and the digest of its manifest,
however large that is. The manifest is read again with each slice: so a
parent that is gone ends the capture early, and not with the commit.
"""
import dataclasses
import functools
from typing import Any

from oslo_log import log

from ironic_snapshot import arguments
from ironic_snapshot import attempt
from ironic_snapshot import source
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import parent as parents
from ironic_snapshot_core.manifest import Manifest
from ironic_snapshot_core.store.base import Store

LOG = log.getLogger(__name__)

# Of the reason in the node record, in characters.
_REASON_LIMIT = 500


@dataclasses.dataclass(frozen=True, slots=True)
class Parent:
    """A parent, or why there is none.

    :ivar record: where it is and what its manifest is, as it is told to the
        agent; None for a full snapshot.
    :ivar full_reason: why it is a full one, or None.
    """

    record: dict[str, Any] | None
    full_reason: str | None

    @property
    def id(self) -> str | None:
        """Of the snapshot; None for a full snapshot."""
        return self.record and self.record['snapshot']

    @classmethod
    def of(cls, options: dict[str, Any]) -> 'Parent':
        """Read it from the arguments of the agent."""
        return cls(options.get('parent'), options.get('full_reason'))

    def to_options(self) -> dict[str, Any]:
        """Give what goes into the arguments of the agent."""
        return {'parent': self.record, 'full_reason': self.full_reason}

    def read(self, store: Store, snapshot: str) -> Manifest | None:
        """Read the parent's manifest again.

        :param snapshot: that builds upon it, for errors.
        :returns: None for a full snapshot.
        :raises ParentGone: it is not there any more, or is another.
        """
        if self.record is None:
            return None
        gone = functools.partial(
            errors.ParentGone, snapshot, self.record['snapshot'])
        try:
            return source.read_again(
                store, self.record['snapshot'], self.record)
        except errors.ObjectMissing:
            raise gone('is not there any more') from None
        except errors.Corrupted:
            raise gone('is not what it was') from None


def choose(store: Store, node: Any, lineage: layout.Lineage,
           asked: arguments.SnapshotArguments) -> Parent:
    """Choose the parent of a snapshot.

    :raises ParentUnsuitable: the one that the user has named does not do.
    """
    key = CONF.snapshot.manifest_key.encode()
    wanted = parents.Wanted(
        cluster_size=asked.cluster_size, codec=asked.compression,
        digest=digests.DEFAULT_DIGEST.id, project=node.lessee or node.owner,
        allow_degraded=asked.allow_bad_sectors)
    choice = None
    restored = attempt.restored(node)
    if asked.parent == parents.AUTO and restored:
        # The disk is not what the latest snapshot has.
        try:
            choice = parents.choose(store, lineage, restored, wanted, key)
        except errors.ParentUnsuitable as exc:
            LOG.warning('Node %(node)s was restored, but: %(error)s',
                        {'node': node.uuid, 'error': exc})
    if choice is None:
        choice = parents.choose(store, lineage, asked.parent, wanted, key)
    if choice.manifest is None:
        return Parent(None, plain(choice.reason))
    return Parent({'snapshot': choice.manifest.id,
                   **source.describe(choice.manifest)}, None)


def describe(parent: str | None, full_reason: str | None) -> str:
    """In words for a log."""
    return (f'incremental to snapshot {parent}' if parent
            else f'full ({plain(full_reason)})')


def plain(reason: str | None) -> str:
    """A reason, which may be the ramdisk's, as a short line of text."""
    return ''.join(each if each.isprintable() else '?'
                   for each in (reason or '')[:_REASON_LIMIT])
