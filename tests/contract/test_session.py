# SPDX-License-Identifier: Apache-2.0
"""Captures that outlive their grants, and the agent beside them."""

import dataclasses
import json
import random
import subprocess
import sys
import threading
import time

import pytest

from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import capture
from ipa_snapshot_hardware import session
from ipa_snapshot_hardware.disk import memory as memory_disk
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import units
from ironic_snapshot_core.store import auth
from ironic_snapshot_core.store import limit
from ironic_snapshot_core.store import memory
from ironic_snapshot_core.store import renewal
from ironic_snapshot_core.store import retry
from ironic_snapshot_core.store import swift as swift_store
from tests import disks
from tests.contract import capture_requests as requests

MiB = units.MiB
HOUR = 3600


@dataclasses.dataclass(frozen=True)
class Try:
    """A pack on its way to the store."""

    name: str
    at: float
    expires: int
    newest: bool
    refused: bool


class FastClock(clocks.ManualClock):
    """Hours in seconds: real time only passes to let others have a turn."""

    def sleep(self, seconds):
        while seconds > 0:
            step = min(seconds, 10.0)
            super().sleep(step)
            time.sleep(0.0003)
            seconds -= step


class ExpiringStore(memory.MemoryStore):
    """Looks at the grant when a request begins, and takes its time."""

    def __init__(self, auth, clock, seconds):
        super().__init__()
        self.auth = auth
        self.tries = []
        self._clock = clock
        self._seconds = seconds

    def put(self, name, data):
        grant, at = self.auth.grant, self._clock.time()
        refused = at >= grant.expires
        if '/pack-' in name:
            self.tries.append(
                Try(
                    name,
                    at,
                    grant.expires,
                    grant is self.auth.grant,
                    refused,
                )
            )
        if refused:
            raise errors.GrantExpired('put', name, 'the grant expired', 401)
        if '/pack-' in name:
            self._clock.sleep(self._seconds)
        return super().put(name, data)


class Rig:
    """A conductor, an agent's session and a slow store."""

    SLICE_S = 60

    def __init__(self, packs, hours):
        self.clock = FastClock()
        self.sessions = session.Sessions(lambda stop: self.clock)
        self.content = disks.random_bytes(packs * MiB)
        self.wanted = requests.wanted(
            pack_size=MiB, slice_seconds=self.SLICE_S
        )
        self.seconds = hours * HOUR / packs
        self.store = None
        self.slices = []

    def work(self, means):
        self.store = ExpiringStore(means.auth, means.clock, self.seconds)
        patient = retry.RetryingStore(
            self.store,
            clock=means.clock,
            renewal=renewal.Renewal(means.auth, means.clock, means.ask),
        )
        disk = memory_disk.MemoryDisk(self.content)
        allowed = budget.plan(
            disk_size=disk.size,
            cluster_size=self.wanted.cluster_size,
            pack_size=self.wanted.pack_size,
            codec=self.wanted.codec,
            workers=2,
            memory_limit=0,
        )
        return capture.capture(
            disk,
            patient,
            self.wanted,
            allowed=allowed,
            clock=means.clock,
            stop=means.stop,
            software={},
            counters=means.counters,
        )

    def slice(self):
        grant = dataclasses.replace(
            requests.mint(), expires=int(self.clock.time()) + HOUR
        )
        found = self.sessions.attend(self.wanted, grant, self.work).wait(
            self.SLICE_S
        )
        self.slices.append(self.clock.monotonic())
        return found

    def be_away(self, seconds):
        """Time passes by the capture's doing alone."""
        until = self.clock.monotonic() + seconds
        while requests.capture_threads() and self.clock.monotonic() < until:
            time.sleep(0.001)


