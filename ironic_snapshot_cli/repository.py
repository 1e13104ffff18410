# SPDX-License-Identifier: Apache-2.0
"""Where snapshots are kept: a directory, a Swift container, or nowhere."""

import os
import pathlib

from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import directory
from ironic_snapshot_core.store import limit
from ironic_snapshot_cli import null_store

SWIFT = 'swift:'
NULL = 'null:'

# A repository is read by so many at a time at most; each keeps a few MiB.
_MOST_THREADS = 8


def reading_threads() -> int:
    """Tell how many threads had best read from a repository."""
    return min(_MOST_THREADS, 2 * len(os.sched_getaffinity(0)))


def open_to_read(name: str, clock: clocks.Clock, threads: int) -> base.Store:
    """Open a repository that exists.

    :param name: as on the command line.
    :param threads: that use it at a time.
    :raises RepositoryUnsuitable: it is none.
    :raises CredentialsMissing: of Swift.
    """
    if name.startswith(SWIFT):
        return _open_swift(name, clock, threads, create=False, bandwidth=0)
    if name == NULL:
        raise errors.RepositoryUnsuitable(
            name, 'it keeps nothing; it is there to measure captures with'
        )
    if not os.path.isdir(name):
        raise errors.RepositoryUnsuitable(name, 'there is no such directory')
    _check_directory(name)
    return directory.DirectoryStore(name)


def open_to_write(
    name: str, clock: clocks.Clock, threads: int, bandwidth: int
) -> base.Store:
    """Open a repository, and make it if it is missing.

    :param bandwidth: bytes to send per second at most; 0: no limit.
    :raises RepositoryUnsuitable: it cannot be one.
    :raises CredentialsMissing: of Swift.
    """
    if name.startswith(SWIFT):
        # Limited within each object as well, on the wire.
        return _open_swift(name, clock, threads, True, bandwidth)
    store = (
        null_store.NullStore() if name == NULL else _open_or_make(name)
    )
    if bandwidth:
        return limit.LimitedStore(store, bandwidth, clock)
    return store


def read_manifest_key(path: str | None) -> bytes | None:
    """Read the key that proves which conductor has committed snapshots.

    :param path: of a file; None: there is no key.
    """
    return pathlib.Path(path).read_bytes().strip() if path else None


# Private


def _open_or_make(name: str) -> base.Store:
    try:
        # Not its parents: perhaps nothing is mounted there.
        os.mkdir(name)
    except FileExistsError:
        _check_directory(name)
    except OSError as error:
        raise _unsuitable(name, error) from None
    return directory.DirectoryStore(name)


def _check_directory(name: str) -> None:
    """Refuse to mix snapshots with anything else."""
    try:
        found = os.listdir(name)
    except OSError as error:
        raise _unsuitable(name, error) from None
    if found and layout.VERSION not in found:
        raise errors.RepositoryUnsuitable(
            name,
            'the directory is not empty and holds no repository, which would '
            f'have a folder {layout.VERSION}',
        )


def _unsuitable(name: str, error: OSError) -> errors.RepositoryUnsuitable:
    reason = error.strerror or type(error).__name__
    return errors.RepositoryUnsuitable(
        name, f'{reason[:1].lower()}{reason[1:]}'
    )


def _open_swift(
    name: str,
    clock: clocks.Clock,
    threads: int,
    create: bool,
    bandwidth: int,
) -> base.Store:
    # Needs packages that a repository in a directory does not.
    from ironic_snapshot_cli import swift_repository

    return swift_repository.open_container(
        name.removeprefix(SWIFT), clock, threads, create, bandwidth
    )
