# SPDX-License-Identifier: Apache-2.0
"""Clocks."""

from ironic_snapshot_core import clock


def test_sleeping_moves_a_manual_clock():
    manual = clock.ManualClock(1000)
    manual.sleep(5)
    manual.advance(2)
    assert (manual.time(), manual.monotonic()) == (1007, 7)
    assert manual.slept == [5]


def test_the_system_clock_moves_on():
    system = clock.SystemClock()
    before = system.monotonic()
    system.sleep(0.01)
    assert system.monotonic() >= before + 0.01
    assert system.time() > 1_600_000_000
