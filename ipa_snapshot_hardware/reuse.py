# SPDX-License-Identifier: Apache-2.0
"""Which packs of the parent a capture builds upon.

What lies in a pack that is not among them is not known, so it is stored
again, together with what is new, and the old pack is needed no more. That is
the whole of self-compaction: no pack is ever changed or merged, and nothing
is copied within the store.

Three reasons there are for it: much of what the image refers to is dead;
there are many small packs; a pack has been relied upon for long, and there is
to be a second copy.
"""

import dataclasses
from collections.abc import Iterable

from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import pack as packing

#: The packs of an image may hold so much, in hundredths of what the disk needs
#: of them. Less would store most of a disk that is written to all over again
#: and again; more would waste what snapshots are to save: with padding and
#: documents an image alone is to stay below 150.
MOST_HELD_PERCENT = 130

#: A pack of which more than this is alive is never stored again for the sake
#: of what is dead in it, in hundredths: it would free next to nothing.
MOST_LIVE_PERCENT = 70

#: So much of the image is stored again in one capture at most: a part of so
#: many, but always a pack.
WORK_PARTS = 8

#: A pack is small when it is a part of so many of the size of new ones ...
SMALL_PARTS = 4
#: ... and with more of those than this they are stored again together. So
#: there are never many segments, attempts and indexes for little data.
MOST_SMALL_PACKS = 16

Key = tuple[str, str]


@dataclasses.dataclass(frozen=True, slots=True)
class Reuse:
    """The choice; packs by (attempt, name).

    :param shared: what is in them need not be stored.
    :param spares: those that may go on as second copies.
    :param reasons: why the others are not shared, for the log.
    """

    shared: frozenset[Key]
    spares: frozenset[Key]
    reasons: dict[Key, str]


def choose(
    manifest: manifests.Manifest, pack_size: int, redundancy: int
) -> Reuse:
    """Choose what to build upon.

    The same manifest gives the same choice.

    :param pack_size: that packs will have which are stored now, in bytes.
    :param redundancy: so many snapshots in a row rely on one copy; 0: all.
    """
    packs = [pack for pack in manifest.packs if not pack.spare]
    # A full pack is up to a cluster larger.
    work = max(
        pack_size + manifest.cluster_size,
        sum(pack.live_bytes for pack in packs) // WORK_PARTS,
    )
    reasons: dict[Key, str] = {}
    again: set[Key] = set()
    for reason, found in (
        ('dead', _mostly_dead(packs)),
        ('small', _small(packs, pack_size)),
        ('due', _due(packs, redundancy)),
    ):
        for pack in found:
            key = pack.attempt, pack.name
            if key in again or pack.live_bytes > work:
                continue
            work -= pack.live_bytes
            again.add(key)
            reasons[key] = reason
    return Reuse(
        frozenset((pack.attempt, pack.name) for pack in packs) - again,
        frozenset(
            (pack.attempt, pack.name)
            for pack in manifest.packs
            if pack.spare or reasons.get((pack.attempt, pack.name)) == 'due'
        )
        if redundancy
        else frozenset(),
        reasons,
    )


# Private


def _mostly_dead(
    packs: Iterable[manifests.PackRecord],
) -> Iterable[manifests.PackRecord]:
    """Give packs to be stored again until the rest is dense enough."""
    packs = list(packs)
    held = sum(pack.size for pack in packs)
    allowed = sum(pack.live_bytes for pack in packs) * MOST_HELD_PERCENT // 100
    found: list[manifests.PackRecord] = []
    for pack in sorted(packs, key=lambda each: each.live_bytes / each.size):
        if (
            held <= allowed
            or pack.live_bytes * 100 > pack.size * MOST_LIVE_PERCENT
        ):
            break
        found.append(pack)
        held -= pack.size - pack.live_bytes
    # What is padding in them would be padding again.
    live = sum(pack.live_bytes for pack in found)
    if sum(pack.size for pack in found) <= max(packing.MIN_SIZE, live):
        return ()
    return found


def _small(
    packs: Iterable[manifests.PackRecord], pack_size: int
) -> Iterable[manifests.PackRecord]:
    small = [pack for pack in packs if pack.size * SMALL_PARTS < pack_size]
    if len(small) <= MOST_SMALL_PACKS:
        return ()
    return sorted(small, key=lambda pack: pack.size)


def _due(
    packs: Iterable[manifests.PackRecord], redundancy: int
) -> Iterable[manifests.PackRecord]:
    if not redundancy:
        return ()
    return sorted(
        (pack for pack in packs if pack.generations >= redundancy),
        key=lambda pack: -pack.generations,
    )
