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
    return progress.CaptureProgress(now)


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


class TestRestore:
    @pytest.fixture
    def counters(self, now):
        return progress.RestoreProgress(now)

    def test_nothing_is_known_at_first(self, counters):
        state = counters.state()
        assert (state.phase, state.percent, state.rate) == ('compare', 0, 0)
        assert state.eta is None
        assert not state.touched

    def test_each_phase_counts_its_own(self, counters, now):
        counters.begin(progress.COMPARE)
        counters.expect(100 * MiB)
        now.advance(10)
        counters.add_done(50 * MiB)
        state = counters.state()
        assert (state.percent, state.rate, state.eta) == (50, 5 * MiB, 10)
        counters.touch()
        counters.begin(progress.WRITE)
        counters.expect(10 * MiB)
        now.advance(2)
        counters.add_fetched(MiB)
        counters.add_written(4 * MiB)
        counters.add_done(4 * MiB)
        state = counters.state()
        assert (state.percent, state.rate, state.eta) == (40, 2 * MiB, 3)
        assert (state.fetched, state.written) == (MiB, 4 * MiB)
        assert state.touched
        assert str(state) == (
            'write, 40%: 4 of 10 MiB at 2.0 MiB/s, 1 MiB fetched and '
            '4 MiB written'
        )

    def test_a_phase_with_nothing_to_read_is_done(self, counters):
        counters.begin(progress.FINISH)
        assert counters.state().percent == 100

    def test_the_dict_is_plain_json(self, counters):
        counters.begin(progress.VERIFY)
        counters.add_fetched(3)
        counters.add_written(5)
        found = json.loads(json.dumps(counters.state().to_dict()))
        assert found == {
            'phase': 'verify',
            'percent': 100,
            'total_bytes': 0,
            'read_bytes': 0,
            'fetched_bytes': 3,
            'written_bytes': 5,
            'rate': 0,
            'eta': 0,
            'moved': 9,
        }
