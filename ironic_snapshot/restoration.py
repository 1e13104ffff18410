# SPDX-License-Identifier: Apache-2.0
"""The step ``deploy.restore`` as the conductor sees it.

As :mod:`ironic_snapshot.service` does for a snapshot: ``check`` runs before
the node is touched, ``start`` when the agent is ready, ``take`` looks at the
end of each slice, ``proceed`` prepares the next, ``close`` is on every way
out. When a snapshot is to be taken first, that is a capture like any other,
inside this step.

From when the agent has heard of it, nobody but the agent knows whether it has
written something. So a restore that does not end well leaves a disk that
counts as inconsistent, unless the agent itself has ended with an error from
before its first write.
"""
import dataclasses
import re
from typing import Any
import uuid

from ironic.common import metrics_utils
from oslo_log import log

from ironic_snapshot import attempt
from ironic_snapshot import exchange
from ironic_snapshot import leases
from ironic_snapshot import record
from ironic_snapshot import restore_arguments as arguments
from ironic_snapshot import restore_record
from ironic_snapshot import service
from ironic_snapshot import source
from ironic_snapshot.targets import swift
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import errors
from ironic_snapshot_core import history
from ironic_snapshot_core import layout
from ironic_snapshot_core.document import MAX_INTEGER
from ironic_snapshot_core.manifest import Manifest
from ironic_snapshot_core.manifest import NodeRecord
from ironic_snapshot_core.units import MiB

LOG = log.getLogger(__name__)
METRICS = metrics_utils.get_metrics_logger(__name__)

# Each agent writes so much at most before it goes on where the last one was.
_IN_VAIN = MiB

# Errors of the agent after which nothing was written. With a code of which
# nobody knows, or without one, there is no telling.
_CODE = re.compile(r'\[([a-z]+(?:-[a-z]+)*)\] ')
_UNTOUCHING = frozenset(
    each.code for each in vars(errors).values()
    if isinstance(each, type) and issubclass(each, errors.Error)
) - {errors.RestoreInterrupted.code, errors.IdentityNotReset.code}

# What the agent says of itself is cut to this.
_MOST_ENTRIES = 20
_LONGEST_ENTRY = 200

#: The restore of the step that the node is at.
current = restore_record.current


@dataclasses.dataclass(frozen=True, slots=True)
class Terms:
    """How a snapshot is restored.

    :ivar verb: ``rollback`` or ``clone``.
    :ivar identity: ``keep`` or ``reset``.
    :ivar target_serial: of the disk to write, or None.
    :ivar bandwidth_limit: in MiB per second; 0: none.
    :ivar io_priority: of reading and writing.
    """

    verb: str
    identity: str
    target_serial: str | None
    bandwidth_limit: int
    io_priority: str


def check(task) -> list[arguments.RestoreArguments]:
    """Check everything that can be checked before the node is touched.

    :returns: the restore steps among the requested ones.
    :raises: InvalidParameterValue for a wrong argument, configuration or
        kind of node, or a snapshot that does not do.
    :raises: StoreError when Swift does not let us in.
    """
    node = task.node
    steps = arguments.requested(node)
    if not steps:
        return []
    if not task.driver.storage.should_write_image(task):
        raise arguments.SCHEMA.refusal(
            'it writes a local disk, and this node boots from a volume')
    target = swift.for_node(node)
    target.ensure()
    for asked in steps:
        if asked.confirm not in (node.uuid, node.name):
            raise arguments.SCHEMA.refusal(
                'argument "confirm" is not the name or the UUID of this '
                'node: its disk would be overwritten')
        if asked.before is not None and restore_record.is_inconsistent(node):
            raise arguments.SCHEMA.refusal(
                'argument "before_restore": the disk is half restored, and '
                'there is nothing to take a snapshot of; leave it out')
        try:
            manifest = source.choose(target.store, node, asked.snapshot)
            _terms(node, asked, manifest)
            source.verify(target.store, manifest)
        except (errors.SnapshotMissing, errors.SnapshotAmbiguous,
                errors.SnapshotUnsuitable) as exc:
            raise arguments.SCHEMA.refusal(exchange.explain(exc)) from None
    return steps


