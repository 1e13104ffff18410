# SPDX-License-Identifier: Apache-2.0
"""A store in a directory, for one machine or a shared file system.

An object is a file of the same name. What is not an object has a tilde in
its name, which no object can have::

    v1/.../pack-000001              an object; its etag is in an attribute
    v1/.../disk.qcow2~segments      an image: a list of its segments
    v1/.../~<random>                being written; left by a crash
"""

import contextlib
import errno
import fcntl
import io
import json
import os
import pathlib
import tempfile
import typing

import blake3

from ironic_snapshot_core import buffers
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core.store import base
from ironic_snapshot_core.units import MiB

#: Objects' etags are kept here, so that looking at one needs no reading. A
#: file system without attributes, or a copy that lost them, costs reading.
ETAG_ATTRIBUTE = 'user.ironic_snapshot.etag'

ETAG_BYTES = 16

#: What is at least so large is written past the page cache, if it can be ...
DIRECT_SIZE = 1 * MiB
#: ... in multiples of what every disk takes.
DIRECT_ALIGNMENT = 4096

SEGMENTS_SUFFIX = '~segments'
TEMPORARY_PREFIX = '~'

#: No room, on the disk or in a quota.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: A folder where an object should be, or the other way round.
CLASH = (errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENOTEMPTY)


