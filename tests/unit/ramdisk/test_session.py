# SPDX-License-Identifier: Apache-2.0
"""Work in the background: who waits, who stops, who is told what."""

import dataclasses
import gc
import logging
import threading
import weakref

import pytest

from ipa_snapshot_hardware import capture
from ipa_snapshot_hardware import priority
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware import restore_request
from ipa_snapshot_hardware import session
from ironic_snapshot_core import clock
from ironic_snapshot_core import errors
from tests.contract import capture_requests as requests
from tests.unit.ramdisk import test_priority

SOON = 10.0
OTHER = '44444444-4444-4444-8444-444444444444'
OPERATION = '55555555-5555-4555-8555-555555555555'
# Nobody here looks into it.
CAPTURED = capture.Captured(None, None, None)


class Work:
    """A capture that ends when it is told to."""

    def __init__(self, outcome=CAPTURED):
        self.outcome = outcome
        self.runs = []
        self.began = threading.Event()
        self.go_on = threading.Event()

    def __call__(self, means):
        self.runs.append(means)
        self.began.set()
        while not self.go_on.wait(0.01):
            means.stop.check()
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome

    def ended(self, outcome=CAPTURED):
        self.outcome = outcome
        self.go_on.set()
        return self


@pytest.fixture
def sessions():
    yield session.Sessions()
    requests.join_captures(SOON)
    assert requests.capture_threads() == []


@pytest.fixture
def work():
    found = Work()
    yield found
    found.go_on.set()


def attend(sessions, work, **changes):
    return sessions.attend(requests.wanted(**changes), requests.mint(), work)


def attend_restore(sessions, work, **changes):
    wanted = restore_request.RestoreRequest(
        snapshot=requests.SNAPSHOT,
        lineage=requests.LINEAGE,
        size=1000,
        digest='ab' * 32,
        operation=OPERATION,
        verb='rollback',
        identity='keep',
    )
    wanted = dataclasses.replace(wanted, **changes)
    return sessions.attend(wanted, requests.mint(), work)


def begin_other(sessions, work):
    wanted = dataclasses.replace(requests.wanted(), snapshot=OTHER)
    return sessions.attend(wanted, requests.mint(), work)


def test_a_slice_ends_and_the_capture_goes_on(sessions, work):
    live = attend(sessions, work)
    found = live.wait(0.05)
    assert isinstance(found, progress.State)
    work.runs[0].counters.add_read(5, 5)
    assert live.wait(0).read == 5
    again = attend(sessions, work)
    assert again is live
    work.go_on.set()
    assert again.wait(SOON) is CAPTURED
    assert len(work.runs) == 1


def test_it_does_not_wait_longer_than_it_takes(sessions):
    began = clock.SystemClock().monotonic()
    assert attend(sessions, Work().ended()).wait(60) is CAPTURED
    assert clock.SystemClock().monotonic() - began < 5


def test_the_outcome_is_given_as_often_as_it_is_asked_for(sessions):
    work = Work().ended()
    for _ in range(3):
        assert attend(sessions, work).wait(SOON) is CAPTURED
    assert len(work.runs) == 1


def test_after_an_error_that_was_told_it_begins_again(sessions):
    work = Work().ended(errors.DiskChanged('/dev/sda', 'it was written to'))
    with pytest.raises(errors.DiskChanged):
        attend(sessions, work).wait(SOON)
    work.ended()
    assert attend(sessions, work).wait(SOON) is CAPTURED
    assert len(work.runs) == 2


def test_an_error_between_slices_is_told_first(sessions, work):
    live = attend(sessions, work)
    live.wait(0)
    work.ended(errors.DiskChanged('/dev/sda', 'it was written to'))
    requests.join_captures(SOON)
    with pytest.raises(errors.DiskChanged):
        attend(sessions, work).wait(0)
    assert len(work.runs) == 1


def test_another_snapshot_ends_the_first(sessions, work):
    attend(sessions, work).wait(0)
    assert work.began.wait(SOON)
    second = Work().ended()
    assert begin_other(sessions, second).wait(SOON) is CAPTURED
    assert work.runs[0].stop.is_set()
    assert [each.name for each in requests.capture_threads()] == []


@pytest.mark.parametrize(
    ('begin', 'error'),
    [
        (attend, errors.CaptureRunning),
        (attend_restore, errors.RestoreRunning),
    ],
)
def test_one_that_does_not_end_is_an_error(
    sessions, monkeypatch, begin, error
):
    monkeypatch.setattr(session, 'STOP_TIMEOUT_S', 0.05)
    stuck = threading.Event()

    def work(means):
        stuck.wait(SOON)
        return CAPTURED

    begin(sessions, work)
    second = Work().ended()
    with pytest.raises(error) as caught:
        begin_other(sessions, second)
    assert requests.SNAPSHOT in str(caught.value)
    assert second.runs == []
    stuck.set()
    requests.join_captures(SOON)
    assert begin_other(sessions, second).wait(SOON) is CAPTURED


@pytest.mark.parametrize(
    'changes',
    [
        {'cluster_size': 128 * 1024},
        {'codec_level': 2},
        {'codec': 'zlib'},
        {'all_blocks': True},
        {'name': 'other'},
    ],
)
@pytest.mark.parametrize('ended', [False, True])
def test_the_same_snapshot_asked_for_otherwise(
    sessions, work, changes, ended
):
    live = attend(sessions, work)
    if ended:
        work.go_on.set()
        live.wait(SOON)
    with pytest.raises(errors.InvalidValue) as caught:
        attend(sessions, work, **changes)
    assert 'ask for another one' in str(caught.value)
    # The first is none the worse for it.
    work.go_on.set()
    assert attend(sessions, work, slice_seconds=9).wait(SOON) is CAPTURED


