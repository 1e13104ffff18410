# SPDX-License-Identifier: Apache-2.0
"""What the node record remembers of publications.

The entry ``snapshot_publications`` in ``driver_internal_info``: the latest
few, the last one last; a few hundred bytes each, and never a secret.
"""
import dataclasses
from typing import Any

KEY = 'snapshot_publications'

#: Nothing is in Glance yet.
WAITING = 'waiting'
#: Glance gets the data.
IMPORTING = 'importing'
#: Glance has the data, and they are compared.
VERIFYING = 'verifying'
#: The image is there, and is what was captured.
ACTIVE = 'active'
FAILED = 'failed'

_OPEN = frozenset((WAITING, IMPORTING, VERIFYING))

#: So many that have ended are remembered.
KEPT = 5

# An error text longer than this is cut.
_REASON_LIMIT = 500

# Of one that has ended.
_LASTING = ('snapshot', 'container', 'generation', 'image_id', 'method',
            'status', 'reason', 'project', 'started_at', 'leftover', 'ours',
            'lease_expires')


@dataclasses.dataclass(frozen=True, slots=True)
class Publication:
    """An image that is made of a committed snapshot.

    :ivar snapshot: id of the snapshot.
    :ivar container: Swift container that it is in; empty where there is no
        Swift.
    :ivar generation: second half of its lineage.
    :ivar image_id: of the image: the user's own, or one that is chosen
        before the image is there.
    :ivar project: to which the image belongs.
    :ivar method: ``import``, ``link`` or ``stream``.
    :ivar ours: the image was not there before.
    :ivar visibility: of an image of ours.
    :ivar base_image: id of the image that the disk was deployed from, or
        empty.
    :ivar status: one of the constants of this module.
    :ivar reason: why it failed; before that, what stands in the way.
    :ivar started_at: ISO 8601, UTC.
    :ivar deadline: seconds since the epoch, when it has failed.
    :ivar lease_expires: of the lease on the snapshot, likewise.
    :ivar asked: Glance was given the way to the data.
    :ivar hash_algorithm: of ``hash``.
    :ivar hash: of what was captured, in hex; empty until it is known.
    :ivar leftover: it has failed, and what there is in Glance or Swift is
        still to be deleted.
    """

    snapshot: str
    container: str
    generation: str
    image_id: str
    project: str
    method: str
    ours: bool = True
    visibility: str = ''
    base_image: str = ''
    status: str = WAITING
    reason: str = ''
    started_at: str = ''
    deadline: int = 0
    lease_expires: int = 0
    asked: bool = False
    hash_algorithm: str = ''
    hash: str = ''
    leftover: bool = False

    @property
    def open(self) -> bool:
        """Whether there is something left to do."""
        return self.status in _OPEN or self.leftover

    def ended(self, status: str, reason: str = '',
              leftover: bool = False) -> 'Publication':
        """The same, with its outcome known."""
        return dataclasses.replace(
            self, status=status, reason=reason[:_REASON_LIMIT],
            leftover=leftover)

    def hindered(self, reason: str) -> 'Publication':
        """The same, with what stands in the way just now."""
        return dataclasses.replace(self, reason=reason[:_REASON_LIMIT])

    def to_dict(self) -> dict[str, Any]:
        """What goes into the node record."""
        fields = dataclasses.asdict(self)
        return {name: value for name, value in fields.items()
                if value not in ('', None, 0, False)
                and (self.status in _OPEN or name in _LASTING)}

    @classmethod
    def from_dict(cls, entry: dict[str, Any]) -> 'Publication':
        """Read it from the node record, also one of a later release."""
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{'container': '', 'ours': False, **{
            name: value for name, value in entry.items() if name in known}})


def load(node: Any) -> list[Publication]:
    """Those that the node record holds, the last one last.

    :param node: anything with ``driver_internal_info``.
    """
    return [Publication.from_dict(entry)
            for entry in node.driver_internal_info.get(KEY) or []]


def find(node: Any, image: str) -> Publication | None:
    """The one of an image, or None."""
    return next((each for each in load(node) if each.image_id == image), None)


def is_open(node: Any) -> bool:
    """Whether one of them is under way.

    :param node: anything with ``driver_internal_info``.
    """
    return any(each.open for each in load(node))


def note(node: Any, publication: Publication) -> None:
    """Put one into the node record; the caller saves that."""
    found = [each for each in load(node)
             if each.image_id != publication.image_id]
    found.append(publication)
    ended = [each for each in found if not each.open]
    forgotten = {each.image_id for each in ended[:-KEPT]}
    node.set_driver_internal_info(KEY, [
        each.to_dict() for each in found
        if each.image_id not in forgotten])
