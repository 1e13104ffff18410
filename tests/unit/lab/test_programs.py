# SPDX-License-Identifier: Apache-2.0
"""Programs of the real servers: they fail loudly, and leave with us."""
import os
import signal
import socket
import subprocess
import sys

import pytest

from tests.functional.lab import process
from tests.servers import keystone
from tests.servers import programs

COMPLAIN = [sys.executable, '-c', 'import sys; sys.exit("no such thing")']
WAIT = [sys.executable, '-c', 'import time; time.sleep(60)']

START_AND_WAIT = """\
import pathlib, sys
from tests.servers import programs
started = programs.Programs(pathlib.Path(sys.argv[1]))
started.start('server', sys.argv[2:])
print(started.pids['server'], flush=True)
input()
"""


@pytest.fixture
def started(tmp_path):
    found = programs.Programs(tmp_path / 'log')
    yield found
    found.stop()


@pytest.mark.parametrize('wait', (
    lambda started: started.finish('server'),
    lambda started: started.wait_until('server', lambda: False)))
def test_the_end_of_the_log_is_told(started, wait):
    started.start('server', COMPLAIN)
    with pytest.raises(RuntimeError, match='server.*\n.*no such thing'):
        wait(started)


def test_what_has_finished_is_not_missed(started):
    started.start('first', [sys.executable, '-c', ''])
    started.finish('first')
    started.start('second', WAIT)
    started.wait_until('second', lambda: True)
    assert list(started.pids) == ['second']


def test_they_end_with_a_killed_starter(tmp_path):
    starter = subprocess.Popen(
        [sys.executable, '-c', START_AND_WAIT, str(tmp_path), *WAIT],
        cwd=keystone.REPOSITORY, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, text=True)
    with starter:
        server = int(starter.stdout.readline())
        assert not process.has_ended(server)
        os.kill(starter.pid, signal.SIGKILL)
    process.wait_until(lambda: process.has_ended(server), 'its end')


class TestFreePorts:

    def test_none_that_the_kernel_gives_away(self):
        first = int(programs.LOCAL_PORTS.read_text().split()[0])
        ports = programs.free_ports(map(str, range(50)), {})
        assert len(set(ports.values())) == 50
        assert all(programs.FIRST_PORT <= each < first
                   for each in ports.values())

    def test_none_that_is_taken(self, tmp_path, monkeypatch):
        limits = tmp_path / 'limits'
        limits.write_text(f'{programs.FIRST_PORT + 1}\t60999\n')
        monkeypatch.setattr(programs, 'LOCAL_PORTS', limits)
        with socket.socket() as taken:
            taken.bind(('127.0.0.1', programs.FIRST_PORT))
            with pytest.raises(RuntimeError, match='no port'):
                programs.free_ports(['one'], {})
