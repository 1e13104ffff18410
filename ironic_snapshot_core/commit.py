# SPDX-License-Identifier: Apache-2.0
"""Turning what a capture has stored into a snapshot.

Whoever captured is trusted with the bytes of one disk and with nothing else:
it chose no name, and what it reports is compared with what the store holds.
The manifest is the commit point. It is written last; before it nobody sees a
snapshot, and after it every byte is known to be stored.
"""

import dataclasses
import logging
from collections.abc import Sequence
from concurrent import futures
from typing import Any

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import qcow2
from ironic_snapshot_core.codec import get_codec
from ironic_snapshot_core.digest import DEFAULT_DIGEST
from ironic_snapshot_core.manifest import CaptureReport
from ironic_snapshot_core.manifest import ImageRecord
from ironic_snapshot_core.manifest import Manifest
from ironic_snapshot_core.manifest import ObjectRecord
from ironic_snapshot_core.store.base import Segment, Store

LOG = logging.getLogger(__name__)

#: Requests at a time while objects are checked.
WORKERS = 16


@dataclasses.dataclass(frozen=True, slots=True)
class Intent:
    """What is known of the snapshot beside the report.

    :param report: size, etag and digest of the report object.
    :param facts: fields of the manifest that the report does not have.
    """

    lineage: layout.Lineage
    snapshot: str
    report: ObjectRecord
    facts: dict[str, Any]


def commit(store: Store, intent: Intent, mac_key: bytes | None,
           workers: int = WORKERS) -> Manifest:
    """Check what was stored and make it a snapshot.

    Doing it twice is safe: the second time finds the manifest.

    :param store: with more rights than the capture had.
    :param mac_key: proves later who committed; None for a local repository.
    :param workers: requests at a time.
    :raises Corrupted: an object is not what was reported, or the report is
        not about this snapshot.
    :raises StoreError: the store refuses or does not answer; nothing is
        committed then.
    """
    try:
        manifest = catalogue.read(
            store, intent.lineage, intent.snapshot, mac_key)
    except errors.ObjectMissing:
        pass
    else:
        LOG.info('Snapshot %s was committed before', intent.snapshot)
        return manifest
    report = _read_report(store, intent)
    prefix = layout.attempt_prefix(intent.lineage, intent.snapshot)
    segments = _segments(prefix, report)
    _sweep(store, segments + [
        Segment(prefix + name, record.size, record.etag)
        for name, record in ((layout.INDEX, report.index),
                             (layout.MAP, report.map))], workers)
    _check_head(store, prefix, report)
    image = layout.image_name(intent.lineage, intent.snapshot)
    size = sum(segment.size for segment in segments)
    store.join(image, segments)
    stored = store.stat(image)
    if stored.size != size:
        raise errors.Corrupted(
            what=image,
            reason=f'it reads as {stored.size} bytes instead of {size}')
    manifest = Manifest.from_report(
        report,
        lineage=intent.lineage,
        image=ImageRecord(image, size),
        parent=None,
        full_reason='this release takes full snapshots only',
        **intent.facts)
    store.put(layout.manifest_name(intent.lineage, intent.snapshot),
              manifest.to_bytes(mac_key))
    _delete_checkpoints(store, prefix, report.checkpoints)
    return manifest


def _read_report(store: Store, intent: Intent) -> CaptureReport:
    name = (layout.attempt_prefix(intent.lineage, intent.snapshot)
            + layout.REPORT)
    data = store.get(name, document.MAX_SIZE)
    found = DEFAULT_DIGEST.digest(data).hex()
    if len(data) != intent.report.size or found != intent.report.digest:
        raise errors.Corrupted(
            what=name, reason='it is not the report that the capture named')
    report = CaptureReport.from_bytes(data)
    if report.snapshot != intent.snapshot:
        raise errors.Corrupted(
            what=name,
            reason=f'it is about snapshot {report.snapshot}')
    return report


def _segments(prefix: str, report: CaptureReport) -> list[Segment]:
    # A full snapshot stands on its own packs, numbered without a gap; the
    # names are made here, so a report cannot point anywhere else.
    segments = [Segment(prefix + layout.HEAD, report.head.size,
                        report.head.etag)]
    for number, pack in enumerate(report.packs, start=1):
        if (pack.attempt != report.snapshot
                or pack.name != layout.pack_name(number)):
            raise errors.Corrupted(
                what=prefix + layout.REPORT,
                reason=f'pack {number} is not one of this capture')
        segments.append(Segment(prefix + pack.name, pack.size, pack.etag))
    return segments


def _sweep(store: Store, expected: Sequence[Segment],
           workers: int) -> None:
    """HEAD every object: there, whole, plain and not about to expire."""
    with futures.ThreadPoolExecutor(workers) as pool:
        for info, segment in zip(
                pool.map(lambda segment: store.stat(segment.name), expected),
                expected, strict=True):
            reason = None
            if info.size != segment.size:
                reason = f'{info.size} bytes instead of {segment.size}'
            elif info.etag != segment.etag:
                reason = 'its content is not what was uploaded'
            elif info.kind != 'plain':
                reason = 'it is not a plain object'
            elif info.expires:
                reason = 'it has an expiry date'
            if reason:
                raise errors.Corrupted(what=segment.name, reason=reason)


def _delete_checkpoints(store: Store, prefix: str, count: int) -> None:
    try:
        for number in range(1, count + 1):
            store.delete(prefix + layout.checkpoint_name(number))
    except errors.StoreError as e:
        LOG.warning('Some checkpoints stay behind: %s', e)


def _check_head(store: Store, prefix: str, report: CaptureReport) -> None:
    # Whoever deploys the image follows this header: it must not lead to any
    # file but itself (CVE-2024-44082 is about such images).
    start = store.get_range(prefix + layout.HEAD, 0, report.cluster_size)
    qcow2.check_header(start, report.disk.size, report.cluster_size,
                       get_codec(report.codec))
