# SPDX-License-Identifier: Apache-2.0
"""Deploying a node from a snapshot: what the user asks for, and its check.

``instance_info`` names the snapshot instead of an image; or it names an image
that was made of one. What the deploy step ``restore`` does then is a restore
like any other, see :mod:`ironic_snapshot.restoration`; this is how it is
begun.

An image is only then taken for its snapshot when our own record of it says
so, and Glance still has the bytes that we have compared: anybody may set the
properties of an image. In any other case it is deployed as images are.
"""
import dataclasses
import re
from typing import Any

from ironic.common import exception
from oslo_log import log

from ironic_snapshot import exchange
from ironic_snapshot import restoration
from ironic_snapshot import restore_arguments
from ironic_snapshot import source
from ironic_snapshot import step_schema
from ironic_snapshot.targets import glance
from ironic_snapshot.targets import swift
from ironic_snapshot.conf import CONF
from ironic_snapshot_core import errors
from ironic_snapshot_core import history
from ironic_snapshot_core import image_properties
from ironic_snapshot_core import layout
from ironic_snapshot_core import published
from ironic_snapshot_core import redact
from ironic_snapshot_core.manifest import Manifest

LOG = log.getLogger(__name__)

#: Field of ``instance_info`` with the id or the name of a snapshot.
SNAPSHOT = 'snapshot'
#: With the UUID of the node that a name belongs to.
NODE = 'snapshot_node'
#: With what becomes of the identity: ``reset`` or ``keep``.
IDENTITY = 'snapshot_identity'

_FIELDS = (SNAPSHOT, NODE, IDENTITY)

# Entry of ``driver_internal_info``: the image and its snapshot, once it is
# known that the one is the other.
_IMAGE = 'snapshot_image'
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


def find_image(node: Any) -> None:
    """See whether the image to deploy is a snapshot, and take that then.

    The node record is changed and not saved.
    """
    node.del_driver_internal_info(_IMAGE)
    image = (node.instance_info or {}).get('image_source')
    if _fields(node) or not isinstance(image, str) or not _UUID.fullmatch(
            image):
        return
    try:
        snapshot = _snapshot_of(node, image)
    except Exception as exc:
        # The image itself is there to be deployed.
        LOG.info('Image %(image)s is deployed to node %(node)s as any other: '
                 '%(why)s', {'image': image, 'node': node.uuid,
                             'why': redact.redact(exchange.explain(exc))})
        return
    if snapshot:
        LOG.info('Image %(image)s is deployed to node %(node)s from snapshot '
                 '%(snapshot)s, of which it was made',
                 {'image': image, 'node': node.uuid, 'snapshot': snapshot})
        node.set_driver_internal_info(
            _IMAGE, {'image': image, 'snapshot': snapshot})


def forget_image(node: Any) -> None:
    """The deployment is over; the caller saves that."""
    node.del_driver_internal_info(_IMAGE)


def parse(node: Any) -> CloneRequest:
    """Check what ``instance_info`` says of the snapshot.

    :raises: InvalidParameterValue naming the field that is wrong.
    """
    fields = _fields(node)
    unknown = sorted(set(fields) - set(_FIELDS))
    if unknown:
        raise _refusal(f'unknown field {ascii(unknown[0])[:60]} (known: '
                       f'{", ".join(_FIELDS)})')
    if _asked(node) and node.instance_info.get('image_source'):
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
    """What is asked of us, by ``instance_info`` or by way of an image."""
    asked = _asked(node)
    if asked:
        return asked
    found = node.driver_internal_info.get(_IMAGE) or {}
    if found and found['image'] == (node.instance_info or {}).get(
            'image_source'):
        # As whoever deploys an image expects.
        return {SNAPSHOT: found['snapshot'], IDENTITY: restore_arguments.KEEP}
    return {}


def _snapshot_of(node: Any, image: str) -> str | None:
    """The snapshot that an image was made of and still is.

    :returns: None if it was made of none.
    :raises: Error of the core when that is not certain.
    """
    found = glance.GlanceTarget().get(image)
    snapshot = image_properties.snapshot_of(found)
    lineage = str(found.get(image_properties.LINEAGE)).split('/')
    if not snapshot or len(lineage) != 2:
        return None
    target = swift.for_node(node)
    key = CONF.snapshot.manifest_key.encode()
    record = published.get(
        target.store, layout.Lineage(*lineage), image, key)
    if not record.hash or (
            (record.snapshot, record.size, record.hash_algorithm,
             record.hash) != (snapshot, found['size'], found['os_hash_algo'],
                              found['os_hash_value'])):
        raise errors.SnapshotUnsuitable(
            snapshot, 'the image is another than was made of it')
    source.verify(target.store, source.choose(target.store, node, snapshot))
    return snapshot


def _asked(node: Any) -> dict[str, Any]:
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
