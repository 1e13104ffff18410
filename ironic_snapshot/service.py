# SPDX-License-Identifier: Apache-2.0
"""The service step ``deploy.snapshot`` as the conductor sees it.

``check`` runs before the node is touched and ``shut_down`` touches it first,
``start`` runs when the agent is ready, ``finish`` when it says that it is
done, ``close`` on every way out. All state is in the node record and in
Swift, so that any conductor can go on with it.
"""
import contextlib
import dataclasses
from importlib import metadata
import json
from typing import Any
import uuid

from ironic.common import exception
from ironic.common import metrics_utils
from ironic import version as ironic_version
from oslo_log import log

from ironic_snapshot import arguments
from ironic_snapshot import attempt
from ironic_snapshot import commit
from ironic_snapshot import power
from ironic_snapshot.targets import swift
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core.clock import SystemClock
from ironic_snapshot_core.digest import DEFAULT_DIGEST
from ironic_snapshot_core.manifest import NodeRecord
from ironic_snapshot_core.manifest import ObjectRecord
from ironic_snapshot_core.units import MiB

LOG = log.getLogger(__name__)
METRICS = metrics_utils.get_metrics_logger(__name__)

# Version of what the conductor and the agent say to each other.
PROTOCOL = 1


def check(task) -> list[arguments.SnapshotArguments]:
    """Check everything that can be checked before the node is touched.

    :returns: the snapshot steps among the requested ones.
    :raises: InvalidParameterValue for a wrong argument, configuration or
        kind of node.
    :raises: StoreError when Swift does not let us in.
    """
    steps = arguments.requested(task.node)
    if steps:
        if not task.driver.storage.should_write_image(task):
            raise exception.InvalidParameterValue(
                'Service step deploy.snapshot captures a local disk, and this '
                'node boots from a volume: snapshot the volume instead')
        swift.for_node(task.node).ensure()
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
def start(task, args: dict[str, Any]) -> dict[str, Any]:
    """Open an attempt.

    :param args: the step's arguments as the user wrote them.
    :returns: the arguments for the agent. They hold signatures: they are
        sent to the agent and neither saved nor logged.
    :raises: NodeServicingFailure when the agent has restarted too often.
    """
    node = task.node
    asked = arguments.parse(args)
    before = attempt.load(node) or attempt.Attempt(attempt.PREPARING)
    index = node.driver_internal_info.get('service_step_index')
    again = before.status == attempt.RUNNING and before.step_index == index
    if again and before.tries >= CONF.snapshot.max_tries:
        raise exception.NodeServicingFailure(
            f'the agent has lost the capture {before.tries} times; look at '
            'the log of the ramdisk, then run the step again')
    target = swift.for_node(node)
    lineage = attempt.lineage(node)
    if again:
        LOG.warning('The agent on node %s has restarted; the capture begins '
                    'again', node.uuid)
        _end_lease(target, lineage, before.snapshot)
    now = _now()
    this = attempt.Attempt(
        attempt.RUNNING,
        snapshot=str(uuid.uuid4()),
        name=(before.name if again else '') or asked.name
        or f'{node.name or node.uuid} {now}',
        container=target.container,
        generation=lineage.generation,
        started_at=now,
        shutdown=before.shutdown,
        sequence=attempt.next_sequence(node),
        tries=before.tries + 1 if again else 1,
        step_index=index)
    grant = target.grant(
        [('PUT', layout.attempt_prefix(lineage, this.snapshot))])
    target.store.put(
        layout.lease_name(lineage, this.snapshot),
        json.dumps({'version': 1, 'snapshot': this.snapshot,
                    'expires': grant['expires']}).encode())
    this.save(node)
    LOG.info('Snapshot %(snapshot)s "%(name)s" of node %(node)s begins, '
             'try %(tries)d',
             {'snapshot': this.snapshot, 'name': this.name,
              'node': node.uuid, 'tries': this.tries})
    return {
        'protocol': PROTOCOL,
        'snapshot': this.snapshot,
        'name': this.name,
        'lineage': dataclasses.asdict(lineage),
        'cluster_size': asked.cluster_size,
        'codec': asked.compression,
        'codec_level': asked.compression_level,
        'digest': DEFAULT_DIGEST.id,
        'pack_size': CONF.snapshot.pack_size * MiB,
        'workers': CONF.snapshot.workers,
        'memory_limit': CONF.snapshot.memory_limit * MiB,
        'grant': grant,
    }


@METRICS.timer('snapshot.finish')
def finish(task, result: Any) -> None:
    """Commit what the agent has captured.

    :param result: what the step returned on the agent.
    :raises: Error of the core when it must not be committed.
    """
    node = task.node
    this = attempt.load(node)
    if this is None or this.status != attempt.RUNNING:
        raise errors.Corrupted(
            'the record of the node', 'it holds no running snapshot')
    lineage = layout.Lineage(node.uuid, this.generation)
    report = _parse_result(result, this)
    store = swift.named(this.container).store
    asked = arguments.parse((node.service_step or {}).get('args'))
    manifest = commit.commit(store, commit.Intent(
        lineage=lineage, snapshot=this.snapshot, report=report,
        facts=_facts(node, this, asked)))
    with contextlib.suppress(errors.Error):
        # A lease that stays behind expires; the snapshot is what counts.
        store.delete(layout.lease_name(lineage, this.snapshot))
    totals = manifest.totals
    this.ended(attempt.COMMITTED, result={
        'image': manifest.image.name,
        'image_bytes': manifest.image.size,
        'virtual_bytes': totals.virtual_bytes,
        'data_bytes': totals.data_bytes,
        'stored_bytes': totals.stored_bytes,
        'seconds': result.get('seconds'),
    }).save(node)
    LOG.info('Snapshot %(snapshot)s "%(name)s" of node %(node)s is committed: '
             '%(virtual)d bytes of disk, %(stored)d bytes stored',
             {'snapshot': this.snapshot, 'name': this.name,
              'node': node.uuid, 'virtual': totals.virtual_bytes,
              'stored': totals.stored_bytes})


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
            _end_lease(swift.named(this.container),
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


def _end_lease(target: swift.SwiftTarget, lineage: layout.Lineage,
               snapshot: str) -> None:
    target.store.delete(layout.lease_name(lineage, snapshot))


def _parse_result(result: Any, this: attempt.Attempt) -> ObjectRecord:
    what = 'the result of the agent'
    if not isinstance(result, dict) or result.get('protocol') != PROTOCOL:
        raise errors.UnsupportedVersion(
            what=what, found=result.get('protocol')
            if isinstance(result, dict) else None, supported=PROTOCOL)
    if result.get('snapshot') != this.snapshot:
        raise errors.Corrupted(
            what=what, reason='it is about another snapshot')
    try:
        return ObjectRecord(**result['report'])
    except (KeyError, TypeError, errors.InvalidValue) as exc:
        raise errors.Corrupted(
            what=what, reason='it names no report') from exc


def _facts(node, this: attempt.Attempt,
           asked: arguments.SnapshotArguments) -> dict[str, Any]:
    return {
        'sequence': this.sequence,
        'name': this.name,
        'description': asked.description,
        'node': NodeRecord(node.uuid, node.name, node.instance_uuid),
        'project': node.lessee or node.owner,
        'consistency': this.shutdown,
        'started_at': this.started_at,
        'created_at': _now(),
        'software': {'ironic': ironic_version.version_info.release_string(),
                     'ironic-snapshot': metadata.version('ironic-snapshot')},
    }


def _now() -> str:
    return manifests.format_time(SystemClock().time())
