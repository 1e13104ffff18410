# SPDX-License-Identifier: Apache-2.0
"""The snapshot that is restored, as the conductor sees it.

The node record holds where it is and the digest of its manifest; the manifest
is read again with each slice.
"""
import dataclasses
import re
from typing import Any

from oslo_log import log

from ironic_snapshot import step_schema
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import catalogue
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import parallel
from ironic_snapshot_core import prune
from ironic_snapshot_core.manifest import Manifest
from ironic_snapshot_core.store.base import Store
from ironic_snapshot_core.verify import Verifier

LOG = log.getLogger(__name__)

_UUID = re.compile(step_schema.UUID_PATTERN)


def choose(store: Store, node: Any, wanted: str,
           owner: str | None = None) -> Manifest:
    """Find the snapshot that the user means.

    :param node: to be restored; its project must be the snapshot's.
    :param wanted: an id, of any node of the project; or a name.
    :param owner: UUID of the node that the name belongs to; None: this node.
    :raises SnapshotMissing: there is none, or it is another project's.
    :raises SnapshotAmbiguous: several have this name.
    :raises SnapshotUnsuitable: it is damaged or about to be deleted.
    """
    key = CONF.snapshot.manifest_key.encode()
    project = node.lessee or node.owner
    found = _by_id(store, wanted, key) if _UUID.fullmatch(wanted) else None
    if found is None:
        found = _by_name(store, owner or node.uuid, wanted, project, key)
    # Nobody learns what others have.
    if found is None or found.project != project:
        raise errors.SnapshotMissing(wanted)
    if not prune.condemned(store).isdisjoint(catalogue.objects(found)):
        raise errors.SnapshotUnsuitable(
            found.id, 'a prune is about to delete what it needs')
    return found


def verify(store: Store, manifest: Manifest) -> None:
    """See that all objects of a snapshot are there, before it is needed.

    Its data are not read: the ramdisk checks each cluster.

    :raises SnapshotUnsuitable: it is damaged, and not healed by second
        copies.
    """
    found = Verifier(
        store, data=False,
        workers=parallel.Workers(CONF.snapshot.sweep_workers)).verify(manifest)
    for each in found.findings:
        LOG.warning('Snapshot %(snapshot)s is damaged: object %(object)s: '
                    '%(reason)s', {'snapshot': manifest.id,
                                   'object': each.object,
                                   'reason': each.reason})
    for each in found.findings:
        if each.lost:
            raise errors.SnapshotUnsuitable(
                manifest.id,
                f'it is damaged: object {each.object}: {each.reason}')


def describe(manifest: Manifest) -> dict[str, Any]:
    """What the agent, and the node record, are told of a snapshot."""
    size, digest = digests.identify(
        manifest.to_bytes(CONF.snapshot.manifest_key.encode()))
    return {'lineage': dataclasses.asdict(manifest.lineage),
            'manifest': {'size': size, 'digest': digest}}


def read_again(store: Store, snapshot: str,
               described: dict[str, Any]) -> Manifest:
    """Read the manifest again.

    :param described: as :func:`describe` has it.
    :raises ObjectMissing: it is not there any more.
    :raises Corrupted: it is not what it was.
    """
    name = layout.manifest_name(
        layout.Lineage(**described['lineage']), snapshot)
    data = store.get(name, document.MAX_SIZE)
    size, digest = digests.identify(data)
    if {'size': size, 'digest': digest} != described['manifest']:
        raise errors.Corrupted(name, 'it is not what it was')
    # Its code was checked when it was chosen.
    return Manifest.from_bytes(data, None, verified=True)


def prefixes(manifest: Manifest) -> list[str]:
    """What the ramdisk must be able to read of a snapshot.

    The snapshot, the attempt that wrote its map, and each attempt whose
    packs it shares.
    """
    return [layout.snapshot_prefix(manifest.lineage, manifest.id),
            *manifest.attempt_prefixes]


def _by_id(store: Store, snapshot: str, key: bytes) -> Manifest | None:
    try:
        return catalogue.find(store, snapshot, key)
    except catalogue.UNUSABLE as exc:
        raise errors.SnapshotUnsuitable(
            snapshot, f'it is damaged ({str(exc).rstrip(".")})') from exc


def _by_name(store: Store, node: str, name: str, project: str | None,
             key: bytes) -> Manifest | None:
    found = [
        entry.manifest for entry in catalogue.entries(
            store, key, layout.node_prefix(node))
        if entry.manifest and entry.manifest.name == name
        and entry.manifest.project == project]
    if len(found) > 1:
        raise errors.SnapshotAmbiguous(name, [each.id for each in found])
    return found[0] if found else None