def prepare(node) -> None:
    """Note that a restore is to come."""
    restore_record.begin(node, record.PREPARING).save(node)


@METRICS.timer('restore.start')
def start(task, args: dict[str, Any]) -> exchange.Slice:
    """Begin the restore, or the snapshot that is taken first.

    :param args: the step's arguments as the user wrote them.
    :returns: the first slice.
    :raises: Error of the core when the snapshot does not do any more.
    """
    node = task.node
    asked = arguments.parse(args)
    target = swift.for_node(node)
    manifest = source.choose(target.store, node, asked.snapshot)
    this = begin(
        node, target, manifest, _terms(node, asked, manifest),
        node.driver_internal_info.get('service_step_index'))
    if asked.before is None:
        return proceed(task)
    dataclasses.replace(this, status=restore_record.CAPTURING).save(node)
    return service.start(task, asked.before)


def begin(node, target: swift.SwiftTarget, manifest: Manifest, terms: Terms,
          step_index: int | None) -> restore_record.Restoration:
    """Open a restore: from now on nobody deletes the snapshot.

    :param step_index: position of the step in the request.
    :returns: what the node record holds now.
    :raises SnapshotUnsuitable: it was deleted right now.
    """
    before = restore_record.load(node)
    now = exchange.now()
    this = restore_record.begin(
        node, restore_record.BEGUN,
        snapshot=manifest.id,
        name=manifest.name,
        container=target.container,
        generation=attempt.lineage(node).generation,
        started_at=now,
        tries=1,
        step_index=step_index,
        options=_options(manifest, terms),
        handled=before.handled if before else '',
        progress=restore_record.RestoreProgress(moved_at=now),
        operation=str(uuid.uuid4()))
    # Whatever happens, somebody will end the lease.
    this.save(node)
    this = _hold(node, this, target)
    this.save(node)
    LOG.info('Restore %(operation)s of node %(node)s begins: %(verb)s of '
             'snapshot %(snapshot)s "%(name)s"',
             {'operation': this.operation, 'node': node.uuid,
              'verb': terms.verb, 'snapshot': this.snapshot,
              'name': this.name})
    return this


@METRICS.timer('restore.proceed')
def proceed(task, lost: bool = False) -> exchange.Slice:
    """Prepare another slice.

    Doing it once too often is safe: the agent goes on with the restore of
    this operation, and one that has restarted compares the disk anew.

    :param lost: the agent has restarted.
    :raises: NodeServicingFailure when the agent has restarted too often.
    :raises: SnapshotUnsuitable when the snapshot is not there any more.
    """
    node = task.node
    this = restore_record.load(node)
    if this.status == restore_record.CAPTURING:
        _keep_lease(node, this, swift.named(this.container)).save(node)
        if service.current(node) is None:
            # A conductor has died before it could begin that.
            return service.start(
                task, arguments.parse(node.service_step.get('args')).before)
        return service.proceed(task, lost)
    if lost and this.progress.asked_at:
        this = exchange.count_loss(
            node, this, this.progress.written_bytes > _IN_VAIN, 'restore')
        # It may have written since it was last heard of.
        this = dataclasses.replace(this, inconsistent=True)
    target = swift.named(this.container)
    manifest = _read(this, target)
    now = exchange.CLOCK.time()
    expires = int(now) + CONF.snapshot.grant_ttl
    grant = target.grant(
        [('GET', prefix) for prefix in source.prefixes(manifest)], expires)
    this = _keep_lease(node, this, target)
    # Before the agent hears of it: whatever happens, it may have.
    this = dataclasses.replace(this, status=record.RUNNING)
    this.save(node)
    return exchange.Slice(
        dataclasses.replace(this, progress=this.progress.asked(now)),
        this.STEP, {
            'protocol': exchange.PROTOCOL,
            'snapshot': this.snapshot,
            'operation': this.operation,
            **this.options,
            'grant': grant,
        })


