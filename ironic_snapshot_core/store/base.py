# SPDX-License-Identifier: Apache-2.0
"""What a store of named objects promises. The docstrings are the contract.

Retries, limits and faults are wrappers around a store, and stores
themselves; no store retries on its own.
"""

import abc
import dataclasses
import hashlib
import typing

from ironic_snapshot_core import buffers
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core.units import MiB

PLAIN = 'plain'
IMAGE = 'image'
OTHER = 'other'

#: What is kept in memory at a time when reading a stream.
CHUNK_SIZE = 1 * MiB

Data: typing.TypeAlias = buffers.Data


@dataclasses.dataclass(frozen=True, slots=True)
class ObjectInfo:
    """What a store knows about an object.

    :param size: in bytes; of an image, of all its segments.
    :param etag: tells these bytes from others: what the store's
        :meth:`Store.new_hash` makes of them, in hex; of an image, MD5 of its
        segments' etags one after the other, each with its range if it is
        not a whole object.
    :param kind: :data:`PLAIN`; :data:`IMAGE` for one made by
        :meth:`Store.join`; :data:`OTHER` for anything this project never
        makes, such as a symlink.
    :param expires: the store will delete it by itself.
    """

    name: str
    size: int
    etag: str
    kind: str = PLAIN
    expires: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Segment:
    """A part of an image: a plain object, or a range of one.

    :param size: of the object, in bytes, as it must be in the store.
    :param etag: likewise.
    :param start: of the range that is in the image, in bytes.
    :param length: of the range; None: up to the end.
    """

    name: str
    size: int
    etag: str
    start: int = 0
    length: int | None = None

    @property
    def used(self) -> int:
        """Bytes of it that are in the image."""
        return self.size - self.start if self.length is None else self.length

    @property
    def whole(self) -> bool:
        return self.used == self.size

    @property
    def range(self) -> str:
        """First and last byte, as in HTTP."""
        return f'{self.start}-{self.start + self.used - 1}'


class Store(abc.ABC):
    """Named objects, written whole and read whole or in part.

    Names are what :func:`layout.validate_name` takes; each method raises
    InvalidName for others. All methods may be called from any thread at any
    time. What goes wrong is a StoreError.
    """

    @abc.abstractmethod
    def put(self, name: str, data: Data) -> ObjectInfo:
        """Store an object, replacing what had the name.

        Whole or not at all: nobody ever reads a part of it, or a mix of two.
        The bytes stored have been verified when it returns. Putting the same
        bytes again does no harm. The buffer is not kept: it may be reused at
        once.

        :raises StoreFull: no room.
        :raises ContainerMissing: there is nowhere to put it.
        """

    @abc.abstractmethod
    def get(self, name: str, limit: int) -> bytes:
        """Read a whole object; of an image, its segments' bytes joined.

        :param limit: bytes the caller is ready to take.
        :raises ObjectMissing: there is none of this name.
        :raises ObjectTooLarge: it is larger; nothing was read.
        :raises ObjectMismatch: what came is not what was stored.
        """

    @abc.abstractmethod
    def get_range(self, name: str, offset: int, length: int) -> bytes:
        """Read a part of an object: exactly ``length`` bytes.

        They are not verified: a part has no etag.

        :param length: at least 1.
        :raises InvalidValue: no such range can be.
        :raises ObjectMissing: there is no object of this name.
        :raises ObjectMismatch: the range is not within the object.
        """

    @abc.abstractmethod
    def iter_bytes(self, name: str, chunk_size: int = CHUNK_SIZE
                   ) -> typing.Iterator[bytes]:
        """Read a whole object piece by piece.

        Only after the last piece is it known that all of them were right.

        :param chunk_size: no piece is larger.
        :raises ObjectMissing: there is none of this name; raised by the
            first piece at the latest.
        :raises ObjectMismatch: what came is not what was stored.
        """

    @abc.abstractmethod
    def stat(self, name: str) -> ObjectInfo:
        """Look at an object without reading it.

        :raises ObjectMissing: there is none of this name.
        """

    @abc.abstractmethod
    def list(self, prefix: str) -> typing.Iterator[ObjectInfo]:
        """Give the objects whose names begin so, sorted by name.

        A listing may lag behind, so it proves neither that an object exists
        nor that it does not; :meth:`stat` does. It may not know ``expires``.
        A large image may show up with objects of its own below
        ``<name>.segments/``.

        :param prefix: any beginning of a name, or empty for all.
        """

    @abc.abstractmethod
    def delete(self, name: str) -> None:
        """Delete an object; it does no harm if there is none.

        Of an image only the joining document goes, never its segments.

        :raises ContainerMissing: there is nowhere to delete it from.
        """

    @abc.abstractmethod
    def join(self, name: str, segments: typing.Sequence[Segment]
             ) -> ObjectInfo:
        """Make one object that reads as its segments in order: an image.

        The store itself checks that each segment is there with this size and
        etag. There may be many thousands, and several of one object. Nothing
        is copied: the image lives as long as all its segments.

        :raises InvalidValue: no segments, or one that is empty or reaches
            beyond its object.
        :raises ObjectMissing: a segment is missing.
        :raises ObjectMismatch: a segment is another.
        """

    def new_hash(self) -> buffers.Hash:
        """Give a hash that makes an etag of bytes: MD5, as in Swift.

        It guards against accidents only.
        """
        return new_md5()

    def close(self) -> None:  # noqa: B027
        """Give up connections; the store is not used afterwards."""


