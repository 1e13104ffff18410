# SPDX-License-Identifier: Apache-2.0
"""The snapshots that exist: what has a manifest, and nothing else."""
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core.manifest import Manifest
from ironic_snapshot_core.store.base import Store


def read(store: Store, lineage: layout.Lineage, snapshot: str) -> Manifest:
    """One committed snapshot.

    :raises: ObjectMissing when there is none of that id.
    :raises: Corrupted when the manifest is not what a conductor wrote.
    """
    name = layout.manifest_name(lineage, snapshot)
    manifest = Manifest.from_bytes(store.get(name, document.MAX_SIZE),
                                   CONF.snapshot.manifest_key.encode())
    if (manifest.lineage, manifest.id) != (lineage, snapshot):
        # Authentic, but copied here from another snapshot.
        raise errors.Corrupted(name, 'it belongs to another snapshot')
    return manifest
