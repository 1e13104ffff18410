# SPDX-License-Identifier: Apache-2.0
"""Turning what a capture has stored into a snapshot.

Whoever captured is trusted with the bytes of one disk and with nothing else:
it chose no name, and what it reports is compared with what the store holds.
The manifest is the commit point. It is written last; before it nobody sees a
snapshot, and after it every byte is known to be stored.

A snapshot with a parent needs objects that it did not store itself, and any
snapshot can be deleted, and what it alone needed pruned, at any time. There
is no lock that could be relied upon, so it is the order that counts::

    capture and commit                  prune
    ------------------                  -----
    1  write the lease                  a  list all objects, read the
    2  store packs, index, map, head       leases, then the manifests
    3  HEAD all that is needed          b  write down what is condemned
    4  join the image                   c  the same as a, anew
    5  is any of it condemned?          d  delete what was condemned a grace
    6  is the parent there?                ago, is garbage in a and c, and
    7  write the manifest                  is condemned at this moment
    8  delete the lease

* Whoever prunes sees the lease or the manifest, as 7 comes before 8, and he
  looks for the leases first. A lease keeps all that its attempt has stored. A
  lease whose parent is gone stops the prune altogether: what that capture
  refers to cannot be known.
* If something is condemned in b, every manifest that named it was gone in a.
  A child can still come to name it if it saw its parent in 6 before that. Its
  lease was written before a, then, so c finds that lease and stops, or finds
  the manifest, and the thing is no more garbage. A child of that child whose
  lease came too late for c came too late for b as well: it sees in 5 that the
  thing is condemned. For if it was condemned no more, c was over, and with
  it the last parent that 6 could see.
* That needs clocks that agree on when a lease has expired, and listings that
  do not lag behind. Where they do not, by minutes or by hours, the grace is
  what remains: whatever d deletes was condemned a grace before. A commit that
  came to 5 later than that has failed there; one that came to 5 before has
  written its manifest by c. So the grace must be longer than from 3 to the
  end of 7, and than that by what the clocks of two prunes may differ:
  :data:`prune.MIN_GRACE_S`. To stay within, a commit does 3 again when that
  was long ago. A grace of 0 is for a store that nobody else uses.

After 7 nothing could be taken back, so nothing is looked at any more.
"""

import dataclasses
import logging
from collections.abc import Sequence
from concurrent import futures
from typing import Any

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import committed
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import parent as parents
from ironic_snapshot_core import prune
from ironic_snapshot_core import qcow2
from ironic_snapshot_core.clock import Clock
from ironic_snapshot_core.clock import SystemClock
from ironic_snapshot_core.codec import get_codec
from ironic_snapshot_core.manifest import AttemptRecord
from ironic_snapshot_core.manifest import CaptureReport
from ironic_snapshot_core.manifest import ImageRecord
from ironic_snapshot_core.manifest import Manifest
from ironic_snapshot_core.manifest import ObjectRecord
from ironic_snapshot_core.manifest import PackRecord
from ironic_snapshot_core.store.base import Segment, Store

LOG = logging.getLogger(__name__)

#: Requests at a time while objects are checked.
WORKERS = 16

#: What was looked at longer ago is looked at again before the manifest.
STALE_S = prune.MIN_GRACE_S / 4


@dataclasses.dataclass(frozen=True, slots=True)
class Intent:
    """What is known of the snapshot beside the report.

    :param report: size, etag and digest of the report object.
    :param facts: fields of the manifest that the report does not have.
    :param parent: as it was chosen in the beginning. The capture may have
        passed it over, and then it says why.
    :param full_reason: why none was chosen.
    """

    lineage: layout.Lineage
    snapshot: str
    report: ObjectRecord
    facts: dict[str, Any]
    parent: Manifest | None = None
    full_reason: str | None = None


