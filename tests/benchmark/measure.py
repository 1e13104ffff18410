# SPDX-License-Identifier: Apache-2.0
"""Running programs and measuring what they take.

Each program of a pipeline is run by GNU time, a small process of its own:
the peak that the kernel remembers of a program includes what its parent held
when it was started, and this one holds more than some of the programs do.
"""

import dataclasses
import os
import pathlib
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence

from tests.functional.lab import paths
from tests.functional.lab import process

TIMEOUT_S = 1800.0
ERROR_TAIL_CHARS = 2000

# Programs are installed compiled: ours is not to be compiled in each run.
_ENVIRONMENT = {'LC_ALL': 'C', 'PYTHONDONTWRITEBYTECODE': ''}


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What one run took.

    :param wall: seconds from start to end.
    :param cpu: seconds of all its processes, user and system.
    :param peak: bytes; of the largest process, and for a pipeline the sum
        of those of its programs.
    :param stored: bytes of the files it wrote; None if that says nothing.
    """

    wall: float
    cpu: float
    peak: int
    stored: int | None = None


def run(stages: Sequence[Sequence[str]], *,
        output: pathlib.Path | None = None,
        env: Mapping[str, str] | None = None) -> tuple[Sample, str]:
    """Run a pipeline and wait for its end.

    :param output: file for what the last program prints.
    :returns: what it took, and what it printed if not into a file.
    :raises LabError: a program failed; the message holds the end of what it
        said.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        printed = output or folder / 'printed'
        started = time.monotonic()
        processes = _start(stages, folder, printed, env)
        try:
            for running in processes:
                running.wait(TIMEOUT_S)
            wall = time.monotonic() - started
        finally:
            for running in processes:
                if running.poll() is None:
                    # Not GNU time alone, what it runs as well.
                    os.killpg(running.pid, signal.SIGKILL)
                    running.wait()
        for number, running in enumerate(processes):
            if running.returncode:
                said = (folder / f'errors-{number}').read_text(
                    errors='replace')
                raise process.LabError(
                    f'{" ".join(stages[number])} failed with '
                    f'{running.returncode}:\n{said[-ERROR_TAIL_CHARS:]}')
        taken = [parse((folder / f'taken-{number}').read_text())
                 for number in range(len(stages))]
        text = '' if output else printed.read_text()
    return Sample(round(wall, 3), round(sum(cpu for cpu, _ in taken), 2),
                  sum(peak for _, peak in taken)), text


def parse(taken: str) -> tuple[float, int]:
    """Read what GNU time wrote.

    :returns: seconds of processor, bytes of memory.
    """
    user, system, peak = taken.split()
    return float(user) + float(system), int(peak) * 1024


def processor_seconds(pids: Iterable[int]) -> float:
    """Add up what processes and all their children have taken so far.

    Of a child that has ended, only what its parent has waited for counts.
    """
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for folder in pathlib.Path('/proc').glob('[0-9]*'):
        try:
            # The name, in brackets, may hold anything.
            fields = (folder / 'stat').read_text().rpartition(')')[2].split()
        except OSError:
            continue        # ended meanwhile
        pid = int(folder.name)
        parents[pid] = int(fields[1])
        ticks[pid] = sum(map(int, fields[11:15]))
    wanted = set(pids) & ticks.keys()
    while more := {pid for pid, parent in parents.items()
                   if parent in wanted} - wanted:
        wanted |= more
    return sum(ticks[pid] for pid in wanted) / os.sysconf('SC_CLK_TCK')


def files_size(folder: pathlib.Path) -> int:
    """Add up the lengths of a folder's files, as ``du --apparent-size``."""
    return sum(
        os.lstat(os.path.join(parent, name)).st_size
        for parent, _, names in os.walk(folder) for name in names)


# Private


def _start(stages: Sequence[Sequence[str]], folder: pathlib.Path,
           printed: pathlib.Path, env: Mapping[str, str] | None
           ) -> list[subprocess.Popen[bytes]]:
    processes: list[subprocess.Popen[bytes]] = []
    before = None
    for number, stage in enumerate(stages):
        last = number == len(stages) - 1
        with (open(folder / f'errors-{number}', 'wb') as errors,
              open(printed if last else os.devnull, 'wb') as out):
            processes.append(subprocess.Popen(
                ['time', '--quiet', '--format=%U %S %M',
                 f'--output={folder}/taken-{number}', '--', *stage],
                stdin=before or subprocess.DEVNULL,
                stdout=out if last else subprocess.PIPE, stderr=errors,
                cwd=paths.REPOSITORY, start_new_session=True,
                env={**os.environ, **_ENVIRONMENT, **(env or {})}))
        if before:
            before.close()
        before = processes[-1].stdout
    return processes
