# SPDX-License-Identifier: Apache-2.0
"""Finding the snapshot that a person means."""

import re
from collections.abc import Sequence

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import errors
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core.store import base

#: Shorter beginnings of an id are not taken for one.
SHORTEST_PREFIX = 4
#: What is shown of an id, if that is enough.
SHORT_ID = 8

_PREFIX = re.compile(f'[0-9a-f-]{{{SHORTEST_PREFIX},36}}')


def find(
    store: base.Store, wanted: str, key: bytes | None = None
) -> manifests.Manifest:
    """Find a snapshot by its id, the beginning of one, or its name.

    :param key: of the conductor that has committed it, if one has.
    :raises SnapshotMissing: there is none.
    :raises SnapshotAmbiguous: several may be meant.
    :raises Corrupted: it is damaged.
    """
    return sound(choose(list(catalogue.entries(store, key)), wanted))


def choose(
    entries: Sequence[catalogue.Entry], wanted: str
) -> catalogue.Entry:
    """Find a snapshot among those of a repository; it may be damaged.

    :raises SnapshotMissing: there is none.
    :raises SnapshotAmbiguous: several may be meant.
    """
    found: list[catalogue.Entry] = []
    if _PREFIX.fullmatch(wanted.lower()):
        found = [e for e in entries if e.id.startswith(wanted.lower())]
    if not found:
        found = [
            e for e in entries if e.manifest and e.manifest.name == wanted
        ]
    if not found:
        raise errors.SnapshotMissing(wanted)
    if len(found) > 1:
        raise errors.SnapshotAmbiguous(wanted, [e.id for e in found])
    return found[0]


def sound(entry: catalogue.Entry) -> manifests.Manifest:
    """Give the manifest of a snapshot.

    :raises Corrupted: it is damaged.
    """
    if entry.manifest is None:
        raise errors.Corrupted(
            f'snapshot {entry.id}', entry.reason.rstrip('.')
        )
    return entry.manifest


def short_length(ids: Sequence[str]) -> int:
    """Tell how much of the ids must be shown to tell them apart."""
    length = SHORT_ID
    while len({each[:length] for each in ids}) < len(set(ids)):
        length += 1
    return length
