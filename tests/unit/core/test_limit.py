# SPDX-License-Identifier: Apache-2.0
"""No more bytes in a second than allowed, in time that does not pass."""

import threading

import pytest

from ironic_snapshot_core import clock
from ironic_snapshot_core import errors
from ironic_snapshot_core.store import limit
from ironic_snapshot_core.store import memory
from ironic_snapshot_core.store import swift_http

KiB = 1024
MiB = 1024 * KiB


def test_the_average():
    now = clock.ManualClock()
    rate = limit.RateLimit(MiB, now)
    for _ in range(160):
        rate.take(64 * KiB)
    assert now.monotonic() == pytest.approx(10, abs=0.1)


def test_no_second_has_more_than_its_share():
    now = clock.ManualClock()
    rate = limit.RateLimit(10 * MiB, now)
    sent = []
    for number in range(400):
        # Sending takes time as well, and once the sender was held up.
        now.advance(0.001 if number != 200 else 3)
        rate.take(64 * KiB)
        sent.append(now.monotonic())
    for first in sent:
        within = sum(first <= each < first + 1 for each in sent) * 64 * KiB
        assert within <= 10 * MiB * 1.255 + 64 * KiB
    # Nor much less: what it takes to send is no extra.
    assert sent[199] <= 200 * 64 * KiB / (10 * MiB) + 0.01


def test_what_was_not_used_is_not_saved_up():
    now = clock.ManualClock()
    rate = limit.RateLimit(MiB, now)
    rate.take(MiB)
    now.advance(3600)
    before = now.monotonic()
    for _ in range(16):
        rate.take(64 * KiB)
    assert now.monotonic() - before >= 0.65


def test_no_sleep_is_too_short_to_be_worth_it():
    now = clock.ManualClock()
    rate = limit.RateLimit(1024 * MiB, now)
    for _ in range(16 * 1024):
        rate.take(64 * KiB)
    assert min(now.slept) >= 0.005
    assert now.monotonic() == pytest.approx(1, abs=0.02)


def test_threads_share_it():
    rate = limit.RateLimit(4 * MiB)
    began = clock.SystemClock().monotonic()

    def send():
        for _ in range(8):
            rate.take(64 * KiB)

    threads = [threading.Thread(target=send) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # 2 MiB; the first piece is free, and the credit.
    assert clock.SystemClock().monotonic() - began >= 0.23


def test_a_store_waits_before_each_object():
    now = clock.ManualClock()
    inner = memory.MemoryStore()
    store = limit.LimitedStore(inner, MiB, now)
    for name in 'abc':
        assert store.put(name, bytes(MiB)).size == MiB
    assert now.slept == [pytest.approx(1), pytest.approx(1)]
    assert store.get('a', MiB) == inner.get('a', MiB) == bytes(MiB)


def test_a_body_is_paced_piece_by_piece():
    data = bytes(range(256)) * 1000
    asked = []
    body = swift_http.Body(data, asked.append)
    assert b''.join(body) == data
    assert sum(asked) == len(body)
    assert max(asked) == swift_http.SEND_SIZE


def test_a_clock_that_gives_up_ends_it():
    class Ended(clock.ManualClock):
        def sleep(self, seconds):
            raise errors.Cancelled

    rate = limit.RateLimit(1, Ended())
    rate.take(1)
    with pytest.raises(errors.Cancelled):
        rate.take(1)
