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
from keystoneauth1 import exceptions as keystone_exceptions
from oslo_log import log

from ironic_snapshot import arguments
from ironic_snapshot import attempt
from ironic_snapshot import parent as parents
from ironic_snapshot import power
from ironic_snapshot import progress
from ironic_snapshot.targets import swift
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import commit
from ironic_snapshot_core import errors
from ironic_snapshot_core import figures
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core.clock import Clock
from ironic_snapshot_core.clock import SystemClock
from ironic_snapshot_core.digest import DEFAULT_DIGEST
from ironic_snapshot_core.manifest import NodeRecord
from ironic_snapshot_core.manifest import ObjectRecord
from ironic_snapshot_core.units import MiB

LOG = log.getLogger(__name__)
METRICS = metrics_utils.get_metrics_logger(__name__)

# Version of what the conductor and the agent say to each other.
PROTOCOL = 1

CLOCK: Clock = SystemClock()

# How often a parent is chosen before the attempt begins; each time but the
# last it was deleted meanwhile.
_CHOICES = 3

# Of a time that the agent says.
_MOST_SECONDS = 10 ** 9


def check(task) -> list[arguments.SnapshotArguments]:
    """Check everything that can be checked before the node is touched.

    :returns: the snapshot steps among the requested ones.
    :raises: InvalidParameterValue for a wrong argument, configuration or
        kind of node, or a parent that does not do.
    :raises: StoreError when Swift does not let us in.
    """
    steps = arguments.requested(task.node)
    if steps:
        if not task.driver.storage.should_write_image(task):
            raise exception.InvalidParameterValue(
                'Service step deploy.snapshot captures a local disk, and this '
                'node boots from a volume: snapshot the volume instead')
        target = swift.for_node(task.node)
        target.ensure()
        _check_parents(task.node, target, steps)
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
def start(task, args: dict[str, Any]) -> tuple[attempt.Attempt,
                                               dict[str, Any]]:
    """Open an attempt.

    :param args: the step's arguments as the user wrote them.
    :returns: what :func:`proceed` returns.
    """
    node = task.node
    asked = arguments.parse(args)
    before = attempt.load(node) or attempt.Attempt(attempt.PREPARING)
    target = swift.for_node(node)
    lineage = attempt.lineage(node)
    now = _now()
    this = attempt.Attempt(
        attempt.PREPARING,
        snapshot=str(uuid.uuid4()),
        name=asked.name or f'{node.name or node.uuid} {now}',
        container=target.container,
        generation=lineage.generation,
        started_at=now,
        shutdown=before.shutdown,
        sequence=attempt.next_sequence(node),
        tries=1,
        step_index=node.driver_internal_info.get('service_step_index'),
        options=_options(asked),
        handled=before.handled)
    # Whatever happens, somebody will end the lease.
    this.save(node)
    this, agent_args = _begin(node, this, target, lineage, asked)
    # Before the agent hears of it: whatever happens, somebody will end it.
    dataclasses.replace(
        this, progress=progress.Progress(moved_at=now)).save(node)
    parent = parents.Parent.of(this.options)
    LOG.info('Snapshot %(snapshot)s "%(name)s" of node %(node)s begins: '
             '%(kind)s',
             {'snapshot': this.snapshot, 'name': this.name,
              'node': node.uuid,
              'kind': parents.describe(parent.id, parent.full_reason)})
    return this, agent_args


@METRICS.timer('snapshot.proceed')
def proceed(task, lost: bool = False) -> tuple[attempt.Attempt,
                                               dict[str, Any]]:
    """Prepare another slice of the running attempt.

    Doing it once too often is safe: the agent goes on with the capture of
    this id, whether it runs it already, has restarted, or is done.

    :param lost: the agent has restarted.
    :returns: the attempt, to be saved once the agent has taken the slice,
        and the arguments for the agent. These hold signatures: they are sent
        to the agent and neither saved nor logged.
    :raises: NodeServicingFailure when the agent has restarted too often.
    :raises: ParentGone when the parent is not there any more.
    """
    node = task.node
    this = attempt.load(node)
    if lost and this.progress.asked_at:
        this = _count_loss(node, this)
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
    result = (command.get('command_result') or {}).get('service_result')
    more = _check_result(result, this)
    this = dataclasses.replace(this, handled=_command_id(command))
    if not more:
        _finish(node, this, result)
        return False
    now = CLOCK.time()
    this = dataclasses.replace(
        this, progress=this.progress.reported(result.get('progress'), now))
    this.note(node)
    this.progress.check_moving(CONF.snapshot.stall_timeout, now)
    LOG.info('Snapshot %(snapshot)s of node %(node)s: phase %(phase)s, '
             '%(percent)d %% read, %(stored)d bytes stored',
             {'snapshot': this.snapshot, 'node': node.uuid,
              'phase': this.progress.phase,
              'percent': this.progress.percent,
              'stored': this.progress.stored_bytes})
    return True


