# SPDX-License-Identifier: Apache-2.0
"""Priorities of threads, read back from the kernel."""

import logging
import os
import shutil
import subprocess
import threading

import pytest

from ipa_snapshot_hardware import priority
from ironic_snapshot_core import errors

needs_ionice = pytest.mark.skipif(
    shutil.which('ionice') is None, reason='ionice is not installed'
)


def in_thread(work):
    """Run something in a thread of its own, for priorities stick to it."""
    found = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join()
    return found[0]


def niceness():
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def io_class():
    return subprocess.run(
        ['ionice', '-p', str(threading.get_native_id())],
        check=True,
        capture_output=True,
        text=True,
        timeout=10,
    ).stdout.strip()


@pytest.mark.parametrize('io_priority', priority.PRIORITIES)
def test_the_cpu_priority_of_this_thread_alone(io_priority):
    before = niceness()

    def work():
        priority.lower(io_priority)
        return niceness()

    assert in_thread(work) == priority.NICENESS
    assert niceness() == before < priority.NICENESS


def test_a_thread_of_a_lowered_thread_is_not_lowered_further():
    def child():
        priority.lower(priority.NORMAL)
        return niceness()

    def work():
        priority.lower(priority.NORMAL)
        return in_thread(child)

    assert in_thread(work) == priority.NICENESS


@needs_ionice
@pytest.mark.parametrize(
    ('io_priority', 'expected'),
    [
        (priority.NORMAL, 'none: prio 0'),
        (priority.LOW, 'best-effort: prio 7'),
        (priority.IDLE, 'idle'),
    ],
)
def test_the_io_priority(io_priority, expected):
    def work():
        priority.lower(io_priority)
        return io_class()

    assert in_thread(work) == expected


def test_a_refusal_is_no_failure(monkeypatch, caplog):
    monkeypatch.setattr(priority.platform, 'machine', lambda: 'vax')
    priority._log_once.cache_clear()
    with caplog.at_level(logging.DEBUG, priority.LOG.name):
        in_thread(lambda: priority.lower(priority.LOW))
        in_thread(lambda: priority.lower(priority.LOW))
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert 'vax' in record.getMessage()


def test_an_unknown_priority():
    with pytest.raises(errors.InvalidValue):
        priority.lower('urgent')
