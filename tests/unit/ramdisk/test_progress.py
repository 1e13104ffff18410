# SPDX-License-Identifier: Apache-2.0
"""Counters."""

import logging

from ipa_snapshot_hardware import progress
from ironic_snapshot_core import clock
from ironic_snapshot_core import units


def test_counts_and_rate():
    now = clock.ManualClock()
    counters = progress.Progress(40 * units.MiB, now)
    counters.add_read(10 * units.MiB, 4 * units.MiB)
    counters.add_pack(units.MiB)
    now.advance(2)
    state = counters.state()
    assert (state.read, state.stored, state.packs) == (
        10 * units.MiB,
        units.MiB,
        1,
    )
    assert state.rate == 5 * units.MiB
    assert str(state) == (
        '25%: 10 of 40 MiB read at 5.0 MiB/s, 1 MiB stored in 1 packs'
    )


def test_no_time_no_rate():
    assert progress.Progress(1, clock.ManualClock()).state().rate == 0


def test_the_log_is_written_once_a_minute(caplog):
    caplog.set_level(logging.INFO)
    now = clock.ManualClock()
    counters = progress.Progress(units.MiB, now)
    for _ in range(120):
        now.advance(1)
        counters.log_sometimes()
    assert len(caplog.records) == 2