def is_idle(commands: list[dict[str, Any]]) -> bool:
    """Whether the agent has ended something that is no step of ours.

    It was busy with that when it should have begun a slice.
    """
    return (commands[-1]['command_name'] != 'execute_service_step'
            and commands[-1]['command_status'] != 'RUNNING')


def is_handled(this: attempt.Attempt, command: dict[str, Any]) -> bool:
    """Whether this command of the agent was dealt with before."""
    return bool(this.handled) and _command_id(command) == this.handled


def is_passing(exc: Exception) -> bool:
    """Whether the next heartbeat may find it gone.

    The capture goes on meanwhile, as long as its grant lasts.
    """
    if isinstance(exc, errors.StoreError):
        return exc.retryable
    return isinstance(exc, (
        exception.AgentConnectionFailed, exception.AgentInProgress,
        keystone_exceptions.RetriableConnectionFailure))


def check_answering(node, why: str) -> None:
    """Check that a slice of the agent is not long overdue.

    :param why: what stands in the way.
    :raises: Stalled.
    """
    this = attempt.load(node)
    timeout = CONF.snapshot.stall_timeout
    this.progress.check_answering(
        timeout and timeout + this.options.get('slice_seconds', 0),
        CLOCK.time(), why.rstrip('.'))


def close(node, status: str, reason: str = '') -> None:
    """End an attempt that did not come to a commit. Safe to call twice.

    What it has uploaded is garbage for prune; nobody sees it.

    :param status: ``failed`` or ``aborted``.
    """
    this = attempt.load(node)
    if this is None or not this.open:
        return
    if this.snapshot:
        try:
            lease.delete(swift.named(this.container).store,
                         layout.Lineage(node.uuid, this.generation),
                         this.snapshot)
        except Exception as exc:
            LOG.warning('The lease of snapshot %(snapshot)s stays behind '
                        'until it expires: %(error)s',
                        {'snapshot': this.snapshot, 'error': explain(exc)})
    this.ended(status, reason=reason).save(node)


def explain(exc: BaseException) -> str:
    """An exception as one line, with the stable code of our own errors."""
    if isinstance(exc, errors.Error):
        return f'[{exc.code}] {exc}'
    return str(exc) or type(exc).__name__


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
                    f'Service step deploy.snapshot: {explain(exc)}') from None


def _begin(node, this: attempt.Attempt, target: swift.SwiftTarget,
           lineage: layout.Lineage,
           asked: arguments.SnapshotArguments) -> tuple[attempt.Attempt,
                                                        dict[str, Any]]:
    """Choose a parent, and prepare the first slice.

    Whoever deletes a snapshot looks for leases first: a parent that is read
    once more when the lease names it will stay, or the commit finds out.

    :raises: ParentUnsuitable, ParentGone.
    """
    choices = 0
    while True:
        choices += 1
        parent = parents.choose(target.store, node, lineage, asked)
        begun = _write_lease(
            dataclasses.replace(
                this, status=attempt.RUNNING,
                options={**this.options, **parent.to_options()}),
            target, lineage, int(CLOCK.time()) + CONF.snapshot.grant_ttl)
        try:
            return _slice(begun, target, lineage)
        except errors.ParentGone:
            if choices == _CHOICES:
                raise


def _write_lease(this: attempt.Attempt, target: swift.SwiftTarget,
                 lineage: layout.Lineage, expires: int) -> attempt.Attempt:
    """Write the lease anew, to outlive this moment.

    The margin saves writing it with each slice, too.
    """
    this = dataclasses.replace(this, lease_expires=expires + lease.MARGIN_S)
    lease.put(target.store, lineage, lease.Lease(
        snapshot=this.snapshot, parent=parents.Parent.of(this.options).id,
        expires=this.lease_expires))
    return this


