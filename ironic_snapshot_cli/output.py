# SPDX-License-Identifier: Apache-2.0
"""A file that is there whole or not at all."""

import contextlib
import os
import stat
import types
import uuid
from collections.abc import Iterator

from ironic_snapshot_core import errors

# A file's name has at most 255 bytes.
_MOST_OF_NAME = 100


class Output:
    """Written beside its place, and moved there at the end.

    A context manager; what is left without :meth:`finish` is deleted.

    :param path: where it is to be.
    :param replace: what is there already.
    :raises OutputFailed: it cannot be, or must not be.
    """

    def __init__(self, path: str, replace: bool) -> None:
        self._path = path
        self._fd = -1
        _check(path, replace)
        folder, name = os.path.split(path)
        self._temporary = os.path.join(
            folder, f'.{name[:_MOST_OF_NAME]}.{uuid.uuid4().hex[:8]}'
        )

    def write(self, data: bytes, offset: int) -> None:
        """Write all of it; any thread may.

        :raises OutputFailed: no room, for example.
        """
        view = memoryview(data)
        with self._errors():
            while view:
                done = os.pwrite(self._fd, view, offset)
                view, offset = view[done:], offset + done

    def resize(self, size: int) -> None:
        """Make it so long, the new part sparse."""
        with self._errors():
            os.ftruncate(self._fd, size)

    def finish(self) -> None:
        """Make sure that it is on the disk, and put it into its place."""
        with self._errors():
            os.fsync(self._fd)
            os.replace(self._temporary, self._path)
            folder = os.open(
                os.path.dirname(self._path) or '.',
                os.O_RDONLY | os.O_DIRECTORY,
            )
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def __enter__(self) -> 'Output':
        with self._errors():
            self._fd = os.open(
                self._temporary,
                os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC,
                0o666,
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: types.TracebackType | None,
    ) -> None:
        os.close(self._fd)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._temporary)

    # Private

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise _failed(self._path, error) from None


def _check(path: str, replace: bool) -> None:
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failed(path, error) from None
    if stat.S_ISBLK(mode):
        raise errors.OutputFailed(
            path,
            'it is a device; export to a file, or restore to the device',
        )
    if not stat.S_ISREG(mode):
        raise errors.OutputFailed(path, 'it is no file')
    if not replace:
        raise errors.OutputFailed(path, 'it exists; --force replaces it')


def _failed(path: str, error: OSError) -> errors.OutputFailed:
    return errors.OutputFailed(path, error.strerror or type(error).__name__)
