# SPDX-License-Identifier: Apache-2.0
"""What the node record remembers of a restore: the entry ``restore``.

Whether the disk is consistent is remembered with it, from one restore to the
next, until one is done or the deployment is over.
"""
import dataclasses
from typing import Any

from ironic_snapshot import record
from ironic_snapshot.progress import RestoreProgress

#: A snapshot of the disk as it is comes first.
CAPTURING = 'capturing'
#: The snapshot to restore is held; the agent has not heard of it.
BEGUN = 'begun'
RESTORED = 'restored'


@dataclasses.dataclass(frozen=True, slots=True)
class Restoration(record.Record):
    """One restore. ``snapshot`` and ``name`` are of what is restored.

    :ivar operation: id of the restore, a UUID.
    :ivar before: id of the snapshot that was taken first; may be empty.
    :ivar inconsistent: whether the disk is neither what it was nor what it
        should become, or may be.
    """

    KEY = 'restore'
    STEP = 'restore'
    OPEN = frozenset((record.PREPARING, CAPTURING, BEGUN, record.RUNNING))
    DONE = RESTORED
    PROGRESS = RestoreProgress

    progress: RestoreProgress = RestoreProgress()
    operation: str = ''
    before: str = ''
    inconsistent: bool = False

    @property
    def unsent(self) -> bool:
        """Whether the agent cannot have begun to write."""
        return self.open and self.status != record.RUNNING


load = Restoration.load
current = Restoration.current


def is_inconsistent(node: Any) -> bool:
    """Whether the disk must not be booted from, nor captured.

    :param node: anything with ``driver_internal_info``.
    """
    return bool((node.driver_internal_info.get(Restoration.KEY) or {}).get(
        'inconsistent'))


def begin(node: Any, status: str, **fields: Any) -> Restoration:
    """A new one, on a disk that is as the last one has left it.

    Until it has a snapshot itself, what is half on the disk is that one's.
    """
    before = load(node)
    if before is not None and before.inconsistent:
        fields = {'snapshot': before.snapshot, 'name': before.name,
                  'inconsistent': True, **fields}
    return Restoration(status, **fields)


def forget(node: Any) -> None:
    """The deployment is over; the caller saves that."""
    node.del_driver_internal_info(Restoration.KEY)


def explain_hold(node: Any) -> str:
    """Why the node is held, and the way out."""
    this = load(node)
    return (f'A restore of snapshot {this.snapshot} has begun to write the '
            'disk, or may have, and has not come to its end: the disk is not '
            'bootable, and the node is held and not booted from it. Run the '
            'service step deploy.restore again (only what still differs is '
            'written), or undeploy the node.')
