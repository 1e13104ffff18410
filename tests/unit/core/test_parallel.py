# SPDX-License-Identifier: Apache-2.0
"""Many items, a few at a time."""

import threading
import time

import pytest

from ironic_snapshot_core import parallel
from ipa_snapshot_hardware import executor


@pytest.fixture
def stop():
    return executor.Stop()


def test_all_are_worked_on_and_few_at_a_time(stop):
    lock = threading.Lock()
    done, ahead = [], []

    def items():
        for number in range(100):
            with lock:
                ahead.append(number - len(done))
            yield number

    def work(number):
        with lock:
            done.append(number)

    parallel.Workers(3, stop).map(work, items())
    assert sorted(done) == list(range(100))
    assert max(ahead) <= 8
    assert not stop.is_set()


def test_the_first_error_ends_it(stop):
    """Even while others wait for a store that cannot be reached."""
    clock = executor.StoppableClock(stop)
    begun = []

    def work(number):
        begun.append(number)
        if number == 0:
            raise ZeroDivisionError
        clock.sleep(60)

    began = time.monotonic()
    with pytest.raises(ZeroDivisionError):
        parallel.Workers(2, stop).map(work, range(1000))
    assert time.monotonic() - began < 10
    assert len(begun) < 10


def test_so_does_an_error_of_the_source(stop):
    def items():
        yield 1
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        parallel.Workers(2, stop).map(lambda number: None, items())
    assert stop.is_set()