def _slice(this: attempt.Attempt, target: swift.SwiftTarget,
           lineage: layout.Lineage) -> tuple[attempt.Attempt,
                                             dict[str, Any]]:
    """A grant, and a lease that outlives it."""
    now = CLOCK.time()
    expires = int(now) + CONF.snapshot.grant_ttl
    own = layout.attempt_prefix(lineage, this.snapshot)
    parent = parents.Parent.of(this.options).read(
        target.store, this.snapshot)
    grant = target.grant(
        [('PUT', own), ('GET', own),
         *(('GET', prefix) for prefix in parents.prefixes(parent))], expires)
    if this.lease_expires < expires:
        this = _write_lease(this, target, lineage, expires)
    this = dataclasses.replace(this, progress=this.progress.asked(now))
    return this, {
        'protocol': PROTOCOL,
        'snapshot': this.snapshot,
        'name': this.name,
        'lineage': dataclasses.asdict(lineage),
        **this.options,
        'grant': grant,
    }


def _count_loss(node, this: attempt.Attempt) -> attempt.Attempt:
    """The attempt with one more agent, unless there were too many.

    One that has stored something new makes up for all before it: such a
    capture comes to its end.
    """
    stored = this.progress.stored_bytes
    tries = 1 if stored > this.lost_at_bytes else this.tries
    if tries >= CONF.snapshot.max_tries:
        raise exception.NodeServicingFailure(
            f'the agent has lost the capture {tries} times without storing '
            'anything new; look at the log of the ramdisk, then run the step '
            'again')
    LOG.warning('The agent on node %(node)s has restarted; snapshot '
                '%(snapshot)s goes on from what is stored',
                {'node': node.uuid, 'snapshot': this.snapshot})
    return dataclasses.replace(
        this, tries=tries + 1,
        lost_at_bytes=max(stored, this.lost_at_bytes),
        progress=this.progress.restarted(CLOCK.time()))


@METRICS.timer('snapshot.finish')
def _finish(node, this: attempt.Attempt, result: dict[str, Any]) -> None:
    """Commit what the agent has captured; the record is not yet saved."""
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
        CLOCK)
    with contextlib.suppress(errors.Error):
        # A lease that stays behind expires; the snapshot is what counts.
        lease.delete(store, lineage, this.snapshot)
    totals = manifest.totals
    this.ended(attempt.COMMITTED, progress=progress.Progress(), options={},
               result=_figures(manifest, result.get('seconds'))).note(node)
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
        'seconds': _seconds(seconds),
        'degraded': manifest.degraded,
        'unreadable_bytes': sum(run.length for run in manifest.unreadable),
    }


def _command_id(command: dict[str, Any]) -> str:
    found = command.get('id')
    return found if isinstance(found, str) and len(found) <= 64 else ''


def _check_result(result: Any, this: attempt.Attempt) -> bool:
    """Whether there is more, from a result that is about this snapshot."""
    what = 'the result of the agent'
    version = result.get('protocol') if isinstance(result, dict) else None
    if version != PROTOCOL:
        raise errors.UnsupportedVersion(
            what=what, found=version if isinstance(version, int) else None,
            supported=PROTOCOL)
    if result.get('snapshot') != this.snapshot:
        raise errors.Corrupted(
            what=what, reason='it is about another snapshot')
    more = result.get('more')
    if not isinstance(more, bool):
        raise errors.Corrupted(
            what=what, reason='it does not say whether there is more')
    return more


def _report(result: dict[str, Any]) -> ObjectRecord:
    try:
        return ObjectRecord(**result['report'])
    except (KeyError, TypeError, errors.InvalidValue) as exc:
        raise errors.Corrupted(
            what='the result of the agent',
            reason='it names no report') from exc


def _seconds(value: Any) -> float | None:
    if type(value) not in (int, float) or not 0 <= value <= _MOST_SECONDS:
        return None
    return value


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
        'created_at': _now(),
        'software': {'ironic': ironic_version.version_info.release_string(),
                     'ironic-snapshot': metadata.version('ironic-snapshot')},
    }


def _now() -> str:
    return manifests.format_time(CLOCK.time())
