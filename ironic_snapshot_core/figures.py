# SPDX-License-Identifier: Apache-2.0
"""What a snapshot costs, and what it saves; defined once, for everybody.

*stored*, or *new*
    Bytes of the packs that the snapshot itself has stored:
    ``Manifest.totals.stored_bytes``.
*shared*
    Bytes of clusters in older packs that its image uses. Neither what else
    is in these packs counts, nor spares: theirs are second copies.
*dedupe ratio*
    Clusters that are not zero for each one that is stored, before
    compression. Of one snapshot: those of its disk, and those in the packs
    that it has stored; none if it has stored nothing. Of several: those of
    all their disks, and those in all packs that they need.
*compression ratio*
    Plain bytes of these clusters for each byte of the packs.
"""

import dataclasses
from collections.abc import Iterable

from ironic_snapshot_core.manifest import CaptureReport
from ironic_snapshot_core.manifest import Manifest
from ironic_snapshot_core.manifest import PackRecord


@dataclasses.dataclass(frozen=True, slots=True)
class Totals:
    """What several snapshots come to.

    :param data_bytes: of all disks that are not zero.
    :param stored_bytes: of all packs that are needed, each counted once.
    :param dedupe_ratio: None if nothing is stored.
    :param compression_ratio: likewise.
    """

    data_bytes: int
    stored_bytes: int
    dedupe_ratio: float | None
    compression_ratio: float | None


def own_packs(record: CaptureReport | Manifest) -> list[PackRecord]:
    """Give those that a snapshot has stored itself."""
    return [pack for pack in record.packs if pack.attempt == record.id]


def shared_bytes(record: CaptureReport | Manifest) -> int:
    """Tell what a snapshot uses of packs that others stored, in bytes."""
    return sum(
        pack.live_bytes
        for pack in record.packs
        if pack.attempt != record.id and not pack.spare
    )


def dedupe_ratio(manifest: Manifest) -> float | None:
    """Tell how many clusters a snapshot has for each one that it stored."""
    return _ratio(
        manifest.totals.clusters,
        sum(pack.clusters for pack in own_packs(manifest)),
    )


def total(snapshots: Iterable[Manifest]) -> Totals:
    """Add up snapshots that may share packs."""
    data = plain = 0
    packs: dict[tuple[str, str], tuple[int, int]] = {}
    for manifest in snapshots:
        size = manifest.cluster_size
        data += manifest.totals.data_bytes
        plain += manifest.totals.clusters * size
        for pack in manifest.packs:
            packs[pack.attempt, pack.name] = pack.size, pack.clusters * size
    stored = sum(size for size, _ in packs.values())
    distinct = sum(size for _, size in packs.values())
    return Totals(
        data, stored, _ratio(plain, distinct), _ratio(distinct, stored)
    )


def only_needed_by(
    deleted: Iterable[Manifest], kept: Iterable[Manifest]
) -> int:
    """Tell what nobody needs once some snapshots are gone.

    :returns: bytes of packs.
    """
    needed = {
        (pack.attempt, pack.name) for each in kept for pack in each.packs
    }
    packs = {
        (pack.attempt, pack.name): pack.size
        for each in deleted
        for pack in each.packs
    }
    return sum(size for key, size in packs.items() if key not in needed)


# Private


def _ratio(large: int, small: int) -> float | None:
    return round(large / small, 2) if small else None
