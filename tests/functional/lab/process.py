# SPDX-License-Identifier: Apache-2.0
"""Programs that stay: start, find again, stop, and leave nothing behind.

A lab may outlive the program that brought it up, and that program may be
killed at any time. So every daemon is a session of its own with a file that
holds its process id and start time; whoever comes next can end exactly those
processes, and never another that got the same id.
"""

import collections.abc
import contextlib
import json
import os
import pathlib
import signal
import subprocess
import time

POLL_S = 0.1
START_TIMEOUT_S = 60.0
#: A busy Ironic conductor takes some seconds to let go of its workers.
STOP_TIMEOUT_S = 20.0
#: How much of a daemon's log is shown when it fails to start.
LOG_TAIL_BYTES = 3000

#: Runs a command with some paths replaced by others, for itself only:
#: arguments are pairs of paths, '--', and the command. The process keeps its
#: id all the way, and the kernel undoes the mounts when it ends.
BIND_SCRIPT = """\
set -e
while [ "$1" != -- ]; do mount --bind "$1" "$2"; shift 2; done
shift
exec "$@"
"""


class LabError(Exception):
    """The lab, not what is tested in it, does not work."""


def with_binds(binds: collections.abc.Mapping[pathlib.Path, str],
               command: list[str]) -> list[str]:
    """Return a command that sees other files at some paths.

    :param binds: file or folder of the lab -> path it is to appear at.
    """
    pairs = [str(part) for pair in binds.items() for part in pair]
    return ['unshare', '--mount', '--propagation', 'private', '--', 'sh',
            '-c', BIND_SCRIPT, 'sh', *pairs, '--', *command]


def start_time(pid: int) -> int | None:
    """Return when a process started, in clock ticks since boot.

    :returns: None when there is no such process, or only its remains.
    """
    try:
        stat = pathlib.Path(f'/proc/{pid}/stat').read_text()
    except OSError:
        return None
    fields = stat.rpartition(')')[2].split()
    if fields[0] in 'ZX':
        return None
    return int(fields[19])


def has_ended(pid: int) -> bool:
    """Tell whether there is no such process, or only its remains."""
    return start_time(pid) is None


def session_pids(session: int) -> list[int]:
    """Return the processes alive in a session."""
    found = []
    for entry in os.listdir('/proc'):
        if not entry.isdigit():
            continue
        with contextlib.suppress(OSError):
            if (os.getsid(int(entry)) == session
                    and start_time(int(entry)) is not None):
                found.append(int(entry))
    return found


def wait_until(condition: collections.abc.Callable[[], bool], what: str,
               timeout: float = START_TIMEOUT_S) -> None:
    """Wait for a condition.

    :raises LabError: it did not come in time.
    """
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f'{what}: not within {timeout:.0f} s')
        time.sleep(POLL_S)


class Daemon:
    """A program that runs until it is stopped, perhaps by somebody else.

    :param name: for messages, and for the files below.
    :param state_dir: keeps ``run/<name>.json`` and ``log/<name>.log``.
    """

    def __init__(self, name: str, state_dir: pathlib.Path) -> None:
        self.name = name
        self.pid_path = state_dir / 'run' / f'{name}.json'
        self.log_path = state_dir / 'log' / f'{name}.log'
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None when it does not run."""
        if self._process is not None:
            self._process.poll()    # reap it, so that it can be seen as gone
        try:
            record = json.loads(self.pid_path.read_text())
        except (OSError, ValueError):
            return None
        if start_time(record['pid']) != record['started']:
            return None
        return int(record['pid'])

    def start(self, command: list[str],
              ready: collections.abc.Callable[[], bool] | None = None, *,
              env: collections.abc.Mapping[str, str] | None = None,
              cwd: pathlib.Path | None = None,
              timeout: float = START_TIMEOUT_S) -> None:
        """Start the program and wait until it is of use.

        :param ready: tells whether it is; None when there is no telling.
        :param env: variables on top of this process's own.
        :raises LabError: it ended, or was not ready in time; the message
            holds the end of its log.
        """
        if self.pid is not None:
            raise LabError(f'{self.name} is up already')
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        self.pid_path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log_path, 'ab') as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, cwd=cwd, env={**os.environ,
                                                      **(env or {})})
        self.pid_path.write_text(json.dumps({
            'pid': self._process.pid,
            'started': start_time(self._process.pid)}))
        deadline = time.monotonic() + timeout
        while ready is not None and not ready():
            ended = self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                self.stop()
                raise LabError(
                    f'{self.name} {"ended" if ended else "is not ready"}; '
                    f'its log ends with:\n{self.log_tail()}')
            time.sleep(POLL_S)

    def log_tail(self) -> str:
        """Return the end of what the program wrote."""
        with open(self.log_path, 'rb') as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - LOG_TAIL_BYTES))
            return log.read().decode(errors='replace')

    def stop(self, timeout: float = STOP_TIMEOUT_S) -> None:
        """Ask the program to end, then make it; its children too."""
        pid = self.pid
        session = self._session()
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
            with contextlib.suppress(LabError):
                wait_until(lambda: self.pid is None, self.name, timeout)
        self._kill(session)
        self.pid_path.unlink(missing_ok=True)

    def kill(self) -> None:
        """End the program and its children the hard way, as a crash would."""
        self._kill(self._session())

    def _session(self) -> list[tuple[int, int | None]]:
        """Return the processes in the program's session, with start times.

        A session's id is that of the process that began it, so once that
        one is gone the id could be another's: it is asked only when the
        record still fits or nobody has the id.
        """
        try:
            record = json.loads(self.pid_path.read_text())
        except (OSError, ValueError):
            return []
        leader = start_time(record['pid'])
        if leader not in (None, record['started']):
            return []
        return [(pid, start_time(pid))
                for pid in session_pids(record['pid'])]

    def _kill(self, processes: list[tuple[int, int | None]]) -> None:
        for pid, started in processes:
            if started is not None and start_time(pid) == started:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        if self._process is not None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_S)
        wait_until(
            lambda: all(started is None or start_time(pid) != started
                        for pid, started in processes),
            f'end of {self.name}', STOP_TIMEOUT_S)
