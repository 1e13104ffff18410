# SPDX-License-Identifier: Apache-2.0
"""The service step ``deploy.snapshot`` as the conductor sees it.

``check`` runs before the node is touched and ``shut_down`` touches it first,
``start`` runs when the agent is ready. The agent works in slices: ``take``
looks at the end of each and ``proceed`` prepares the next, until the last one
is committed. ``close`` is on every way out. All state is in the node record
and in Swift, so that any conductor can go on with it.
"""
import contextlib
import dataclasses
from importlib import metadata
from typing import Any
import uuid

from ironic.common import exception
from ironic.common import metrics_utils
from ironic import version as ironic_version
from oslo_log import log

from ironic_snapshot import arguments
from ironic_snapshot import attempt
from ironic_snapshot import exchange
from ironic_snapshot import leases
from ironic_snapshot import parent as parents
from ironic_snapshot import power
from ironic_snapshot import publication
from ironic_snapshot import restore_arguments
from ironic_snapshot import restore_record
from ironic_snapshot import source
from ironic_snapshot import stream
from ironic_snapshot.targets import swift
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import commit
from ironic_snapshot_core import errors
from ironic_snapshot_core import figures
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import parent as core_parents
from ironic_snapshot_core.digest import DEFAULT_DIGEST
from ironic_snapshot_core.manifest import NodeRecord
from ironic_snapshot_core.manifest import ObjectRecord
from ironic_snapshot_core.units import MiB

LOG = log.getLogger(__name__)
METRICS = metrics_utils.get_metrics_logger(__name__)

#: The attempt of the step that the node is at.
current = attempt.current
#: The record of what the agent is at.
acting = attempt.current


def check(task) -> list[arguments.SnapshotArguments]:
    """Check everything that can be checked before the node is touched.

    :returns: the snapshot steps among the requested ones.
    :raises: InvalidParameterValue for a wrong argument, configuration or
        kind of node, a parent that does not do, or a disk that is half
        restored.
    :raises: StoreError when Swift does not let us in.
    :raises: ImageError when Glance does not, or an image does not do.
    """
    steps = arguments.requested(task.node)
    if steps:
        if not task.driver.storage.should_write_image(task):
            raise exception.InvalidParameterValue(
                'Service step deploy.snapshot captures a local disk, and this '
                'node boots from a volume: snapshot the volume instead')
        if (restore_record.is_inconsistent(task.node)
                and not restore_arguments.SCHEMA.requested(task.node)):
            raise arguments.SCHEMA.refusal(
                restore_record.explain_hold(task.node))
        stream.check(task, [
            asked for asked in steps if stream.is_asked(asked)])
        _check_stored(task, [
            asked for asked in steps if not stream.is_asked(asked)])
    return steps


def shut_down(task, soft: bool) -> None:
    """Shut the system down and remember how it went.

    :param soft: whether to ask the operating system first.
    """
    node = task.node
    attempt.Attempt(attempt.PREPARING).save(node)
    shutdown = power.shut_down(
        task, CONF.snapshot.shutdown_timeout if soft else 0)
    attempt.Attempt(attempt.PREPARING, shutdown=shutdown).save(node)


@METRICS.timer('snapshot.start')
def start(task, args: dict[str, Any]) -> exchange.Slice:
    """Open an attempt.

    :param args: the step's arguments as the user wrote them.
    :returns: its first slice.
    """
    node = task.node
    asked = arguments.parse(args)
    before = attempt.load(node) or attempt.Attempt(attempt.PREPARING)
    streams = stream.is_asked(asked)
    target = None if streams else swift.for_node(node)
    lineage = attempt.lineage(node)
    now = exchange.now()
    this = attempt.Attempt(
        attempt.PREPARING,
        snapshot=str(uuid.uuid4()),
        name=asked.name or f'{node.name or node.uuid} {now}',
        container='' if streams else target.container,
        generation=lineage.generation,
        started_at=now,
        shutdown=before.shutdown,
        sequence=attempt.next_sequence(node),
        tries=1,
        step_index=node.driver_internal_info.get('service_step_index'),
        options=(stream.options(_options(asked)) if streams
                 else _options(asked)),
        handled=before.handled,
        publication=publication.plan(node, asked))
    # Whatever happens, somebody will end the lease.
    this.save(node)
    first = (stream.begin(node, this) if streams
             else _begin(node, this, target, lineage, asked))
    this = first.record
    # Before the agent hears of it: whatever happens, somebody will end it.
    dataclasses.replace(
        this, progress=attempt.CaptureProgress(moved_at=now)).save(node)
    LOG.info('Snapshot %(snapshot)s "%(name)s" of node %(node)s begins: '
             '%(kind)s',
             {'snapshot': this.snapshot, 'name': this.name,
              'node': node.uuid, 'kind': _kind(this)})
    return first


