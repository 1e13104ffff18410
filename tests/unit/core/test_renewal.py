# SPDX-License-Identifier: Apache-2.0
"""Requests that wait for a fresh grant."""

import threading

import pytest
import requests

from ironic_snapshot_core import clock
from ironic_snapshot_core import errors
from ironic_snapshot_core import grant
from ironic_snapshot_core.store import auth
from ironic_snapshot_core.store import memory
from ironic_snapshot_core.store import renewal
from ironic_snapshot_core.store import retry
from tests import faults

URL = 'http://swift.example/v1/AUTH_p/snapshots'


def mint(expires, url=URL):
    return grant.mint(url, 'key', expires, [('PUT', 'a/')])


def expired():
    return errors.GrantExpired('put', 'a/b', 'the grant expired 1 s ago', 401)


def denied():
    return errors.AccessDenied('put', 'a/b', 'the grant is not valid', 401)


def skewed():
    return errors.ClockSkew('put', 'a/b', 'the clocks', 401)


class Calls:
    """Something that fails in this order, then succeeds."""

    def __init__(self, *failures):
        self.failures = list(failures)
        self.count = 0

    def __call__(self):
        self.count += 1
        if self.failures:
            raise self.failures.pop(0)()
        return 'done'


class Rig:
    """A renewal; whoever is asked for a grant gives one, if willing."""

    def __init__(self, willing=True):
        self.clock = clock.ManualClock()
        self.auth = auth.GrantAuth(mint(100))
        self.asked = []
        self._willing = willing
        self.renewal = renewal.Renewal(
            self.auth, self.clock, self.ask, patience_s=100)

    def ask(self):
        self.asked.append(self.auth.grant.expires)
        if self._willing:
            self.auth.renew(mint(self.auth.grant.expires + 100))


def test_nothing_is_done_when_all_is_well():
    rig, calls = Rig(), Calls()
    assert rig.renewal.run(calls) == 'done'
    assert (calls.count, rig.asked, rig.clock.slept) == (1, [], [])


@pytest.mark.parametrize('error', [expired, skewed])
def test_a_fresh_grant_is_asked_for_and_used(error):
    rig, calls = Rig(), Calls(error)
    assert rig.renewal.run(calls) == 'done'
    assert (calls.count, rig.asked) == (2, [100])


def test_it_waits_without_hurry():
    rig, calls = Rig(willing=False), Calls(expired)
    real = rig.clock.sleep

    def sleep(seconds):
        real(seconds)
        if rig.clock.monotonic() > 60:
            rig.auth.renew(mint(200))

    rig.clock.sleep = sleep
    assert rig.renewal.run(calls) == 'done'
    assert calls.count == 2
    assert len(rig.clock.slept) <= 130


def test_patience_ends():
    rig, calls = Rig(willing=False), Calls(expired)
    with pytest.raises(errors.GrantExpired):
        rig.renewal.run(calls)
    assert calls.count == 1
    assert rig.clock.monotonic() == pytest.approx(100, abs=1)


def test_fresh_grants_that_are_no_good_are_an_error():
    rig, calls = Rig(), Calls(*[skewed] * 10)
    with pytest.raises(errors.ClockSkew):
        rig.renewal.run(calls)
    assert calls.count == 1 + renewal.FRESH_TRIES
    assert len(rig.asked) == renewal.FRESH_TRIES


def test_a_signature_that_is_wrong_is_an_error_at_once():
    rig, calls = Rig(), Calls(denied)
    with pytest.raises(errors.AccessDenied):
        rig.renewal.run(calls)
    assert (calls.count, rig.asked) == (1, [])


@pytest.mark.parametrize('error', [denied, expired])
def test_a_request_that_crossed_a_renewal_is_repeated(error):
    rig = Rig(willing=False)
    calls = Calls(error)

    def crossed():
        if not calls.count:
            rig.auth.renew(mint(200))
        return calls()

    assert rig.renewal.run(crossed) == 'done'
    assert (calls.count, rig.asked, rig.clock.slept) == (2, [], [])


def test_the_clock_can_end_the_wait():
    rig = Rig(willing=False)

    def sleep(seconds):
        raise errors.Cancelled

    rig.clock.sleep = sleep
    with pytest.raises(errors.Cancelled):
        rig.renewal.run(Calls(expired))


def test_retries_begin_anew_after_a_wait():
    rig = Rig(willing=False)
    found = faults.Faults()
    store = faults.FaultyStore(memory.MemoryStore(), found)
    patient = retry.RetryingStore(
        store, retry.RetryPolicy(total_s=50), rig.clock, lambda: 0.0,
        renewal=rig.renewal)
    found.on('put').raise_(errors.GrantExpired)
    # Later than the retries of the first try would have ended.
    found.on('put').raise_(errors.StoreUnavailable).times(2)
    real = rig.clock.sleep

    def sleep(seconds):
        real(seconds)
        if rig.clock.monotonic() > 60 and rig.auth.grant.expires == 100:
            rig.auth.renew(mint(200))

    rig.clock.sleep = sleep
    assert patient.put('a/b', b'1').size == 1
    found.assert_all_fired()
    assert len(found.calls) == 4


def test_a_grant_for_another_container_is_refused():
    holder = auth.GrantAuth(mint(100))
    with pytest.raises(errors.InvalidValue) as caught:
        holder.renew(mint(200, URL + '2'))
    assert caught.value.what == 'grant'
    assert holder.grant.expires == 100


def test_signature_and_expiry_are_always_of_one_grant():
    given = [mint(100), mint(200)]
    pairs = {(each.permissions[0].secret, str(each.expires))
             for each in given}
    holder = auth.GrantAuth(given[0])
    over = threading.Event()

    def swap():
        while not over.is_set():
            for each in given:
                holder.renew(each)

    thread = threading.Thread(target=swap)
    thread.start()
    try:
        for _ in range(500):
            request = requests.Request(
                'PUT', f'{URL}/a/b', auth=holder).prepare()
            query = dict(part.split('=') for part in
                         request.url.partition('?')[2].split('&'))
            assert (query['temp_url_sig'],
                    query['temp_url_expires']) in pairs
    finally:
        over.set()
        thread.join()
