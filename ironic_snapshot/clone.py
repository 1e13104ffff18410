# SPDX-License-Identifier: Apache-2.0
"""Deploying a node from a snapshot: what the user asks for, and its check.

``instance_info`` names the snapshot instead of an image. What the deploy step
``restore`` does then is a restore like any other, see
:mod:`ironic_snapshot.restoration`; this is how it is begun.
"""
import dataclasses
import re
from typing import Any

from ironic.common import exception

from ironic_snapshot import exchange
from ironic_snapshot import restoration
from ironic_snapshot import restore_arguments
from ironic_snapshot import source
from ironic_snapshot import step_schema
from ironic_snapshot.targets import swift
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import errors
from ironic_snapshot_core import history
from ironic_snapshot_core.manifest import Manifest

#: Field of ``instance_info`` with the id or the name of a snapshot.
SNAPSHOT = 'snapshot'
#: With the UUID of the node that a name belongs to.
NODE = 'snapshot_node'
#: With what becomes of the identity: ``reset`` or ``keep``.
IDENTITY = 'snapshot_identity'

_FIELDS = (SNAPSHOT, NODE, IDENTITY)
_NAME = re.compile(step_schema.NAME_PATTERN)
_UUID = re.compile(step_schema.UUID_PATTERN)


@dataclasses.dataclass(frozen=True, slots=True)
class CloneRequest:
    """What the user asked for, with the defaults filled in.

    :ivar snapshot: an id, or a name.
    :ivar node: UUID of the node that a name belongs to, or None.
    :ivar identity: ``keep`` or ``reset``.
    """

    snapshot: str
    node: str | None
    identity: str


def is_requested(node: Any) -> bool:
    """Whether this node is to be deployed from a snapshot."""
    return bool(_fields(node))


def parse(node: Any) -> CloneRequest:
    """Check what ``instance_info`` says of the snapshot.

    :raises: InvalidParameterValue naming the field that is wrong.
    """
    fields = _fields(node)
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown:
        raise _refusal(f'unknown field {ascii(unknown[0])[:60]} (known: '
                       f'{", ".join(_FIELDS)})')
    if node.instance_info.get('image_source'):
        raise _refusal(
            'it names a snapshot and an "image_source": unset one of them')
    snapshot = fields.get(SNAPSHOT)
    if not isinstance(snapshot, str) or not _NAME.fullmatch(snapshot):
        raise _refusal(f'"{SNAPSHOT}" is neither the id nor the name of a '
                       'snapshot')
    owner = fields.get(NODE)
    if owner is not None and not (
            isinstance(owner, str) and _UUID.fullmatch(owner)):
        raise _refusal(f'"{NODE}" is not the UUID of a node')
    if owner is None and not _UUID.fullmatch(snapshot):
        raise _refusal(
            f'"{SNAPSHOT}" is no id; for a name set "{NODE}" to the UUID of '
            'the node that the snapshot was taken of')
    identity = fields.get(IDENTITY, restore_arguments.RESET)
    if identity not in restore_arguments.IDENTITIES:
        raise _refusal(f'"{IDENTITY}" is none of '
                       f'{", ".join(restore_arguments.IDENTITIES)}')
    return CloneRequest(snapshot, owner, identity)


def check(task) -> None:
    """Check everything that can be checked at once.

    :raises: InvalidParameterValue for a wrong field, configuration or kind
        of node, or a snapshot that does not do.
    """
    if not task.driver.storage.should_write_image(task):
        raise _refusal('a snapshot is written to a local disk, and this node '
                       'boots from a volume')
    _choose(task.node)


def verify(node: Any) -> None:
    """See that the snapshot is not damaged, before the node is touched.

    :raises: InvalidParameterValue.
    """
    target, manifest, _asked = _choose(node)
    try:
        source.verify(target.store, manifest)
    except errors.Error as exc:
        raise _refusal(exchange.explain(exc)) from None


def start(task) -> exchange.Slice:
    """Begin the restore; the agent is ready.

    :returns: its first slice.
    :raises: InvalidParameterValue, or Error of the core, when the snapshot
        does not do any more.
    """
    node = task.node
    target, manifest, asked = _choose(node)
    # Root device hints choose the disk, as they do for an image: what
    # follows makes that one bootable.
    restoration.begin(node, target, manifest, restoration.Terms(
        verb=history.CLONE, identity=asked.identity, target_serial=None,
        bandwidth_limit=CONF.snapshot.bandwidth_limit,
        io_priority=CONF.snapshot.io_priority),
        node.driver_internal_info.get('deploy_step_index'))
    return restoration.proceed(task)


# Private

def _fields(node: Any) -> dict[str, Any]:
    """What ``instance_info`` says that can only be meant for us."""
    return {name: value for name, value in (node.instance_info or {}).items()
            if name == SNAPSHOT or name.startswith(f'{SNAPSHOT}_')}


def _choose(node: Any) -> tuple[swift.SwiftTarget, Manifest, CloneRequest]:
    asked = parse(node)
    try:
        target = swift.for_node(node)
        target.ensure()
        return target, source.choose(
            target.store, node, asked.snapshot, asked.node), asked
    except errors.Error as exc:
        raise _refusal(exchange.explain(exc)) from None


def _refusal(text: str) -> exception.InvalidParameterValue:
    return exception.InvalidParameterValue(f'instance_info: {text}')