def commit(store: Store, intent: Intent, mac_key: bytes | None,
           workers: int = WORKERS, clock: Clock | None = None) -> Manifest:
    """Check what was stored and make it a snapshot.

    Doing it twice is safe: the second time finds the manifest.

    :param store: with more rights than the capture had.
    :param mac_key: proves later who committed; None for a local repository.
    :param workers: requests at a time.
    :raises Corrupted: an object is not what was reported, or the report is
        not about this snapshot.
    :raises ParentGone: the parent is no more what it was.
    :raises AttemptCondemned: prune is about to delete what was captured.
    :raises StoreError: the store refuses or does not answer; nothing is
        committed then.
    """
    clock = clock or SystemClock()
    try:
        manifest = catalogue.read(
            store, intent.lineage, intent.snapshot, mac_key)
    except errors.ObjectMissing:
        pass
    else:
        LOG.info('Snapshot %s was committed before', intent.snapshot)
        return manifest
    report = _read_report(store, intent)
    packs = _packs(intent, report)
    needed = packs + committed.documents(intent.lineage, report)
    began = clock.time()
    try:
        _sweep(store, needed, workers)
        _check_head(store, intent, report)
        # For nothing but not to join in vain.
        _check_needed(store, intent, report, mac_key)
        image = _join(store, intent, report, packs)
        if not 0 <= clock.time() - began <= STALE_S:
            _sweep(store, needed, workers)
    except errors.ObjectMissing:
        # Perhaps it went with the parent.
        _check_needed(store, intent, report, mac_key)
        raise
    manifest = Manifest.from_report(
        report,
        lineage=intent.lineage,
        image=image,
        **intent.facts)
    data = manifest.to_bytes(mac_key)
    _check_needed(store, intent, report, mac_key)
    store.put(layout.manifest_name(intent.lineage, intent.snapshot), data)
    _delete_checkpoints(store, intent, report.checkpoints)
    return manifest


def _read_report(store: Store, intent: Intent) -> CaptureReport:
    name = _own(intent, layout.REPORT)
    data = store.get(name, document.MAX_SIZE)
    if digests.identify(data) != (intent.report.size, intent.report.digest):
        raise errors.Corrupted(
            what=name, reason='it is not the report that the capture named')
    report = CaptureReport.from_bytes(data)
    if report.snapshot != intent.snapshot:
        raise errors.Corrupted(
            what=name,
            reason=f'it is about snapshot {report.snapshot}')
    if (report.parent is None and intent.parent is None
            and intent.full_reason):
        # Who chose none knows best why.
        report = dataclasses.replace(report, full_reason=intent.full_reason)
    return report


def _packs(intent: Intent, report: CaptureReport) -> list[Segment]:
    """Give the packs that the snapshot needs, each checked.

    A report can name its own packs, whose names are made here, and those of
    its parent, which are taken from the parent; so it cannot point anywhere
    else.
    """
    parent = _parent(intent, report)
    attempts = _attempts(intent, report, parent)
    older = {(pack.attempt, pack.name): pack
             for pack in (parent.packs if parent else ())}
    _require(intent, report.head.name == _own(intent, layout.HEAD)
             or (parent is not None and report.head == parent.head),
             'its head is neither its own nor that of the parent')
    own = 0
    segments = []
    for pack in report.packs:
        if pack.attempt == intent.snapshot:
            own += 1
            expected = PackRecord.new(
                intent.snapshot, layout.pack_name(own), pack.size, pack.etag,
                pack.clusters, pack.live_bytes)
            _require(intent, pack == expected,
                     f'pack {own} is not one of this capture')
        else:
            _require(intent, _same(
                pack, older.get((pack.attempt, pack.name))),
                f'{pack.name} of attempt {pack.attempt} is not one of the '
                'parent')
        prefix = layout.attempt_prefix(
            attempts[pack.attempt].lineage, pack.attempt)
        segments.append(Segment(
            prefix + pack.name, pack.size, pack.etag, pack.start,
            pack.length))
    return segments


