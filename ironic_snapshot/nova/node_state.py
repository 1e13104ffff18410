# SPDX-License-Identifier: Apache-2.0
"""What a node says about its servicing, and about one image made of it.

The words are those of Ironic's API and of the node record that the conductor
side keeps; nothing of Ironic is installed where Nova runs.
"""
import dataclasses
from typing import Any

ACTIVE = 'active'
SERVICE_WAIT = 'service wait'
SERVICE_HOLD = 'service hold'
SERVICE_FAILED = 'service failed'
SERVICED = frozenset(('servicing', SERVICE_WAIT, SERVICE_HOLD))
#: Where "abort" ends it.
ABORTABLE = frozenset((SERVICE_WAIT, SERVICE_HOLD))
#: Where a service step may begin.
READY = frozenset((ACTIVE, SERVICE_FAILED))

#: Fields of a node that this module reads.
FIELDS = ('uuid', 'instance_uuid', 'provision_state', 'power_state',
          'last_error', 'maintenance', 'reservation', 'driver_internal_info')

# Keys of driver_internal_info.
_ATTEMPT = 'snapshot'
_PREPARED = 'service_prepared_for'
_PUBLICATIONS = 'snapshot_publications'
_STEPS = 'service_steps'

_PUBLISHING = frozenset(('importing', 'verifying'))
_PUBLISHED = 'active'
_FAILED = 'failed'
_ENDED = frozenset((_FAILED, 'aborted'))


@dataclasses.dataclass(frozen=True, slots=True)
class NodeState:
    """How far one image of a node is.

    :ivar serviced: the node is on its way to, in, or on its way from the
        ramdisk for this image.
    :ivar publishing: the disk is captured.
    :ivar published: the conductor has seen that the image is active and
        that it is what was captured.
    :ivar failure: why there will be no image; empty while there may be one.
    """

    serviced: bool
    publishing: bool = False
    published: bool = False
    failure: str = ''


def is_serviced(node: Any) -> bool:
    """Whether the node is away from its own system for servicing.

    Also while it boots back after an abort: Ironic calls it active then.

    :param node: of openstacksdk, with the :data:`FIELDS`.
    """
    if node.provision_state in SERVICED:
        return True
    if node.provision_state == SERVICE_FAILED:
        # Whoever boots it back holds its lock. One that is held with half
        # of a snapshot restored stays prepared, and nobody works on it.
        return bool(node.reservation)
    return node.provision_state == ACTIVE and bool(
        _info(node).get(_PREPARED))


def read(node: Any, image: str) -> NodeState:
    """Read how far an image of a node is.

    :param node: of openstacksdk, with the :data:`FIELDS`.
    :param image: its id, as given to the service step.
    """
    serviced = is_serviced(node) and is_about(node, image)
    publication = next((
        each for each in reversed(_info(node).get(_PUBLICATIONS) or ())
        if each.get('image_id') == image), None)
    if publication is not None:
        status = publication.get('status')
        return NodeState(
            serviced,
            publishing=status in _PUBLISHING or status == _PUBLISHED,
            published=status == _PUBLISHED,
            failure=(publication.get('reason') or 'the publication failed'
                     if status == _FAILED else ''))
    if serviced:
        return NodeState(serviced)
    return NodeState(serviced, failure=_explain(node))


def is_about(node: Any, image: str) -> bool:
    """Whether the steps of a node that is serviced make this image.

    They are not in the record yet, a moment after the request, and not any
    more when the node boots back.
    """
    steps = _info(node).get(_STEPS) or ()
    return not steps or any(
        (step.get('args') or {}).get('image_id') == image for step in steps)


def _explain(node: Any) -> str:
    """Why the servicing has ended without an image."""
    attempt = _info(node).get(_ATTEMPT) or {}
    reason = (attempt.get('reason')
              if attempt.get('status') in _ENDED else None)
    if node.provision_state == SERVICE_FAILED:
        # It is the later one: a step that is refused begins no attempt.
        return node.last_error or reason or 'servicing failed'
    return reason or 'servicing ended without an image'


def _info(node: Any) -> dict[str, Any]:
    return node.driver_internal_info or {}