class DirectoryStore(base.Store):
    """Objects in files.

    Unlike in other stores, one object's name cannot be another's folder.

    :param path: of the directory; it must exist. It is not created on the
        way, as it may be a file system that is not mounted.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)

    def put(self, name: str, data: base.Data) -> base.ObjectInfo:
        info = base.ObjectInfo(name, len(data), _etag(data))
        path = self._path(name)
        with self._errors('put', name):
            self._write(path, data, info.etag)
            # An image of this name comes first until it is gone.
            _unlink(_segments_path(path))
        return info

    def get(self, name: str, limit: int) -> bytes:
        with self._errors('get', name):
            info = self._stat('get', name)
            base.refuse_large(name, info.size, limit)
            found = []
            for segment in self._parts(info):
                self._check(segment, 'get')
                data = self._path(segment.name).read_bytes()
                if _etag(data) != segment.etag:
                    raise _changed('get', segment.name)
                found.append(
                    data[segment.start:segment.start + segment.used])
            return b''.join(found)

    def get_range(self, name: str, offset: int, length: int) -> bytes:
        base.validate_range(offset, length)
        with self._errors('get_range', name):
            info = self._stat('get_range', name, etag=False)
            base.refuse_outside(name, info.size, offset, length)
            found = []
            for segment in self._parts(info):
                start = max(offset, 0)
                end = min(offset + length, segment.used)
                if start < end:
                    if info.kind == base.IMAGE:
                        self._check(segment, 'get_range')
                    found.append(_read_range(
                        self._path(segment.name), segment.start + start,
                        end - start))
                offset -= segment.used
        data = b''.join(found)
        if len(data) != length:
            raise _changed('get_range', name)
        return data

    def iter_bytes(self, name: str, chunk_size: int = base.CHUNK_SIZE
                   ) -> typing.Iterator[bytes]:
        with self._errors('iter_bytes', name):
            info = self._stat('iter_bytes', name)
            for segment in self._parts(info):
                self._check(segment, 'iter_bytes')
                hash = self.new_hash()
                # Only a whole object has an etag, so all of it is read.
                start, end = segment.start, segment.start + segment.used
                with open(self._path(segment.name), 'rb') as f:
                    while chunk := f.read(chunk_size):
                        hash.update(chunk)
                        if wanted := chunk[max(start, 0):max(end, 0)]:
                            yield wanted
                        start, end = start - len(chunk), end - len(chunk)
                if hash.hexdigest() != segment.etag:
                    raise _changed('iter_bytes', segment.name)

    def stat(self, name: str) -> base.ObjectInfo:
        with self._errors('stat', name):
            return self._stat('stat', name)

    def list(self, prefix: str) -> typing.Iterator[base.ObjectInfo]:
        base.validate_beginning(prefix)
        with self._errors('list', prefix):
            names = sorted(set(self._names(prefix)))
        for name in names:
            # It may be gone by now.
            with contextlib.suppress(errors.ObjectMissing):
                yield self.stat(name)

    def delete(self, name: str) -> None:
        path = self._path(name)
        if not self.path.is_dir():
            raise _no_directory('delete', self.path)
        with self._errors('delete', name):
            _unlink(path)
            _unlink(_segments_path(path))
            # Empty folders are litter. Whoever puts into one of them right
            # now makes it again.
            with contextlib.suppress(OSError):
                for parent in path.parents:
                    if parent == self.path:
                        break
                    parent.rmdir()

    def join(self, name: str, segments: typing.Sequence[base.Segment]
             ) -> base.ObjectInfo:
        info = base.image_info(name, segments)
        path = self._path(name)
        with self._errors('join', name):
            for segment in segments:
                self._check(segment, 'join')
            document = json.dumps([
                [each.name, each.size, each.etag, each.start, each.used]
                for each in segments])
            self._write(_segments_path(path), document.encode())
            _unlink(path)
        return info

    def new_hash(self) -> buffers.Hash:
        return _Hash()

    # Private

    def _path(self, name: str) -> pathlib.Path:
        return self.path / layout.validate_name(name)

    def _stat(self, operation: str, name: str, etag: bool = True
              ) -> base.ObjectInfo:
        path = self._path(name)
        segments = self._segments(name)
        if segments is not None:
            try:
                return base.image_info(name, segments)
            except (errors.InvalidValue, errors.InvalidName, TypeError,
                    AttributeError):
                raise _damaged(name) from None
        try:
            with open(path, 'rb') as f:
                size = os.fstat(f.fileno()).st_size
                return base.ObjectInfo(
                    name, size, _etag_of(f) if etag else '')
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
            raise errors.ObjectMissing(
                operation, name, 'it does not exist') from None

    def _segments(self, name: str) -> typing.Sequence[base.Segment] | None:
        """Give the segments of an image, None for anything else."""
        path = _segments_path(self._path(name))
        try:
            found = json.loads(path.read_bytes())
            return [base.Segment(*each) for each in found]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, TypeError):
            raise _damaged(name) from None

    def _parts(self, info: base.ObjectInfo
               ) -> typing.Sequence[base.Segment]:
        """Give the segments of an image; anything else is its only one."""
        segments = self._segments(info.name)
        if segments is None:
            return [base.Segment(info.name, info.size, info.etag)]
        return segments

    def _check(self, segment: base.Segment, operation: str) -> None:
        base.check_segment(segment, self._stat(operation, segment.name))

    def _names(self, prefix: str) -> typing.Iterator[str]:
        """Give the names of all objects that begin so, some twice."""
        if not self.path.is_dir():
            raise _no_directory('list', self.path)
        folder = self.path / prefix.rpartition('/')[0]
        for root, _, files in os.walk(folder):
            for file in files:
                path = pathlib.Path(root, file.removesuffix(SEGMENTS_SUFFIX))
                name = path.relative_to(self.path).as_posix()
                if name.startswith(prefix) and layout.is_name(name):
                    yield name

    def _write(self, path: pathlib.Path, data: base.Data,
               etag: str | None = None) -> None:
        """Write a file that is there whole or not at all."""
        while True:
            # Somebody may just delete the last object of a folder, and the
            # folder.
            with contextlib.suppress(FileNotFoundError):
                self._make_folders(path.parent)
                fd, temporary = tempfile.mkstemp(
                    prefix=TEMPORARY_PREFIX, dir=path.parent)
                break
        try:
            with open(fd, 'wb', buffering=0) as f:
                _write_all(f, data)
                if etag is not None:
                    with contextlib.suppress(OSError):
                        os.setxattr(
                            f.fileno(), ETAG_ATTRIBUTE, etag.encode())
                os.fsync(f.fileno())
            os.replace(temporary, path)
        except BaseException:
            _unlink(pathlib.Path(temporary))
            raise
        _sync_folder(path.parent)

    def _make_folders(self, folder: pathlib.Path) -> None:
        missing = []
        while not folder.is_dir():
            if folder == self.path:
                raise _no_directory('put', self.path)
            missing.append(folder)
            folder = folder.parent
        for folder in reversed(missing):
            folder.mkdir(exist_ok=True)
            _sync_folder(folder.parent)

    @contextlib.contextmanager
    def _errors(self, operation: str, name: str) -> typing.Iterator[None]:
        try:
            yield
        except OSError as e:
            raise _store_error(operation, name, e) from e


def _store_error(operation: str, name: str, e: OSError) -> errors.StoreError:
    reason = e.strerror or type(e).__name__
    if e.errno in FULL:
        return errors.StoreFull(operation, name, reason)
    if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return errors.AccessDenied(operation, name, reason)
    if e.errno == errno.ENOENT:
        return errors.ObjectMissing(operation, name, 'it does not exist')
    if e.errno in CLASH:
        return errors.StoreError(
            operation, name, 'another object is, or is in, a folder of this '
            'name')
    return errors.StoreUnavailable(operation, name, reason)


def _no_directory(operation: str, path: pathlib.Path
                  ) -> errors.ContainerMissing:
    return errors.ContainerMissing(
        operation, str(path), 'the directory does not exist')


def _changed(operation: str, name: str) -> errors.ObjectMismatch:
    return errors.ObjectMismatch(
        operation, name, 'its bytes are not those that were stored')


def _damaged(name: str) -> errors.ObjectMismatch:
    return errors.ObjectMismatch(
        'read', name, 'the list of its segments is damaged')


def _segments_path(path: pathlib.Path) -> pathlib.Path:
    return path.with_name(path.name + SEGMENTS_SUFFIX)


def _unlink(path: pathlib.Path) -> None:
    with contextlib.suppress(FileNotFoundError, IsADirectoryError,
                             NotADirectoryError):
        path.unlink()


def _sync_folder(folder: pathlib.Path) -> None:
    """Make sure that a new name survives a power failure."""
    with contextlib.suppress(FileNotFoundError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class _Hash:
    """BLAKE3, shortened to the length of an MD5 and six times faster."""

    def __init__(self) -> None:
        self._hash = blake3.blake3()
        self.update = self._hash.update

    def hexdigest(self) -> str:
        return self._hash.hexdigest(length=ETAG_BYTES)


def _etag(data: base.Data) -> str:
    return buffers.hexdigest(_Hash(), data)


def _write_all(f: io.FileIO, data: base.Data) -> None:
    """Write to an empty file, past the page cache where that is possible.

    Through it, packs have been seen to take ten times the processor time,
    and what others need is pushed out of it.
    """
    parts = buffers.parts(data)
    if len(data) >= DIRECT_SIZE and not any(
            len(part) % DIRECT_ALIGNMENT for part in parts):
        _set_direct(f, True)
    for part in parts:
        view = memoryview(part)
        while len(view):
            try:
                view = view[f.write(view):]
            except OSError as e:
                # Also when the bytes lie at an odd place in memory.
                if e.errno != errno.EINVAL or not _set_direct(f, False):
                    raise


def _set_direct(f: io.FileIO, direct: bool) -> bool:
    """Have a file written past the page cache, or not.

    :returns: whether this is a change.
    """
    flags = fcntl.fcntl(f, fcntl.F_GETFL)
    wanted = flags | os.O_DIRECT if direct else flags & ~os.O_DIRECT
    try:
        fcntl.fcntl(f, fcntl.F_SETFL, wanted)
    except OSError:
        # This file system cannot.
        return False
    return wanted != flags


def _etag_of(f: typing.BinaryIO) -> str:
    """Give the etag of an open file; its position stays at the start."""
    try:
        return os.getxattr(f.fileno(), ETAG_ATTRIBUTE).decode('ascii')
    except (OSError, UnicodeDecodeError):
        hash = _Hash()
        while chunk := f.read(base.CHUNK_SIZE):
            hash.update(chunk)
        f.seek(0)
        return hash.hexdigest()


def _read_range(path: pathlib.Path, offset: int, length: int) -> bytes:
    with open(path, 'rb') as f:
        f.seek(offset)
        return f.read(length)
