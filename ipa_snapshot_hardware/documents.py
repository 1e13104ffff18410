# SPDX-License-Identifier: Apache-2.0
"""Index, map, head and report of a capture."""

import array
import bisect
import itertools
from collections.abc import Iterator
from collections.abc import Sequence

import blake3

from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import manifest
from ironic_snapshot_core import qcow2
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware.disk import base


def build_map(
    content: contents.Content, disk_size: int, cluster_size: int, attempt: str
) -> bytes:
    """Say in which slot each cluster of the disk is."""
    builder = cluster_map.MapBuilder(disk_size, cluster_size)
    for cluster, slot in content:
        builder.add(cluster, attempt, slot)
    return cluster_map.encode(builder.build())


def build_head(
    content: contents.Content,
    index: indexes.Index,
    disk_size: int,
    codec: codecs.Codec,
    packs: Sequence[manifest.PackRecord],
) -> bytes:
    """Build what makes a qcow2 image of the packs."""
    return qcow2.build_head(
        disk_size,
        index.cluster_size,
        codec,
        [pack.size for pack in packs],
        _placements(content, index),
    )


def describe(disk: base.Disk) -> manifest.Disk:
    """Say which disk it was."""
    return manifest.Disk(
        size=disk.size,
        logical_sector_size=disk.logical_sector_size,
        physical_sector_size=disk.physical_sector_size,
        serial=disk.serial or '',
        wwn=disk.wwn or '',
        model=disk.model or '',
        partition_table=disk.partition_table or '',
        name=disk.name,
    )


def store_document(
    store: stores.Store, name: str, data: bytes
) -> manifest.ObjectRecord:
    """Store a document; give what proves it to be this one."""
    return record(data, store.put(name, data).etag)


def record(data: bytes, etag: str) -> manifest.ObjectRecord:
    """Give what proves a document to be this one."""
    return manifest.ObjectRecord(
        size=len(data),
        etag=etag,
        digest=blake3.blake3(data).hexdigest(),
    )


# Private


def _placements(
    content: contents.Content, index: indexes.Index
) -> Iterator[tuple[int, int, int, int, bool]]:
    """Give plain tuples like qcow2.Placement, in disk order.

    Most clusters lie in the same pack as the one before.
    """
    first_slots = list(
        itertools.accumulate((len(pack) for pack in index.packs), initial=0)
    )
    first = end = number = raw_count = 0
    offsets = array.array('I')
    for cluster, slot in content:
        if not first <= slot < end:
            number = bisect.bisect_right(first_slots, slot) - 1
            first, end = first_slots[number : number + 2]
            offsets = index.packs[number].offsets
            raw_count = index.packs[number].raw_count
        position = slot - first
        start = offsets[position]
        yield (
            cluster,
            number,
            start,
            offsets[position + 1] - start,
            position >= raw_count,
        )