def test_a_capture_and_a_restore_of_the_same_snapshot(sessions, work):
    """Neither is taken for the other."""
    attend(sessions, work)
    assert work.began.wait(SOON)
    second = Work().ended('restored')
    assert attend_restore(sessions, second).wait(SOON) == 'restored'
    assert work.runs[0].stop.is_set()
    assert attend(sessions, Work().ended()).wait(SOON) is CAPTURED


def test_a_restore_that_only_reads_makes_room(sessions, work):
    attend_restore(sessions, work)
    assert work.began.wait(SOON)
    assert attend(sessions, Work().ended()).wait(SOON) is CAPTURED
    assert work.runs[0].stop.is_set()


def test_a_restore_that_writes_makes_no_room_for_a_capture(sessions, work):
    live = attend_restore(sessions, work)
    assert work.began.wait(SOON)
    work.runs[0].counters.touch()
    second = Work().ended()
    with pytest.raises(errors.RestoreRunning, match='is writing'):
        attend(sessions, second)
    assert second.runs == []
    assert live.wait(0).touched is True
    assert not work.runs[0].stop.is_set()
    # Once it has ended there is nothing to be said against it.
    work.ended(errors.RestoreInterrupted('/dev/sda', 'it was cancelled'))
    with pytest.raises(errors.RestoreInterrupted):
        live.wait(SOON)
    assert attend(sessions, second).wait(SOON) is CAPTURED


def test_a_restore_that_writes_makes_room_for_another(sessions, work):
    """Which goes on from what is on the disk."""
    attend_restore(sessions, work)
    assert work.began.wait(SOON)
    work.runs[0].counters.touch()
    second = Work().ended('restored')
    found = attend_restore(sessions, second, operation=OTHER)
    assert found.wait(SOON) == 'restored'
    assert work.runs[0].stop.is_set()


@pytest.mark.parametrize(
    'changes',
    [
        {'snapshot': OTHER},
        {'verb': 'clone'},
        {'identity': 'reset'},
        {'target_serial': 'another'},
        {'digest': 'cd' * 32},
    ],
)
def test_the_same_restore_asked_for_otherwise(sessions, work, changes):
    attend_restore(sessions, work)
    (name,) = changes
    with pytest.raises(errors.InvalidValue, match=f'{name}.*another one'):
        attend_restore(sessions, work, **changes)
    work.ended('restored')
    live = attend_restore(sessions, work, slice_seconds=9)
    assert live.wait(SOON) == 'restored'
    assert len(work.runs) == 1


def test_the_grant_is_renewed(sessions, work):
    live = attend(sessions, work)
    assert work.began.wait(SOON)
    fresh = requests.mint(lifetime_s=9999)
    sessions.attend(requests.wanted(), fresh, work)
    assert work.runs[0].auth.grant is fresh
    with pytest.raises(errors.InvalidValue):
        sessions.attend(
            requests.wanted(), requests.mint('http://h/v1/a/other'), work
        )
    work.go_on.set()
    assert live.wait(SOON) is CAPTURED


def test_a_slice_ends_early_when_a_grant_is_needed(sessions, work):
    live = attend(sessions, work)
    assert work.began.wait(SOON)
    timer = threading.Timer(0.1, work.runs[0].ask)
    timer.start()
    began = clock.SystemClock().monotonic()
    assert isinstance(live.wait(60), progress.State)
    assert isinstance(live.wait(60), progress.State)
    assert clock.SystemClock().monotonic() - began < 5
    timer.join()
    # With the grant there, it waits again.
    live = attend(sessions, work)
    began = clock.SystemClock().monotonic()
    live.wait(0.2)
    assert clock.SystemClock().monotonic() - began >= 0.2


def test_it_stands_back(sessions):
    found = []

    def work(means):
        found.append(test_priority.niceness())
        return CAPTURED

    attend(sessions, work).wait(SOON)
    assert found == [priority.NICENESS]


class Buffer:
    """Something large."""


def test_an_error_keeps_no_buffer_alive(sessions, monkeypatch):
    # A handler may keep what it is given.
    monkeypatch.setattr(session.LOG, 'disabled', True)
    kept = []

    def work(means):
        buffer = Buffer()
        kept.append(weakref.ref(buffer))
        try:
            raise ValueError
        except ValueError as error:
            raise RuntimeError('who knows') from error

    live = attend(sessions, work)
    with pytest.raises(RuntimeError, match='who knows'):
        live.wait(SOON)
    gc.collect()
    assert kept[0]() is None


def interrupted_by(cause):
    error = errors.RestoreInterrupted('/dev/sda', 'who knows')
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ('error', 'shown'),
    [
        (RuntimeError('who knows'), True),
        (interrupted_by(RuntimeError()), True),
        (interrupted_by(errors.Cancelled()), False),
        (errors.Corrupted('it', 'who knows'), False),
    ],
    ids=repr,
)
def test_where_a_surprise_came_from_is_in_the_log(
    sessions, caplog, error, shown
):
    with caplog.at_level(logging.WARNING, session.LOG.name):
        live = attend(sessions, Work().ended(error))
        with pytest.raises(type(error)):
            live.wait(SOON)
    assert 'who knows' in caplog.text
    assert ('in __call__' in caplog.text) is shown
