# SPDX-License-Identifier: Apache-2.0
"""The executor: order, bounds, the first error, and no thread left."""

import threading
import time
import weakref

import hypothesis
import pytest
from hypothesis import strategies

from ipa_snapshot_hardware import executor
from ironic_snapshot_core import errors


class Boom(Exception):
    pass


@pytest.fixture(autouse=True)
def no_thread_left():
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


def make(stop=None, *, workers=2, reads=4, uploads=2):
    return executor.Executor(
        workers=workers,
        reads=reads,
        uploads=uploads,
        stop=stop or executor.Stop(),
    )


@hypothesis.given(
    count=strategies.integers(0, 30),
    workers=strategies.integers(1, 4),
    ahead=strategies.integers(0, 3),
    uploads=strategies.integers(1, 3),
)
@hypothesis.settings(deadline=None, max_examples=50)
def test_results_come_in_order(count, workers, ahead, uploads):
    sent = []
    with make(
        workers=workers, reads=workers + ahead, uploads=uploads
    ) as threads:
        results = []
        for result in threads.map(range(count), lambda item: item * 2):
            results.append(result)
            threads.send(lambda result=result: sent.append(result))
    assert results == [item * 2 for item in range(count)]
    assert sorted(sent) == results


def test_a_late_first_result_holds_the_others_back():
    first = threading.Event()

    def work(item):
        if item == 0:
            assert first.wait(10)
        elif item == 3:
            first.set()
        return item

    with make(workers=2, reads=8) as threads:
        assert list(threads.map(range(8), work)) == list(range(8))


def test_no_more_is_alive_than_reads():
    alive = 0
    most = 0
    lock = threading.Lock()

    def source():
        nonlocal alive, most
        for item in range(50):
            with lock:
                alive += 1
                most = max(most, alive)
            yield item

    with make(workers=2, reads=4) as threads:
        for _ in threads.map(source(), lambda item: item):
            time.sleep(0.001)
            with lock:
                alive -= 1
    assert 2 <= most <= 4


def test_no_more_is_sent_at_a_time_than_uploads():
    running = 0
    most = 0
    lock = threading.Lock()

    def job():
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        time.sleep(0.002)
        with lock:
            running -= 1

    with make(uploads=3) as threads:
        for _ in range(20):
            threads.send(job)
    assert most == 3


def test_send_waits_for_a_place():
    over = threading.Event()
    timer = threading.Timer(0.1, over.set)
    with make(uploads=1) as threads:
        threads.send(lambda: over.wait(10))
        timer.start()
        threads.send(lambda: None)
        assert over.is_set()
    timer.join()


def test_a_sent_job_is_forgotten():
    class Pack:
        pass

    gone = threading.Event()
    pack = Pack()
    with make(uploads=1) as threads:
        weakref.finalize(pack, gone.set)
        threads.send(lambda pack=pack: None)
        del pack
        assert gone.wait(10)


def failing_source(at):
    for item in range(100):
        if item == at:
            raise Boom('source')
        yield item


def failing_work(item):
    if item == 5:
        raise Boom('work')
    return item


def fail_in_source(threads):
    for _ in threads.map(failing_source(5), lambda item: item):
        pass


def fail_in_work(threads):
    for _ in threads.map(range(100), failing_work):
        pass


def fail_in_loop(threads):
    for item in threads.map(range(100), lambda item: item):
        if item == 5:
            raise Boom('loop')


def fail_in_upload(threads):
    def job():
        raise Boom('upload')

    for _ in threads.map(range(100), lambda item: item):
        threads.send(job)


def fail_in_last_upload(threads):
    def job():
        time.sleep(0.05)
        raise Boom('last upload')

    threads.send(job)


@pytest.mark.parametrize(
    'fail',
    [
        fail_in_source,
        fail_in_work,
        fail_in_loop,
        fail_in_upload,
        fail_in_last_upload,
    ],
)
def test_an_error_anywhere_is_raised_once(fail):
    stop = executor.Stop()
    with pytest.raises(Boom):
        with make(stop) as threads:
            fail(threads)
    assert stop.is_set()


def test_the_first_error_wins():
    second = threading.Event()

    def first_job():
        raise Boom('first')

    def second_job():
        assert second.wait(10)
        raise ValueError('second')

    with pytest.raises(Boom, match='first'):
        with make(uploads=2) as threads:
            threads.send(second_job)
            threads.send(first_job)
            while not threads._error:
                time.sleep(0.001)
            second.set()


def test_a_loop_may_be_left_early():
    with make() as threads:
        for item in threads.map(range(1000), lambda item: item):
            if item == 3:
                break


def test_cancel_ends_it_soon():
    stop = executor.Stop()

    def endless():
        item = 0
        while True:
            yield item
            item += 1

    started = time.monotonic()
    with pytest.raises(errors.Cancelled):
        with make(stop) as threads:
            for item in threads.map(endless(), lambda item: item):
                if item == 10:
                    stop.set()
    assert time.monotonic() - started < 5


def test_cancel_from_outside_wakes_who_waits():
    stop = executor.Stop()
    timer = threading.Timer(0.1, stop.set)
    timer.start()
    with pytest.raises(errors.Cancelled):
        with make(stop, uploads=1) as threads:
            clock = executor.StoppableClock(stop)
            threads.send(lambda: clock.sleep(60))
    timer.join()


def test_an_error_wakes_an_uploader_that_sleeps_before_a_retry():
    stop = executor.Stop()
    clock = executor.StoppableClock(stop)
    started = time.monotonic()
    with pytest.raises(Boom, match='work'):
        with make(stop) as threads:
            threads.send(lambda: clock.sleep(60))
            fail_in_work(threads)
    assert time.monotonic() - started < 5


def test_a_stoppable_clock_sleeps():
    clock = executor.StoppableClock(executor.Stop())
    started = clock.monotonic()
    clock.sleep(0.02)
    assert clock.monotonic() - started >= 0.02


def test_it_tells_what_the_loop_has_waited_for():
    def slow(item):
        time.sleep(0.03)
        return item

    with make(workers=1, uploads=1) as threads:
        for _ in threads.map(range(5), slow):
            pass
        assert threads.waits.results >= 0.1
        assert threads.waits.places < 0.1
        for _ in range(4):
            threads.send(lambda: slow(0))
        assert threads.waits.places >= 0.05
