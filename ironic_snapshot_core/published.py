# SPDX-License-Identifier: Apache-2.0
"""What is remembered, beside the snapshots, of the images made of them.

An image in Glance is either a copy, and needs nothing of the snapshot; or it
is *linked*: Glance reads an object that is joined of links to what the
snapshot has stored. Then whoever prunes must know what it needs, for the
snapshot may be deleted long before the image. A small document says it, the
**record** of the image::

    images/<image>/record        written first: the objects that are needed
    images/<image>/link-000001   a link to each, in the order of the image
    images/<image>/disk.qcow2    the links joined: written last

Glance, when it deletes the image, deletes the joining object and the links
with its own Swift driver: never what they lead to. So as long as
``disk.qcow2`` is there, the image is, and needs what its record names; that
is looked for by name, since a listing may lag behind. What is left when it is
gone is garbage like any other: while it is not there yet, the lease of the
publication keeps it.
"""

import dataclasses
import typing
from collections.abc import Iterable

from ironic_snapshot_core import committed
from ironic_snapshot_core import document
from ironic_snapshot_core import errors
from ironic_snapshot_core import geometry
from ironic_snapshot_core import layout
from ironic_snapshot_core import parallel
from ironic_snapshot_core.manifest import Manifest
from ironic_snapshot_core.store.base import Segment, Store

VERSION = 1

#: Swift deletes a joining object together with its segments only while it
#: has not to remember more than 10 000 of them at a time
#: (swift/common/middleware/slo.py, get_segments_to_delete_iter()).
MAX_LINKS = 9_000


@dataclasses.dataclass(frozen=True, slots=True)
class Record:
    """What is remembered of an image.

    :param image: its id in Glance.
    :param snapshot: id of the snapshot that it was made of.
    :param lineage: of that snapshot.
    :param objects: names of those that the image needs; none for a copy.
    :param size: of the image, in bytes.
    :param hash_algorithm: as Glance names it; empty if it is not known.
    :param hash: of the image, in hex; likewise.
    """

    image: str
    snapshot: str
    lineage: layout.Lineage
    objects: tuple[str, ...]
    size: int
    hash_algorithm: str = ''
    hash: str = ''
    version: int = VERSION

    def __post_init__(self) -> None:
        layout.validate_uuid(self.image)
        layout.validate_uuid(self.snapshot)
        for name in self.objects:
            layout.validate_name(name)
        geometry.between('size', self.size, 1, document.MAX_INTEGER)
        geometry.between('version', self.version, VERSION, VERSION)


class Linker(typing.Protocol):
    """Makes links: :class:`swift_links.SwiftLinks`."""

    def link(self, name: str, target: Segment) -> None:
        """Make an object that reads as another one, in the same container.

        :raises StoreError: it is not certain that it is there.
        """
        ...


def put(store: Store, record: Record, mac_key: bytes | None) -> None:
    """Write it down.

    :raises StoreError: it is not certain that others see it.
    """
    store.put(layout.record_name(record.lineage, record.image),
              document.encode(record, mac_key))


def get(store: Store, lineage: layout.Lineage, image: str,
        mac_key: bytes | None) -> Record:
    """Read it.

    :raises ObjectMissing: there is none.
    :raises Corrupted: it is not what was written.
    """
    name = layout.record_name(lineage, image)
    found = document.decode(
        Record, store.get(name, document.MAX_SIZE), name, mac_key)
    if (found.lineage, found.image) != (lineage, image):
        raise errors.Corrupted(name, 'it is about another image')
    return found


def refuse_unlinkable(manifest: Manifest) -> None:
    """Refuse a snapshot of which Glance could not delete a linked image.

    :raises NotSupported: it is one.
    """
    count = len(committed.image_segments(manifest))
    if count > MAX_LINKS:
        raise errors.NotSupported(
            'link', manifest.image.name, f'it has {count} parts, and Swift '
            f'deletes at most {MAX_LINKS} links with an image; use the '
            'method "import" for it')


def link(store: Store, linker: Linker, manifest: Manifest, image: str,
         mac_key: bytes | None, workers: int, *, hash_algorithm: str = '',
         hash: str = '') -> Segment:
    """Make the object that a linked image reads. Doing it twice is safe.

    Nobody may delete the snapshot meanwhile: the caller holds a lease.

    :param image: its id in Glance.
    :param workers: requests at a time.
    :param hash: of the image, if it is known.
    :returns: the object, as a segment for another one.
    :raises NotSupported: there would be too many links.
    :raises StoreError: it could not be made; what there is of it is garbage.
    """
    refuse_unlinkable(manifest)
    lineage = manifest.lineage
    segments = committed.image_segments(manifest)
    put(store, Record(
        image, manifest.id, lineage,
        tuple(segment.name for segment in segments), manifest.image.size,
        hash_algorithm, hash), mac_key)
    links = [dataclasses.replace(
        segment, name=layout.link_name(lineage, image, number))
        for number, segment in enumerate(segments, 1)]
    parallel.Workers(workers).map(
        lambda pair: linker.link(*pair),
        zip([each.name for each in links], segments, strict=True))
    name = layout.published_name(lineage, image)
    store.join(name, links)
    found = store.stat(name)
    if found.size != manifest.image.size:
        raise errors.Corrupted(
            name, f'it reads as {found.size} bytes instead of '
            f'{manifest.image.size}')
    return Segment(name, found.size, found.etag)


def unlink(store: Store, lineage: layout.Lineage, image: str) -> None:
    """Delete what there is of a linked image, but nothing that it links to.

    :raises StoreError: the store does not answer; what is left is garbage.
    """
    store.delete(layout.published_name(lineage, image))
    _delete(store, (info.name for info in store.list(
        layout.published_prefix(lineage, image))))


def _delete(store: Store, names: Iterable[str]) -> None:
    # The record last: what it names must not be garbage before.
    for name in sorted(names, key=lambda name: name.endswith(layout.RECORD)):
        store.delete(name)