@METRICS.timer('snapshot.proceed')
def proceed(task, lost: bool = False) -> exchange.Slice:
    """Prepare another slice of the running attempt.

    Doing it once too often is safe: the agent goes on with the capture of
    this id, whether it runs it already, has restarted, or is done.

    :param lost: the agent has restarted.
    :raises: NodeServicingFailure when the agent has restarted too often.
    :raises: ParentGone when the parent is not there any more.
    """
    node = task.node
    this = attempt.load(node)
    if lost and this.progress.asked_at:
        this = _count_loss(node, this)
    if stream.is_streaming(this):
        return stream.proceed(this)
    return _slice(this, swift.named(this.container),
                  layout.Lineage(node.uuid, this.generation))


def take(task, command: dict[str, Any]) -> bool:
    """Take what the agent says at the end of a slice.

    The node record is changed and not saved.

    :param command: of the agent, as it shows it.
    :returns: whether there is more to capture; if not, it is committed.
    :raises: Error of the core when it is nonsense, when nothing moves, or
        when it must not be committed.
    """
    node = task.node
    this = attempt.load(node)
    result = exchange.step_result(command, 'service')
    more = exchange.check_result(result, snapshot=this.snapshot)
    this = dataclasses.replace(this, handled=exchange.command_id(command))
    if not more:
        _finish(node, this, result)
        return False
    this = exchange.note_progress(node, this, result)
    LOG.info('Snapshot %(snapshot)s of node %(node)s: phase %(phase)s, '
             '%(percent)d %% read, %(stored)d bytes stored',
             {'snapshot': this.snapshot, 'node': node.uuid,
              'phase': this.progress.phase,
              'percent': this.progress.percent,
              'stored': this.progress.stored_bytes})
    return True


def close(node, status: str, reason: str = '', ended: bool = False) -> None:
    """End an attempt that did not come to a commit. Safe to call twice.

    What it has uploaded is garbage for prune; nobody sees it.

    :param status: ``failed`` or ``aborted``.
    :param ended: the agent itself has ended with this; of no matter here.
    """
    this = attempt.load(node)
    if this is None or not this.open:
        return
    if stream.is_streaming(this):
        stream.close(node, this, reason)
    elif this.snapshot:
        leases.end(this, node, this.snapshot)
    this.ended(status, reason=reason).save(node)


def _check_stored(task, steps: list[arguments.SnapshotArguments]) -> None:
    """Check what ends in Swift.

    :param steps: those that do.
    """
    if steps:
        target = swift.for_node(task.node)
        target.ensure()
        _check_parents(task.node, target, steps)
        publication.check(task, target, steps)


def _options(asked: arguments.SnapshotArguments) -> dict[str, Any]:
    return {
        'cluster_size': asked.cluster_size,
        'codec': asked.compression,
        'codec_level': asked.compression_level,
        'adaptive_level': asked.adaptive_level,
        'digest': DEFAULT_DIGEST.id,
        'pack_size': CONF.snapshot.pack_size * MiB,
        'redundancy': CONF.snapshot.redundancy,
        'workers': CONF.snapshot.workers,
        'memory_limit': CONF.snapshot.memory_limit * MiB,
        'all_blocks': asked.all_blocks,
        'skip_gaps': asked.skip_gaps,
        'allow_bad_sectors': asked.allow_bad_sectors,
        'bandwidth_limit': asked.bandwidth_limit * MiB,
        'io_priority': asked.io_priority,
        'slice_seconds': CONF.snapshot.slice_interval,
    }


