# SPDX-License-Identifier: Apache-2.0
"""Things built once: named by a hash of what they are made from.

A build happens in a folder beside its final place and is renamed when
complete, so what has the final name is whole. What an interrupted build left
is removed by the next one; its mounts and processes ended with it, because
every command of a build runs in namespaces of its own (see
:func:`isolated`).
"""

import collections.abc
import fcntl
import hashlib
import os
import pathlib
import shutil
import subprocess

from tests.functional.lab import paths
from tests.functional.lab import process
from tests.functional.lab import report

#: How many builds of one name are kept, so that going back and forth between
#: two branches does not build each time.
KEPT = 3
BUILD_LOG_TAIL_CHARS = 4000


def key(*parts: str | bytes | pathlib.Path) -> str:
    """Hash the inputs of a build: texts, and files or folders by content."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, pathlib.Path):
            part = _tree_digest(part)
        data = part.encode() if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, 'big') + data)
    return digest.hexdigest()[:16]


def _tree_digest(path: pathlib.Path) -> bytes:
    files = [path] if path.is_file() else sorted(
        each for each in path.rglob('*')
        if each.is_file() and '__pycache__' not in each.parts)
    digest = hashlib.sha256()
    for each in files:
        name = os.fsencode(each.relative_to(path.parent))
        digest.update(name + b'\0' + each.read_bytes() + b'\0')
    return digest.digest()


def build_once(name: str, build_key: str,
               build: collections.abc.Callable[[pathlib.Path], None],
               kept: int = KEPT) -> pathlib.Path:
    """Return the folder of a build, making it when it is not there.

    :param build: fills the empty folder it is given.
    :param kept: how many builds of this name are kept, this one included.
    """
    path = paths.cache_dir() / f'{name}-{build_key}'
    with open(paths.cache_dir() / f'.{name}.lock', 'w') as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if path.is_dir():
            os.utime(path)
            return path
        aside = paths.cache_dir() / f'.{name}.building'
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        with report.phase(f'building {name}'):
            build(aside)
        aside.rename(path)
        os.utime(path)
        _forget_old(name, kept)
    return path


def _forget_old(name: str, kept: int) -> None:
    builds = sorted(
        (each for each in paths.cache_dir().glob(f'{name}-*')
         if each.name.rpartition('-')[0] == name),
        key=lambda each: each.stat().st_mtime)
    for old in builds[:-kept]:
        shutil.rmtree(old)


def isolated(command: list[str]) -> list[str]:
    """Return a command that ends, with all it began, when its parent does.

    It has its own mounts and process ids; the kernel clears both away.
    """
    return ['setpriv', '--pdeathsig', 'KILL', 'unshare', '--mount',
            '--propagation', 'private', '--pid', '--fork', '--kill-child',
            '--mount-proc', '--', *command]


def run(command: list[str], *, cwd: pathlib.Path | None = None,
        env: collections.abc.Mapping[str, str] | None = None) -> str:
    """Run a command of a build and return what it printed.

    :raises LabError: it failed; the message holds the end of its output.
    """
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **(env or {})},
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors='replace')
    if done.returncode:
        raise process.LabError(
            f'{" ".join(command[:12])} ... failed with {done.returncode}:\n'
            f'{done.stdout[-BUILD_LOG_TAIL_CHARS:]}')
    return done.stdout