# For the stores themselves.

def image_info(name: str, segments: typing.Sequence[Segment]) -> ObjectInfo:
    """Tell what an image of these segments is.

    :raises InvalidValue: there can be none.
    :raises InvalidName: of the image or of a segment.
    """
    layout.validate_name(name)
    if not segments:
        raise errors.InvalidValue('segments', '[]', 'there are none')
    for segment in segments:
        layout.validate_name(segment.name)
        if segment.used < 1:
            raise errors.InvalidValue('segment', segment.name, 'it is empty')
        if segment.start < 0 or segment.start + segment.used > segment.size:
            raise errors.InvalidValue(
                'segment', segment.name,
                f'bytes {segment.range} are not within its {segment.size} '
                'bytes')
    # As Swift does it.
    etags = ''.join(
        segment.etag if segment.whole else f'{segment.etag}:{segment.range};'
        for segment in segments)
    return ObjectInfo(
        name, sum(segment.used for segment in segments),
        md5(etags.encode()), IMAGE)


def check_segment(segment: Segment, found: ObjectInfo) -> None:
    """Compare what a segment should be with what it is.

    :raises ObjectMismatch: they differ.
    """
    if found.kind != PLAIN:
        raise errors.ObjectMismatch(
            'join', segment.name, 'it is no plain object')
    if (found.size, found.etag) != (segment.size, segment.etag):
        raise errors.ObjectMismatch(
            'join', segment.name,
            f'it has size {found.size} and etag {found.etag} instead of '
            f'size {segment.size} and etag {segment.etag}')


def validate_beginning(prefix: str) -> str:
    """Return the prefix if there can be names that begin so.

    :raises InvalidName: there cannot.
    """
    layout.validate_name(prefix + 'x')
    return prefix


def validate_range(offset: int, length: int) -> None:
    """Refuse a range that no object can have.

    :raises InvalidValue: it is one.
    """
    if offset < 0:
        raise errors.InvalidValue('offset', offset, 'it is negative')
    if length < 1:
        raise errors.InvalidValue('length', length, 'it is not positive')


def refuse_large(name: str, size: int, limit: int) -> None:
    """Refuse to read more than the caller is ready to take.

    :raises ObjectTooLarge: it is more.
    """
    if size > limit:
        raise errors.ObjectTooLarge(
            'get', name, f'it has {size} bytes, at most {limit} are allowed')


def refuse_outside(name: str, size: int, offset: int, length: int) -> None:
    """Refuse a range beyond the end.

    :raises ObjectMismatch: it is.
    """
    if offset + length > size:
        raise errors.ObjectMismatch(
            'get_range', name,
            f'bytes {offset}-{offset + length - 1} are not within its '
            f'{size} bytes')


def new_md5() -> buffers.Hash:
    return hashlib.md5(usedforsecurity=False)


def md5(data: Data) -> str:
    """Give the MD5 of some bytes, in hex."""
    return buffers.hexdigest(new_md5(), data)