def _parent(intent: Intent, report: CaptureReport) -> Manifest | None:
    """Give the parent that the snapshot has, which may be none."""
    if report.parent is None:
        return None
    parent = intent.parent
    _require(intent, parent is not None and parent.id == report.parent,
             f'it names the parent {report.parent}, which was not chosen')
    assert parent is not None
    _require(intent, (
        (report.cluster_size, report.codec, report.digest)
        == (parent.cluster_size, parent.codec, parent.digest)),
        'its clusters are not like those of the parent')
    return parent


def _attempts(intent: Intent, report: CaptureReport,
              parent: Manifest | None) -> dict[str, AttemptRecord]:
    found = {attempt.id: attempt for attempt in report.attempts}
    expected = [attempt for attempt in (parent.attempts if parent else ())
                if attempt.id in found]
    if intent.snapshot in found:
        expected.append(AttemptRecord(
            intent.snapshot, intent.lineage, found[intent.snapshot].index))
    _require(intent, list(report.attempts) == expected,
             'its attempts are not those of the parent and its own')
    return found


def _same(pack: PackRecord, older: PackRecord | None) -> bool:
    """Whether a pack of the parent is said to be what it is."""
    return older is not None and pack == dataclasses.replace(
        older, live_bytes=pack.live_bytes, start=pack.start,
        length=pack.length, generations=older.generations + 1)


def _sweep(store: Store, expected: Sequence[Segment],
           workers: int) -> None:
    """HEAD every object: there, whole, plain and not about to expire."""
    with futures.ThreadPoolExecutor(workers) as pool:
        for info, segment in zip(
                pool.map(lambda segment: store.stat(segment.name), expected),
                expected, strict=True):
            reason = committed.flaw(info, segment)
            if reason:
                raise errors.Corrupted(what=segment.name, reason=reason)


def _check_head(store: Store, intent: Intent, report: CaptureReport) -> None:
    # Whoever deploys the image follows this header: it must not lead to any
    # file but itself (CVE-2024-44082 is about such images).
    start = store.get_range(report.head.name, 0, report.cluster_size)
    qcow2.check_header(start, report.disk.size, report.cluster_size,
                       get_codec(report.codec))


def _check_needed(store: Store, intent: Intent, report: CaptureReport,
                     mac_key: bytes | None) -> None:
    """Refuse what prune takes for garbage, and a parent that is gone."""
    condemned = prune.condemned(store)
    own = (_own(intent, ''),
           layout.image_name(intent.lineage, intent.snapshot))
    if any(name.startswith(own) for name in condemned):
        raise errors.AttemptCondemned(intent.snapshot)
    parent = _parent(intent, report)
    reason = parent and parents.check(store, parent, mac_key, condemned)
    if parent and reason:
        raise errors.ParentGone(intent.snapshot, parent.id, reason)


def _join(store: Store, intent: Intent, report: CaptureReport,
          packs: Sequence[Segment]) -> ImageRecord:
    segments = [
        Segment(report.head.name, report.head.size, report.head.etag),
        *(pack for pack in packs if pack.used)]
    image = layout.image_name(intent.lineage, intent.snapshot)
    size = sum(segment.used for segment in segments)
    store.join(image, segments)
    stored = store.stat(image)
    if stored.size != size:
        raise errors.Corrupted(
            what=image,
            reason=f'it reads as {stored.size} bytes instead of {size}')
    return ImageRecord(image, size)


def _delete_checkpoints(store: Store, intent: Intent, count: int) -> None:
    try:
        for number in range(1, count + 1):
            store.delete(_own(intent, layout.checkpoint_name(number)))
    except errors.StoreError as e:
        LOG.warning('Some checkpoints stay behind: %s', e)


def _own(intent: Intent, name: str) -> str:
    return layout.attempt_prefix(intent.lineage, intent.snapshot) + name


def _require(intent: Intent, condition: bool, reason: str) -> None:
    if not condition:
        raise errors.Corrupted(_own(intent, layout.REPORT), reason)