def _kind(this: attempt.Attempt) -> str:
    """What it will be, for people."""
    if stream.is_streaming(this):
        return f'image {this.publication["image_id"]}, without Swift'
    parent = parents.Parent.of(this.options)
    return parents.describe(parent.id, parent.full_reason)


def _check_parents(node, target: swift.SwiftTarget,
                   steps: list[arguments.SnapshotArguments]) -> None:
    """Refuse a parent that the user has named and that does not do.

    :raises: InvalidParameterValue.
    """
    for asked in steps:
        if asked.names_parent:
            try:
                parents.choose(
                    target.store, node, attempt.lineage(node), asked)
            except errors.ParentUnsuitable as exc:
                raise exception.InvalidParameterValue(
                    f'Service step deploy.snapshot: {exchange.explain(exc)}'
                ) from None


def _begin(node, this: attempt.Attempt, target: swift.SwiftTarget,
           lineage: layout.Lineage,
           asked: arguments.SnapshotArguments) -> exchange.Slice:
    """Choose a parent, and prepare the first slice.

    :raises: ParentUnsuitable, ParentGone.
    """
    def begin():
        parent = parents.choose(target.store, node, lineage, asked)
        begun = _write_lease(
            dataclasses.replace(
                this, status=attempt.RUNNING,
                options={**this.options, **parent.to_options()}),
            target, lineage,
            int(exchange.CLOCK.time()) + CONF.snapshot.grant_ttl)
        # It reads the parent.
        return _slice(begun, target, lineage)

    return core_parents.hold(begin)


def _write_lease(this: attempt.Attempt, target: swift.SwiftTarget,
                 lineage: layout.Lineage, expires: int) -> attempt.Attempt:
    return leases.write(this, target.store, lineage, this.snapshot,
                        parents.Parent.of(this.options).id, expires)


def _slice(this: attempt.Attempt, target: swift.SwiftTarget,
           lineage: layout.Lineage) -> exchange.Slice:
    """A grant, and a lease that outlives it."""
    now = exchange.CLOCK.time()
    expires = int(now) + CONF.snapshot.grant_ttl
    own = layout.attempt_prefix(lineage, this.snapshot)
    parent = parents.Parent.of(this.options).read(
        target.store, this.snapshot)
    grant = target.grant(
        [('PUT', own), ('GET', own),
         *(('GET', prefix) for prefix in (
             source.prefixes(parent) if parent else ()))], expires)
    if this.lease_expires < expires:
        this = _write_lease(this, target, lineage, expires)
    this = dataclasses.replace(this, progress=this.progress.asked(now))
    return exchange.Slice(this, this.STEP, {
        'protocol': exchange.PROTOCOL,
        'snapshot': this.snapshot,
        'name': this.name,
        'lineage': dataclasses.asdict(lineage),
        **this.options,
        'grant': grant,
    })


def _count_loss(node, this: attempt.Attempt) -> attempt.Attempt:
    """The attempt with one more agent, unless there were too many.

    One that has stored something new makes up for all before it.
    """
    stored = this.progress.stored_bytes
    return dataclasses.replace(
        exchange.count_loss(
            node, this, stored > this.lost_at_bytes, 'capture'),
        lost_at_bytes=max(stored, this.lost_at_bytes))


