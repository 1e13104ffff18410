# SPDX-License-Identifier: Apache-2.0
"""Counters."""

import json
import logging

import pytest

from ipa_snapshot_hardware import progress
from ironic_snapshot_core import clock
from ironic_snapshot_core import units

MiB = units.MiB


@pytest.fixture
def now():
    return clock.ManualClock()


@pytest.fixture
def counters(now):
    return progress.Progress(now)


def test_nothing_is_known_at_first(counters):
    state = counters.state()
    assert (state.phase, state.percent, state.rate) == ('survey', 0, 0)
    assert state.eta is None


def test_counts_rate_and_time_left(counters, now):
    now.advance(100)
    counters.expect(40 * MiB)
    counters.begin(progress.CLUSTERS)
    counters.add_read(10 * MiB, 4 * MiB)
    counters.add_pack(MiB)
    now.advance(2)
    state = counters.state()
    assert (state.read, state.stored, state.packs) == (10 * MiB, MiB, 1)
    # The survey says nothing about how fast the disk is read.
    assert (state.rate, state.eta) == (5 * MiB, 6)
    assert state.seconds == 102
    assert str(state) == (
        '25%: 10 of 40 MiB read at 5.0 MiB/s, 1 MiB stored in 1 packs'
    )


def test_what_was_read_before_is_no_rate(counters, now):
    counters.expect(40 * MiB)
    counters.resume(20 * MiB, 10 * MiB, 5 * MiB, 3)
    counters.begin(progress.CLUSTERS)
    now.advance(1)
    assert counters.state().eta is None
    counters.add_read(10 * MiB, 0)
    state = counters.state()
    assert (state.percent, state.rate, state.eta) == (75, 10 * MiB, 1)
    assert (state.stored, state.packs) == (5 * MiB, 3)


def test_the_rate_stays_when_all_is_read(counters, now):
    counters.expect(MiB)
    counters.begin(progress.CLUSTERS)
    now.advance(1)
    counters.add_read(MiB, MiB)
    counters.begin(progress.SAMPLE)
    now.advance(100)
    state = counters.state()
    assert (state.percent, state.rate, state.eta) == (100, MiB, 0)


def test_an_empty_disk_is_done_at_once(counters):
    counters.begin(progress.CLUSTERS)
    state = counters.state()
    assert (state.percent, state.eta) == (100, 0)


def test_everything_moves(counters):
    seen = [counters.state().moved]
    for step in (
        lambda: counters.begin(progress.CLUSTERS),
        lambda: counters.add_read(1, 0),
        lambda: counters.add_pack(1),
        lambda: counters.add_moved(1),
    ):
        step()
        seen.append(counters.state().moved)
    assert seen == sorted(set(seen))


def test_the_dict_is_plain_json(counters, now):
    counters.expect(3 * MiB)
    counters.begin(progress.CLUSTERS)
    now.advance(0.7)
    counters.add_read(MiB, MiB)
    found = json.loads(json.dumps(counters.state().to_dict()))
    assert found == {
        'phase': 'clusters',
        'percent': 33,
        'total_bytes': 3 * MiB,
        'read_bytes': MiB,
        'data_bytes': MiB,
        'stored_bytes': 0,
        'packs': 0,
        'rate': int(MiB / 0.7),
        'eta': 1,
        'moved': MiB + 1,
    }


def test_the_log_is_written_once_a_minute(counters, now, caplog):
    caplog.set_level(logging.INFO)
    for _ in range(120):
        now.advance(1)
        counters.log_sometimes()
    assert len(caplog.records) == 2
