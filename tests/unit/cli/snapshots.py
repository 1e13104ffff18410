# SPDX-License-Identifier: Apache-2.0
"""Manifests of snapshots that were never taken."""

import dataclasses
import uuid

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest

CLUSTER = 2**18
LINEAGE = layout.Lineage(
    'bbbbbbbb-0000-4000-8000-000000000002',
    'cccccccc-0000-4000-8000-000000000003',
)
OTHER = layout.Lineage(
    'dddddddd-0000-4000-8000-000000000004',
    'cccccccc-0000-4000-8000-000000000003',
)
RECORD = manifest.ObjectRecord(CLUSTER, '0' * 32, '0' * 64)


def make_id(name):
    """An id that is the same for the same name."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, name))


def make_pack(attempt, number=1, clusters=4, live=None, **changes):
    """A pack that compressed to a half."""
    size = -(-clusters // 2) * CLUSTER
    fields = {
        'start': 0, 'length': size, 'generations': 1, **changes
    }  # fmt: skip
    return manifest.PackRecord(
        attempt=attempt,
        name=layout.pack_name(number),
        size=size,
        etag='0' * 32,
        clusters=clusters,
        live_bytes=size if live is None else live,
        **fields,
    )


def make(
    name,
    parent=None,
    *,
    id=None,
    sequence=1,
    lineage=LINEAGE,
    packs=(),
    clusters=0,
    full_reason='asked for',
    unreadable=(),
    **changes,
):
    """The manifest of a snapshot.

    :param parent: id.
    :param clusters: that are not zero.
    """
    id = id or make_id(name)
    size = 64 * CLUSTER
    report = manifest.CaptureReport(
        snapshot=id,
        disk=manifest.Disk(size, 512, 512, '', '', '', '', '/dev/sda'),
        cluster_size=CLUSTER,
        codec='zstd',
        codec_level=1,
        digest='blake3-256',
        parent=parent,
        full_reason=None if parent else full_reason,
        packs=tuple(packs),
        attempts=tuple(
            manifest.AttemptRecord(each, lineage, RECORD)
            for each in dict.fromkeys(pack.attempt for pack in packs)
        ),
        map=RECORD,
        head=manifest.HeadRecord(
            'v1/head', **dataclasses.asdict(RECORD)
        ),
        totals=manifest.Totals(
            virtual_bytes=size,
            used_bytes=size,
            read_bytes=size,
            zero_bytes=size - clusters * CLUSTER,
            data_bytes=clusters * CLUSTER,
            stored_bytes=sum(
                pack.size for pack in packs if pack.attempt == id
            ),
            clusters=clusters,
            new_clusters=sum(
                pack.clusters for pack in packs if pack.attempt == id
            ),
        ),
        regions=(),
        unreadable=unreadable,
        timings={},
        software={},
    )
    fields = {
        'description': '',
        'node': manifest.NodeRecord(lineage.node, 'host', None),
        'project': None,
        'consistency': 'offline',
        'started_at': '2026-01-31T12:00:00Z',
        'created_at': f'2026-01-31T12:{sequence:02}:07Z',
        'image': manifest.ImageRecord('image', 1),
        **changes,
    }
    return manifest.Manifest.from_report(
        report, name=name, lineage=lineage, sequence=sequence, **fields
    )


def make_entry(name, parent=None, **options):
    """A snapshot in a listing.

    :param parent: name of the parent.
    """
    found = make(name, parent and make_id(parent), **options)
    return catalogue.Entry(found.lineage, found.id, found)


def damaged(name, reason='The manifest is damaged.', lineage=LINEAGE):
    return catalogue.Entry(lineage, make_id(name), None, reason)
