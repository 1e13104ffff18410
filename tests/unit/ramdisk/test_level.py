# SPDX-License-Identifier: Apache-2.0
"""The level of compression follows what is waited for."""

import pytest

from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import level
from ironic_snapshot_core import clock


class Capture:
    """A capture that waits for this or that, a share of its time."""

    def __init__(self):
        self.clock = clock.ManualClock()
        self.controller = level.Controller(self.clock)
        self.results = self.places = 0.0

    def go_on(self, seconds, results, places):
        for _ in range(int(seconds)):
            self.clock.advance(1)
            self.results += results
            self.places += places
            found = self.controller.observe(
                executor.Waits(self.results, self.places)
            )
        return found


@pytest.fixture
def capture():
    return Capture()


def test_it_begins_low(capture):
    assert capture.controller.level == 1


def test_a_slow_line_raises_it_step_by_step(capture):
    assert capture.go_on(4, 0.1, 0.8) == 2
    assert capture.go_on(3, 0.1, 0.8) == 2
    assert capture.go_on(5, 0.1, 0.8) == 4
    assert capture.go_on(600, 0.1, 0.8) == 9


def test_busy_workers_lower_it(capture):
    capture.go_on(600, 0.0, 0.9)
    assert capture.go_on(4, 0.9, 0.0) == 8
    assert capture.go_on(600, 0.9, 0.0) == 1


@pytest.mark.parametrize(('results', 'places'), [(0.5, 0.2), (0.1, 0.0)])
def test_balance_leaves_it(capture, results, places):
    capture.go_on(12, 0.0, 0.9)
    before = capture.controller.level
    assert capture.go_on(600, results, places) == before
