# SPDX-License-Identifier: Apache-2.0
"""Programs that end with the process that started them, whatever ends it."""

import contextlib
import ctypes
import functools
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import typing

#: A cold start takes seconds on two cores; a busy machine needs more.
START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 10.0
POLL_S = 0.05

PR_SET_PDEATHSIG = 1

#: The first and the last port that the kernel gives away by itself.
LOCAL_PORTS = pathlib.Path('/proc/sys/net/ipv4/ip_local_port_range')
#: Below are those of well-known services.
FIRST_PORT = 10000


class Programs:
    """Some programs of one server.

    Start them from a thread that lives as long as they are needed: the
    kernel ties the parent-death signal to the starting *thread*.

    :param log_dir: gets ``<name>.log`` of each; made if it is not there.
    """

    def __init__(self, log_dir: pathlib.Path) -> None:
        self._log_dir = log_dir
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def pids(self) -> dict[str, int]:
        """Process id of each program that was started."""
        return {name: process.pid
                for name, process in self._processes.items()}

    def start(self, name: str, command: list[str], **options: typing.Any
              ) -> None:
        """Start a program.

        :param options: of :class:`subprocess.Popen`, such as ``env``.
        """
        guard = [sys.executable, os.path.abspath(__file__), str(os.getpid())]
        self._log_dir.mkdir(parents=True, exist_ok=True)
        with open(self._log(name), 'ab') as log:
            # A session of its own: on SIGTERM a Swift server signals its
            # whole process group.
            self._processes[name] = subprocess.Popen(
                guard + command, stdin=subprocess.DEVNULL, stdout=log,
                stderr=log, start_new_session=True, **options)

    def wait_until(self, name: str, answers: typing.Callable[[], bool]
                   ) -> None:
        """Wait until a program is of use.

        :raises RuntimeError: one of the programs ended, or this one does not
            answer in time; the message holds the end of its log.
        """
        deadline = time.monotonic() + START_TIMEOUT_S
        while not answers():
            dead = [other for other, process in self._processes.items()
                    if process.poll() is not None]
            if dead or time.monotonic() > deadline:
                self._fail(dead[0] if dead else name,
                           'ended' if dead else 'does not answer')
            time.sleep(POLL_S)

    def wait_listening(self, name: str, port: int) -> None:
        """Wait until a program takes connections on the loopback.

        :raises RuntimeError: as :meth:`wait_until`.
        """
        self.wait_until(name, functools.partial(listens, port))

    def finish(self, name: str) -> None:
        """Wait for the end of a program that does one thing.

        :raises RuntimeError: it failed, or did not end in time; the message
            holds the end of its log.
        """
        process = self._processes[name]
        try:
            status = process.wait(START_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._fail(name, 'does not end')
        if status:
            self._fail(name, f'failed with status {status}')
        del self._processes[name]

    def stop(self) -> None:
        """Stop every program that was started, the last one first."""
        for process in reversed(self._processes.values()):
            process.terminate()
        deadline = time.monotonic() + STOP_TIMEOUT_S
        for process in reversed(self._processes.values()):
            try:
                process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._processes.clear()

    def _log(self, name: str) -> pathlib.Path:
        return self._log_dir / f'{name}.log'

    def _fail(self, name: str, what: str) -> typing.NoReturn:
        end = self._log(name).read_text(errors='replace')[-2000:]
        raise RuntimeError(f'{name} {what}:\n{end}')


def listens(port: int) -> bool:
    """Tell whether something listens on a port of the loopback."""
    try:
        socket.create_connection(('127.0.0.1', port), 1).close()
    except OSError:
        return False
    return True


def free_ports(names: typing.Iterable[str],
               fixed: typing.Mapping[str, int]) -> dict[str, int]:
    """Give each name a port: the fixed one, or one that is free now.

    None that the kernel gives to connections, or to whoever asks for any
    port: a machine listens to its own only when it is switched on.

    :raises RuntimeError: there are not so many.
    """
    end = int(LOCAL_PORTS.read_text().split()[0])
    candidates = random.sample(range(FIRST_PORT, end), end - FIRST_PORT)
    ports = {}
    with contextlib.ExitStack() as stack:
        for name in names:
            if name in fixed:
                ports[name] = fixed[name]
                continue
            # Held until all are known, so that no port is given twice.
            held = stack.enter_context(socket.socket())
            ports[name] = _bind(held, candidates)
    return ports


def find_program(name: str) -> str:
    """Find a program beside this Python, then on the path."""
    beside = os.path.join(os.path.dirname(sys.executable), name)
    found = beside if os.access(beside, os.X_OK) else shutil.which(name)
    if not found:
        raise RuntimeError(f'{name} is not installed')
    return found


def run_guarded(parent: int, command: list[str]) -> None:
    """Become the command, and be killed when the parent dies.

    Done here rather than between fork and exec in the parent, which has
    threads.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), 'prctl')
    if os.getppid() != parent:
        sys.exit('the parent is gone already')
    os.execv(command[0], command)


# Private

def _bind(held: socket.socket, candidates: list[int]) -> int:
    while candidates:
        port = candidates.pop()
        with contextlib.suppress(OSError):
            held.bind(('127.0.0.1', port))
            return port
    raise RuntimeError('no port of the loopback is free')


if __name__ == '__main__':
    run_guarded(int(sys.argv[1]), sys.argv[2:])