def take(task, command: dict[str, Any]) -> bool:
    """Take what the agent says at the end of a slice.

    The node record is changed and not saved.

    :param command: of the agent, as it shows it.
    :returns: whether there is more to do.
    :raises: Error of the core when it is nonsense or when nothing moves.
    """
    node = task.node
    this = restore_record.load(node)
    if this.status == restore_record.CAPTURING:
        if not service.take(task, command):
            _captured(node, this)
        return True
    result = exchange.step_result(command, record.step_type(node))
    more = exchange.check_result(
        result, snapshot=this.snapshot, operation=this.operation)
    touched = result.get('touched')
    if not isinstance(touched, bool):
        raise errors.Corrupted(
            exchange.RESULT, 'it does not say whether the disk was written')
    this = dataclasses.replace(
        this, handled=exchange.command_id(command),
        inconsistent=this.inconsistent or touched)
    if not more:
        _finish(node, this, result)
        return False
    this = exchange.note_progress(node, this, result)
    LOG.info('Restore %(operation)s of node %(node)s: phase %(phase)s, '
             '%(percent)d %% read, %(written)d bytes written',
             {'operation': this.operation, 'node': node.uuid,
              'phase': this.progress.phase,
              'percent': this.progress.percent,
              'written': this.progress.written_bytes})
    return True


def acting(node) -> record.Record | None:
    """The record of what the agent is at: the restore, or the capture."""
    this = current(node)
    if this is not None and this.status == restore_record.CAPTURING:
        return service.acting(node)
    return this


def close(node, status: str, reason: str = '', ended: bool = False) -> None:
    """End a restore that is not done. Safe to call twice.

    :param status: ``failed`` or ``aborted``.
    :param ended: the agent itself has ended with this reason; so it says
        whether it has written something.
    """
    this = restore_record.load(node)
    if this is None or not this.open:
        return
    if this.status == restore_record.CAPTURING:
        service.close(node, status, reason)
    if this.operation:
        leases.end(this, node, this.operation)
    touched = not this.unsent and not (ended and _is_untouching(reason))
    this.ended(status, reason=reason,
               inconsistent=this.inconsistent or touched).save(node)


def _terms(node, asked: arguments.RestoreArguments,
           manifest: Manifest) -> Terms:
    """How the user wants it.

    :raises: InvalidParameterValue.
    """
    rollback = manifest.node.uuid == node.uuid
    if not rollback and asked.target_serial is None:
        raise arguments.SCHEMA.refusal(
            f'snapshot {manifest.id} is of another node: name the disk to '
            'write with "target_serial"')
    return Terms(
        verb=history.ROLLBACK if rollback else history.CLONE,
        identity=asked.identity or (
            arguments.KEEP if rollback else arguments.RESET),
        target_serial=asked.target_serial,
        bandwidth_limit=asked.bandwidth_limit,
        io_priority=asked.io_priority)


def _options(manifest: Manifest, terms: Terms) -> dict[str, Any]:
    return {
        **source.describe(manifest),
        'verb': terms.verb,
        'identity': terms.identity,
        'target_serial': terms.target_serial,
        'workers': CONF.snapshot.workers,
        'memory_limit': CONF.snapshot.memory_limit * MiB,
        'bandwidth_limit': terms.bandwidth_limit * MiB,
        'io_priority': terms.io_priority,
        'slice_seconds': CONF.snapshot.slice_interval,
    }


def _hold(node, this: restore_record.Restoration,
          target: swift.SwiftTarget) -> restore_record.Restoration:
    """Write the lease, and see that the snapshot is still there.

    Whoever deletes a snapshot looks for leases first.
    """
    this = _keep_lease(node, this, target)
    _read(this, target)
    return this


def _keep_lease(node, this: restore_record.Restoration,
                target: swift.SwiftTarget) -> restore_record.Restoration:
    """See that the lease outlives a grant of now."""
    expires = int(exchange.CLOCK.time()) + CONF.snapshot.grant_ttl
    if this.lease_expires >= expires:
        return this
    return leases.write(
        this, target.store, layout.Lineage(node.uuid, this.generation),
        this.operation, this.snapshot, expires)


def _read(this: restore_record.Restoration,
          target: swift.SwiftTarget) -> Manifest:
    try:
        return source.read_again(target.store, this.snapshot, this.options)
    except errors.ObjectMissing:
        raise errors.SnapshotUnsuitable(
            this.snapshot, 'it is not there any more') from None
    except errors.Corrupted:
        raise errors.SnapshotUnsuitable(
            this.snapshot, 'it is not what it was') from None