@METRICS.timer('snapshot.finish')
def _finish(node, this: attempt.Attempt, result: dict[str, Any]) -> None:
    """Commit what the agent has captured; the record is not yet saved."""
    if stream.is_streaming(this):
        this.ended(attempt.COMMITTED, progress=attempt.CaptureProgress(),
                   options={}, publication={}, result=stream.finish(
                       node, this, result, _facts(node, this, ''))).note(node)
        return
    lineage = layout.Lineage(node.uuid, this.generation)
    report = _report(result)
    store = swift.named(this.container).store
    # They were checked in the beginning; what the operator allows may have
    # changed since then.
    asked = (node.service_step or {}).get('args') or {}
    manifest = commit.commit(store, commit.Intent(
        lineage=lineage, snapshot=this.snapshot, report=report,
        facts=_facts(node, this, asked.get('description', '')),
        parent=_parent(store, lineage, this),
        full_reason=this.options.get('full_reason')),
        CONF.snapshot.manifest_key.encode(), CONF.snapshot.sweep_workers,
        exchange.CLOCK)
    published = {}
    if this.publication:
        published['image_id'] = publication.begin(
            node, this.publication, this.container, manifest)
    with contextlib.suppress(errors.Error):
        # A lease that stays behind expires; the snapshot is what counts.
        lease.delete(store, lineage, this.snapshot)
    totals = manifest.totals
    # What comes next builds upon this one.
    attempt.set_restored(node, None)
    this.ended(attempt.COMMITTED, progress=attempt.CaptureProgress(),
               options={}, publication={}, result={
                   **_figures(manifest, result.get('seconds')),
                   **published}).note(node)
    LOG.info('Snapshot %(snapshot)s "%(name)s" of node %(node)s is committed: '
             '%(kind)s, %(virtual)d bytes of disk, %(stored)d bytes stored',
             {'snapshot': this.snapshot, 'name': this.name,
              'node': node.uuid, 'virtual': totals.virtual_bytes,
              'stored': totals.stored_bytes, 'kind': parents.describe(
                  manifest.parent, manifest.full_reason)})
    if manifest.degraded:
        LOG.warning('Snapshot %(snapshot)s of node %(node)s is degraded: '
                    '%(runs)d parts of the disk could not be read and are '
                    'zero in it; its manifest says which',
                    {'snapshot': this.snapshot, 'node': node.uuid,
                     'runs': len(manifest.unreadable)})


def _parent(store, lineage: layout.Lineage,
            this: attempt.Attempt) -> manifests.Manifest | None:
    """The parent, or None once it is of no matter any more.

    :raises: ParentGone.
    """
    try:
        return parents.Parent.of(this.options).read(store, this.snapshot)
    except errors.ParentGone:
        # It may have gone after a commit that this conductor repeats.
        with contextlib.suppress(errors.ObjectMissing):
            store.stat(layout.manifest_name(lineage, this.snapshot))
            return None
        raise


def _figures(manifest: manifests.Manifest, seconds: Any) -> dict[str, Any]:
    """What the node record says of a committed snapshot.

    :param seconds: as the agent says, unchecked.
    """
    return {
        **({'parent': manifest.parent} if manifest.parent else
           {'full_reason': parents.plain(manifest.full_reason)}),
        'image': manifest.image.name,
        'image_bytes': manifest.image.size,
        'virtual_bytes': manifest.totals.virtual_bytes,
        'used_bytes': manifest.totals.used_bytes,
        'data_bytes': manifest.totals.data_bytes,
        'new_bytes': manifest.totals.stored_bytes,
        'shared_bytes': figures.shared_bytes(manifest),
        'seconds': exchange.check_seconds(seconds),
        'degraded': manifest.degraded,
        'unreadable_bytes': sum(run.length for run in manifest.unreadable),
    }


def _report(result: dict[str, Any]) -> ObjectRecord:
    try:
        return ObjectRecord(**result['report'])
    except (KeyError, TypeError, errors.InvalidValue) as exc:
        raise errors.Corrupted(
            what=exchange.RESULT,
            reason='it names no report') from exc


def _facts(node, this: attempt.Attempt,
           description: str) -> dict[str, Any]:
    return {
        'sequence': this.sequence,
        'name': this.name,
        'description': description,
        'node': NodeRecord(node.uuid, node.name, node.instance_uuid),
        'project': node.lessee or node.owner,
        'consistency': this.shutdown,
        'started_at': this.started_at,
        'created_at': exchange.now(),
        'software': {'ironic': ironic_version.version_info.release_string(),
                     'ironic-snapshot': metadata.version('ironic-snapshot')},
    }
