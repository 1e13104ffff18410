# SPDX-License-Identifier: Apache-2.0
"""Index, map, head and report of a capture."""

import array
import bisect
import itertools
from collections.abc import Iterator
from collections.abc import Sequence

from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import manifest
from ironic_snapshot_core import qcow2
from ironic_snapshot_core.store import base as stores
from ipa_snapshot_hardware import content as contents
from ipa_snapshot_hardware import parent as parents
from ipa_snapshot_hardware.disk import base


def build_map(
    content: contents.Content,
    disk_size: int,
    cluster_size: int,
    attempt: str,
    shared: parents.Shared = parents.NOTHING,
) -> bytes:
    """Say in which slot of which attempt each cluster of the disk is."""
    builder = cluster_map.MapBuilder(disk_size, cluster_size)
    for place in shared.places(content, attempt):
        builder.add(*place)
    return cluster_map.encode(builder.build())


def build_head(
    content: contents.Content,
    index: indexes.Index,
    disk_size: int,
    codec: codecs.Codec,
    packs: Sequence[manifest.PackRecord],
    shared: parents.Shared = parents.NOTHING,
) -> bytes:
    """Build what makes a qcow2 image of the packs.

    :param index: of the attempt's own packs.
    :param packs: all of the image, in its order; spares do not matter.
    """
    image = [pack for pack in packs if not pack.spare]
    return qcow2.build_head(
        disk_size,
        index.cluster_size,
        codec,
        [pack.length for pack in image],
        _placements(content, index, image, shared),
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
    size, digest = digests.identify(data)
    return manifest.ObjectRecord(size, etag, digest)


# Private


def _placements(
    content: contents.Content,
    index: indexes.Index,
    image: Sequence[manifest.PackRecord],
    shared: parents.Shared,
) -> Iterator[tuple[int, int, int, int, bool]]:
    """Give plain tuples like qcow2.Placement, in disk order.

    Most clusters lie in the same pack as the one before.
    """
    ordinals = {
        (pack.attempt, pack.name): (ordinal, pack.start)
        for ordinal, pack in enumerate(image)
    }
    own = shared.size
    firsts = list(
        itertools.accumulate(
            (len(pack) for pack in index.packs), initial=own
        )
    )
    first = end = ordinal = cut = raw_count = 0
    offsets = array.array('I')
    for cluster, number in content:
        if not first <= number < end:
            if number < own:
                pack = shared.pack_of(number)
                key = pack.record.attempt, pack.record.name
                first, found = pack.first, pack.index
            else:
                at = bisect.bisect_right(firsts, number) - 1
                key = index.attempt, index.packs[at].name
                first, found = firsts[at], index.packs[at]
            end = first + len(found)
            ordinal, cut = ordinals[key]
            offsets, raw_count = found.offsets, found.raw_count
        position = number - first
        start = offsets[position]
        yield (
            cluster,
            ordinal,
            start - cut,
            offsets[position + 1] - start,
            position >= raw_count,
        )
