# SPDX-License-Identifier: Apache-2.0
"""What the node record remembers of a snapshot, and of its deployment.

Entries in ``driver_internal_info``:

``snapshot``
    the running or the last attempt; its status and its progress are what a
    user reads.
``snapshot_generation``
    the second half of the lineage: a new deployment gets a new one. Also the
    snapshot that the disk was restored from and now is.
``service_prepared_for``
    set while the node is away from its own system for servicing.
"""
import dataclasses
from typing import Any
import uuid

from ironic_snapshot import record
from ironic_snapshot.progress import CaptureProgress
from ironic_snapshot_core.layout import Lineage

_GENERATION = 'snapshot_generation'
_PREPARED = 'service_prepared_for'
_FOR_SNAPSHOT = 'snapshot'
_FOR_OTHERS = 'other steps'

PREPARING = record.PREPARING
RUNNING = record.RUNNING
COMMITTED = 'committed'
FAILED = record.FAILED
ABORTED = record.ABORTED


@dataclasses.dataclass(frozen=True, slots=True)
class Attempt(record.Record):
    """One try to take one snapshot.

    :ivar shutdown: how the node went down: ``clean``, ``forced`` or ``off``.
    :ivar sequence: its place among the snapshots of the lineage.
    :ivar lost_at_bytes: that were stored when the agent last restarted.
    :ivar publication: what is to become of it in Glance; empty: nothing.
    """

    KEY = 'snapshot'
    STEP = 'snapshot'
    OPEN = frozenset((PREPARING, RUNNING))
    DONE = COMMITTED
    PROGRESS = CaptureProgress

    progress: CaptureProgress = CaptureProgress()
    shutdown: str = ''
    sequence: int = 0
    lost_at_bytes: int = 0
    publication: dict[str, Any] = dataclasses.field(default_factory=dict)


load = Attempt.load
current = Attempt.current


def lineage(node: Any) -> Lineage:
    """The lineage of the node's present deployment, begun if need be."""
    return Lineage(node.uuid, _generation(node)['id'])


def next_sequence(node: Any) -> int:
    """Take the next place in the lineage.

    Order is by sequence and never by time: clocks jump. A place that comes
    to nothing leaves a gap.
    """
    generation = dict(_generation(node))
    generation['sequence'] = generation.get('sequence', 0) + 1
    node.set_driver_internal_info(_GENERATION, generation)
    node.save()
    return generation['sequence']


def restored(node: Any) -> str | None:
    """The snapshot that the disk was restored from and now is."""
    return _generation(node).get('restored')


def set_restored(node: Any, snapshot: str | None) -> None:
    """Note which snapshot the disk now is; the caller saves that.

    :param snapshot: None once there is a later one.
    """
    generation = {**_generation(node), 'restored': snapshot}
    if snapshot is None:
        del generation['restored']
    node.set_driver_internal_info(_GENERATION, generation)


def end_lineage(node: Any) -> None:
    """The deployment is over: the next one is another lineage."""
    node.del_driver_internal_info(_GENERATION)
    node.save()


def set_prepared(node: Any, for_snapshot: bool) -> None:
    """Note that from now on the node must be booted back.

    :param for_snapshot: whether a step of ours is among them.
    """
    node.set_driver_internal_info(
        _PREPARED, _FOR_SNAPSHOT if for_snapshot else _FOR_OTHERS)
    node.save()


def is_prepared(node: Any) -> bool:
    """Whether the node is on its way to, in, or on its way from the ramdisk.

    :param node: anything with ``driver_internal_info``.
    """
    return bool(node.driver_internal_info.get(_PREPARED))


def is_prepared_for_snapshot(node: Any) -> bool:
    """The same, and a step of ours is among those of the request."""
    return node.driver_internal_info.get(_PREPARED) == _FOR_SNAPSHOT


def clear_prepared(node: Any) -> None:
    """Note that the node runs its own system again."""
    node.del_driver_internal_info(_PREPARED)
    node.save()


def _generation(node: Any) -> dict[str, Any]:
    found = node.driver_internal_info.get(_GENERATION) or {}
    if not found or found.get('instance_uuid') != node.instance_uuid:
        found = {'id': str(uuid.uuid4()),
                 'instance_uuid': node.instance_uuid}
        node.set_driver_internal_info(_GENERATION, found)
        node.save()
    return found
