# SPDX-License-Identifier: Apache-2.0
"""The image of a snapshot, read from what it is made of.

A store that joins objects serves the image as one object, but has no etag
that tells whether its bytes are right. So head and packs are read one by
one, each as the manifest says it must be.
"""

import typing

from ironic_snapshot_core import committed
from ironic_snapshot_core import errors
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import parallel
from ironic_snapshot_core.store import base


class Part(typing.NamedTuple):
    """A pack, or what is in the image of one.

    :param offset: in the image, in bytes.
    """

    offset: int
    segment: base.Segment


def check(store: base.Store, manifest: manifests.Manifest,
          workers: parallel.Workers) -> None:
    """See that all that the image is made of is there.

    The packs are not read: that they are damaged inside is found by
    :func:`read`.

    :raises Corrupted: something is not what was captured.
    :raises StoreError: something cannot be had.
    """
    read_head(store, manifest)
    workers.map(lambda part: _check_segment(store, part.segment),
                parts(manifest))


def read(store: base.Store, manifest: manifests.Manifest
         ) -> typing.Iterator[bytes]:
    """Read the whole image in its order, piece by piece.

    No piece behind the head is larger than :data:`base.CHUNK_SIZE`. What is
    wrong with a pack is known only with its last piece.

    :raises Corrupted: the repository has something else than was captured.
    :raises ObjectMismatch: likewise.
    :raises StoreError: something cannot be had.
    """
    head = read_head(store, manifest)
    yield head
    end = len(head)
    for part in parts(manifest):
        yield from read_segment(store, part.segment)
        end = part.offset + part.segment.used
    if end != manifest.image.size:
        raise errors.Corrupted(
            manifest.image.name,
            f'its parts have {end} bytes instead of {manifest.image.size}')


def parts(manifest: manifests.Manifest) -> list[Part]:
    """Give what the image is made of behind its head, in order."""
    found = []
    offset = manifest.head.size
    for segment in committed.packs(manifest):
        if segment.used:
            found.append(Part(offset, segment))
            offset += segment.used
    return found


def read_head(store: base.Store, manifest: manifests.Manifest) -> bytes:
    """Read the head of the image; it has 8 bytes for each cluster or so.

    :raises Corrupted: it is not what was committed.
    :raises StoreError: it cannot be had.
    """
    head = manifest.head
    return committed.read(store, head.name, head.size, head.digest)


def read_segment(store: base.Store, segment: base.Segment
                 ) -> typing.Iterator[bytes]:
    """Read what is in the image of an object, and verify it.

    Only a whole object has an etag, so all of it is read.

    :raises Corrupted: it is not what was captured.
    :raises ObjectMismatch: likewise; found only after the last piece.
    :raises StoreError: it cannot be had.
    """
    _check_segment(store, segment)
    start, end = segment.start, segment.start + segment.used
    for chunk in store.iter_bytes(segment.name):
        if wanted := chunk[max(start, 0):max(end, 0)]:
            yield wanted
        start, end = start - len(chunk), end - len(chunk)


# Private

def _check_segment(store: base.Store, segment: base.Segment) -> None:
    found = store.stat(segment.name)
    if (found.size, found.etag) != (segment.size, segment.etag):
        raise errors.Corrupted(segment.name, 'it is not what was captured')