def test_eight_hours_with_grants_for_one(monkeypatch):
    monkeypatch.setattr(session, '_POLL_S', 0.002)
    rig = Rig(packs=96, hours=8)
    chance = random.Random(1)
    out = False
    while not isinstance(found := rig.slice(), capture.Captured):
        if not out and rig.clock.monotonic() > 3 * HOUR:
            out = True
            refused_before = sum(each.refused for each in rig.store.tries)
            rig.be_away(1.5 * HOUR)
            refused = sum(each.refused for each in rig.store.tries)
            assert refused > refused_before
        elif chance.random() < 0.05:
            rig.be_away(chance.uniform(5, 40) * 60)
    assert out
    assert rig.clock.monotonic() > 8 * HOUR
    assert len(rig.slices) > 30
    # Nothing was sent twice, and nothing is missing.
    stored = [each.name for each in rig.store.tries if not each.refused]
    assert len(stored) == len(set(stored)) == 96
    assert requests.read_back(rig.store, found.report) == rig.content
    # What was refused had no newer grant to go by, and tried once for it.
    refused = [each for each in rig.store.tries if each.refused]
    assert all(each.newest for each in refused)
    tried = [(each.name, each.expires) for each in refused]
    assert len(tried) == len(set(tried))
    # The step asked for once more gives the same.
    assert rig.slice() is found


def test_nobody_comes_back(monkeypatch):
    monkeypatch.setattr(session, '_POLL_S', 0.002)
    rig = Rig(packs=16, hours=8)
    rig.slice()
    requests.join_captures(60)
    # The grant's hour, the patience, and the packs on their way.
    assert rig.clock.monotonic() >= HOUR + renewal.PATIENCE_S
    with pytest.raises(errors.GrantExpired):
        rig.slice()
    assert requests.capture_threads() == []


class TestWithSwift:
    """Grants, packs and bytes per second in a real Swift."""

    def test_a_large_pack_with_an_expired_grant(self, container):
        # The answer comes before the store has read any of it.
        store = container.grant_store(
            ('PUT', 'a/'), expires=int(time.time()) - 5
        )
        for _ in range(2):
            with pytest.raises(errors.GrantExpired):
                store.put('a/pack', disks.random_bytes(64 * MiB))

    def test_the_rate_is_kept_within_a_pack(self, container):
        rate, size = 8 * MiB, 12 * MiB
        shared = limit.RateLimit(rate)
        sent = []

        def pace(count):
            shared.take(count)
            sent.append((time.monotonic(), count))

        store = container.store(pace=pace)
        threads = [
            threading.Thread(
                target=store.put, args=(f'a/{number}', bytes(size))
            )
            for number in range(2)
        ]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
        assert [store.stat(f'a/{n}').size for n in range(2)] == [size, size]
        # A busy machine may not get there; above it there is no excuse.
        assert rate * 0.6 <= 2 * size / seconds <= rate * 1.1
        for moment, _ in sent:
            within = sum(
                count for at, count in sent if moment <= at < moment + 0.5
            )
            assert within <= rate * 0.9

    def test_a_renewed_grant_is_used(self, container):
        now = int(time.time())
        holder = auth.GrantAuth(container.grant(('PUT', 'a/'), expires=now))
        asked = []

        def ask():
            asked.append(holder.grant.expires)
            holder.renew(container.grant(('PUT', 'a/'), expires=now + 600))

        store = retry.RetryingStore(
            swift_store.SwiftStore(container.url, holder),
            renewal=renewal.Renewal(holder, clocks.SystemClock(), ask),
        )
        assert store.put('a/b', b'1').size == 1
        assert asked == [now]


def test_heartbeats_come_in_time_beside_a_capture():
    found = subprocess.run(
        [sys.executable, '-m', 'tests.contract.heartbeat_process'],
        check=True,
        capture_output=True,
        text=True,
        timeout=110,
    )
    told = json.loads(found.stdout.splitlines()[-1])
    assert told['beats'] >= 4, told
    assert told['captured_bytes'] > 0
    # As much as others on this machine left for it.
    assert told['cpu_s'] >= 1, told
    assert told['worst'] <= 2.0, told
