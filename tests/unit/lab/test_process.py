# SPDX-License-Identifier: Apache-2.0
"""Daemons of the lab: found again, and ended with all they began."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from tests.functional.lab import process

#: Starts a child that ignores SIGTERM, says so, and waits.
PARENT = """\
import signal, subprocess, sys, time
child = subprocess.Popen([sys.executable, '-c',
    'import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); '
    'print("ready", flush=True); time.sleep(600)'])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def daemon(tmp_path):
    daemon = process.Daemon('parent', tmp_path)
    daemon.start([sys.executable, '-c', PARENT],
                 lambda: len(daemon.log_tail().split()) == 2)
    yield daemon
    daemon.stop()


def child_of(daemon):
    # Parent and child write in any order.
    (pid,) = {*daemon.log_tail().split()} - {'ready'}
    return int(pid)


def test_stop_ends_the_children_too(daemon):
    child = child_of(daemon)
    daemon.stop()
    assert daemon.pid is None
    assert process.has_ended(child)
    assert not daemon.pid_path.exists()


def test_another_object_finds_and_ends_it(daemon, tmp_path):
    child = child_of(daemon)
    other = process.Daemon('parent', tmp_path)
    assert other.pid == daemon.pid
    other.stop()
    assert process.has_ended(child)


def test_children_left_by_a_killed_parent_are_ended(daemon):
    child = child_of(daemon)
    os.kill(daemon.pid, signal.SIGKILL)
    process.wait_until(lambda: daemon.pid is None, 'end')
    daemon.stop()
    assert process.has_ended(child)


def test_a_process_that_got_the_same_id_lives(tmp_path):
    other = subprocess.Popen([sys.executable, '-c', 'input()'],
                             stdin=subprocess.PIPE, start_new_session=True)
    daemon = process.Daemon('old', tmp_path)
    daemon.pid_path.parent.mkdir()
    started = process.start_time(other.pid)
    daemon.pid_path.write_text(json.dumps(
        {'pid': other.pid, 'started': started - 1}))
    assert daemon.pid is None
    daemon.stop()
    assert other.poll() is None
    other.communicate(b'\n')


def test_one_that_ends_at_once_tells_why(tmp_path):
    daemon = process.Daemon('short', tmp_path)
    with pytest.raises(process.LabError, match='(?s)ended.*no such luck'):
        daemon.start([sys.executable, '-c', 'exit("no such luck")'],
                     lambda: False)


def test_one_that_is_never_ready_is_ended(tmp_path):
    daemon = process.Daemon('lazy', tmp_path)
    with pytest.raises(process.LabError, match='not ready'):
        daemon.start([sys.executable, '-c', 'import time; time.sleep(600)'],
                     lambda: False, timeout=0.5)
    assert daemon.pid is None


def test_up_is_said_only_when_ready(daemon):
    with pytest.raises(process.LabError, match='up already'):
        daemon.start(['true'])


def test_waiting_has_an_end():
    before = time.monotonic()
    with pytest.raises(process.LabError, match='a miracle'):
        process.wait_until(lambda: False, 'a miracle', 0.3)
    assert time.monotonic() - before < 5
