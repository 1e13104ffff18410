# SPDX-License-Identifier: Apache-2.0
import threading

import pytest

from ironic_snapshot import background


def test_asked_until_it_is_done():
    works = background.Works()
    go = threading.Event()

    def work(stop):
        assert go.wait(10)
        return 'done'
    assert works.ask('a', 1, work) is None
    assert works.ask('a', 1, work) is None
    go.set()
    works.wait(10)
    assert works.ask('a', 1, work) == 'done'


def test_no_more_than_so_many_at_a_time():
    works = background.Works()
    go = threading.Event()
    begun = []

    def work(stop):
        begun.append(1)
        assert go.wait(10)
        return len(begun)
    for key in 'abc':
        assert works.ask(key, 2, work) is None
    go.set()
    works.wait(10)
    assert len(begun) == 2
    # What waits to be fetched is no work any more.
    assert works.ask('c', 2, work) is None
    works.wait(10)
    assert works.ask('c', 2, work) == 3


def test_error_is_told_once():
    works = background.Works()

    def work(stop):
        raise ValueError('no')
    for _ in range(2):
        assert works.ask('a', 1, work) is None
        works.wait(10)
        with pytest.raises(ValueError, match='no'):
            works.ask('a', 1, work)


def test_what_nobody_wants_is_stopped():
    works = background.Works()
    stopped = threading.Event()

    def work(stop):
        assert stop.wait(10)
        stopped.set()
    works.ask('a', 1, work)
    works.forget('a')
    assert stopped.wait(10)
    works.forget('a')