def _captured(node, this: restore_record.Restoration) -> None:
    """Go on with the restore itself."""
    taken = attempt.load(node)
    dataclasses.replace(
        this, status=restore_record.BEGUN, before=taken.snapshot,
        handled=taken.handled, progress=restore_record.RestoreProgress(
            moved_at=exchange.now())).note(node)


def _is_untouching(reason: str) -> bool:
    """Whether the agent's error is one from before its first write."""
    found = _CODE.search(reason)
    return bool(found) and found[1] in _UNTOUCHING


@METRICS.timer('restore.finish')
def _finish(node, this: restore_record.Restoration,
            result: dict[str, Any]) -> None:
    """The disk is what the snapshot is; the record is not yet saved."""
    result = _check(result)
    done = this.ended(
        restore_record.RESTORED, inconsistent=False, options={},
        progress=restore_record.RestoreProgress(),
        result={'verb': this.options['verb'],
                'identity': this.options['identity'], **result})
    _write_history(node, this, result)
    leases.end(this, node, this.operation)
    done.note(node)
    if this.options['verb'] == history.ROLLBACK:
        attempt.set_restored(node, this.snapshot)
    if not node.maintenance:
        node.maintenance_reason = None
    LOG.info('Restore %(operation)s of node %(node)s is done: snapshot '
             '%(snapshot)s "%(name)s", %(totals)s',
             {'operation': this.operation, 'node': node.uuid,
              'snapshot': this.snapshot, 'name': this.name,
              'totals': result['totals']})
    if result['degraded']:
        LOG.warning('Node %(node)s was restored from snapshot %(snapshot)s, '
                    'which is degraded: parts of its disk could not be read '
                    'then and are zero now; its manifest says which',
                    {'node': node.uuid, 'snapshot': this.snapshot})


def _write_history(node, this: restore_record.Restoration,
                   result: dict[str, Any]) -> None:
    """Write down in Swift that it was; the disk is good without that."""
    lineage = layout.Lineage(node.uuid, this.generation)
    try:
        history.put(swift.named(this.container).store, lineage,
                    history.Restore(
                        operation=this.operation,
                        snapshot=this.snapshot,
                        lineage=layout.Lineage(**this.options['lineage']),
                        node=NodeRecord(
                            node.uuid, node.name, node.instance_uuid),
                        project=node.lessee or node.owner,
                        verb=this.options['verb'],
                        identity=this.options['identity'],
                        before=this.before or None,
                        started_at=this.started_at,
                        restored_at=exchange.now(),
                        totals=result['totals'],
                        degraded=result['degraded']),
                    CONF.snapshot.manifest_key.encode())
    except Exception as exc:
        LOG.warning('Restore %(operation)s of node %(node)s will not be '
                    'listed: %(error)s',
                    {'operation': this.operation, 'node': node.uuid,
                     'error': exchange.explain(exc)})


def _check(result: dict[str, Any]) -> dict[str, Any]:
    """What the node record keeps of a result, and only what makes sense."""
    totals = result.get('totals')
    totals = totals if isinstance(totals, dict) else {}
    return {
        'totals': {
            name: _number(totals.get(name))
            for name in ('virtual_bytes', 'compared_bytes',
                         'differing_clusters', 'differing_bytes',
                         'written_bytes', 'zeroed_bytes', 'fetched_bytes')},
        'repaired': _number(result.get('repaired')),
        'degraded': result.get('degraded') is True,
        'reset': _entries(result.get('identity')),
        'seconds': exchange.check_seconds(result.get('seconds')),
    }


def _number(value: Any) -> int:
    return (value if type(value) is int and 0 <= value <= MAX_INTEGER else 0)


def _entries(value: Any) -> list[str]:
    """The account of what was reset, as short lines of text."""
    if not isinstance(value, list):
        return []
    return [
        ''.join(each if each.isprintable() else '?'
                for each in str(entry)[:_LONGEST_ENTRY])
        for entry in value[:_MOST_ENTRIES]]
