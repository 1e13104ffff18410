# SPDX-License-Identifier: Apache-2.0
"""A store that tries again."""

import pytest

from ironic_snapshot_core import buffers
from ironic_snapshot_core import clock
from ironic_snapshot_core import errors
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import memory
from ironic_snapshot_core.store import retry
from tests import faults


class Rig:
    """A retrying store over one with faults, in time that does not pass."""

    def __init__(self, **policy):
        self.faults = faults.Faults()
        self.clock = clock.ManualClock()
        self.memory = memory.MemoryStore()
        self.store = retry.RetryingStore(
            faults.FaultyStore(self.memory, self.faults),
            retry.RetryPolicy(**policy), self.clock, lambda: 0.0)


@pytest.fixture
def rig():
    found = Rig()
    yield found
    found.faults.assert_all_fired()


def segment_of(info):
    return base.Segment(info.name, info.size, info.etag)


@pytest.mark.parametrize('applied', [False, True])
def test_several_buffers_are_put_again(rig, applied):
    fault = rig.faults.on('put').raise_(errors.StoreUnavailable)
    if applied:
        fault.when_applied()
    info = rig.store.put('a', buffers.Buffers([b'01', b'', b'23']))
    assert info == rig.memory.stat('a')
    assert rig.memory.get('a', 4) == b'0123'
    assert rig.faults.calls == [('put', 'a')] * 2


CALLS = {
    'put': lambda store: store.put('a', b'0123'),
    'get': lambda store: store.get('a', 4),
    'get_range': lambda store: store.get_range('a', 1, 2),
    'stat': lambda store: store.stat('a'),
    'list': lambda store: list(store.list('')),
    'delete': lambda store: store.delete('a'),
    'join': lambda store: store.join('image', [base.Segment(
        'a', 4, 'eb62f6b9306db575c2d596b1279627a4')]),
}
every_call = pytest.mark.parametrize('call', CALLS)


@every_call
@pytest.mark.parametrize('applied', [False, True])
def test_each_operation_is_tried_again(rig, call, applied):
    rig.memory.put('a', b'0123')
    fault = rig.faults.on(call).raise_(errors.StoreUnavailable).times(3)
    if applied:
        fault.when_applied()
    expected = CALLS[call](memory_with_a())
    assert CALLS[call](rig.store) == expected
    assert rig.clock.slept == [0.5, 1.0, 2.0]


def memory_with_a():
    store = memory.MemoryStore()
    store.put('a', b'0123')
    return store


@every_call
def test_the_last_error_comes_out(rig, call):
    rig.memory.put('a', b'0123')
    rig.faults.on(call).raise_(errors.StoreUnavailable).times(None)
    with pytest.raises(errors.StoreUnavailable):
        CALLS[call](rig.store)
    assert len(rig.faults.calls) == 6
    assert len(rig.clock.slept) == 5


@every_call
@pytest.mark.parametrize('cls', [
    errors.AccessDenied, errors.GrantExpired, errors.StoreFull,
    errors.ContainerMissing, errors.StoreUntrusted, errors.StoreError])
def test_what_cannot_help_is_not_tried(rig, call, cls):
    rig.memory.put('a', b'0123')
    rig.faults.on(call).raise_(cls)
    with pytest.raises(cls):
        CALLS[call](rig.store)
    assert rig.clock.slept == []


@every_call
def test_a_mismatch_is_tried_once(rig, call):
    rig.memory.put('a', b'0123')
    rig.faults.on(call).raise_(errors.ObjectMismatch).times(None)
    with pytest.raises(errors.ObjectMismatch):
        CALLS[call](rig.store)
    assert len(rig.clock.slept) == 1


def test_other_errors_are_none_of_its_business(rig):
    rig.faults.on('put').raise_(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        rig.store.put('a', b'')


def test_it_waits_as_long_as_the_store_asks(rig):
    rig.faults.on('put').raise_(errors.StoreUnavailable(
        'put', 'a', 'slow down', 429, 45.0))
    rig.store.put('a', b'')
    assert rig.clock.slept == [45.0]


def test_it_does_not_wait_beyond_its_time(rig):
    rig.faults.on('put').raise_(errors.StoreUnavailable(
        'put', 'a', 'slow down', 429, 3600.0))
    with pytest.raises(errors.StoreUnavailable):
        rig.store.put('a', b'')
    assert rig.clock.slept == []


def test_slow_failures_use_up_the_time():
    rig = Rig(total_s=100.0)
    rig.faults.on('put').call(
        lambda: rig.clock.advance(60)).raise_(
        errors.StoreUnavailable).times(None)
    with pytest.raises(errors.StoreUnavailable):
        rig.store.put('a', b'')
    assert len(rig.faults.calls) == 2


def test_delays_grow_to_a_cap_and_are_spread():
    policy = retry.RetryPolicy(base_s=1.0, cap_s=5.0)
    assert [policy.delay(n, 0.0) for n in (1, 2, 3, 4, 50)] == [
        1.0, 2.0, 4.0, 5.0, 5.0]
    assert policy.delay(1, 1.0) == 0.5
    assert policy.delay(1, 0.5) == 0.75


def test_a_listing_is_never_given_twice(rig):
    for n in range(5):
        rig.memory.put(f'a/{n}', b'')
    rig.faults.on('list').raise_(errors.StoreUnavailable).when_applied()
    assert [info.name for info in rig.store.list('a/')] == [
        f'a/{n}' for n in range(5)]


@pytest.mark.parametrize('piece', [1, 3, 4, 100])
def test_a_stream_goes_on_where_it_broke(rig, piece):
    rig.memory.put('a', b'0123456789')
    rig.faults.on('iter_bytes').raise_(
        errors.StoreUnavailable).when_applied()
    rig.faults.on('stat').raise_(errors.StoreUnavailable)
    assert b''.join(rig.store.iter_bytes('a', piece)) == b'0123456789'


def test_a_stream_of_an_image_goes_on_too(rig):
    one = rig.memory.put('p', b'01234')
    rig.memory.join('image', [segment_of(one)] * 2)
    rig.faults.on('iter_bytes').raise_(errors.StoreUnavailable)
    rig.faults.on('get_range').raise_(errors.StoreUnavailable)
    assert b''.join(rig.store.iter_bytes('image', 3)) == b'0123401234'


def test_a_stream_does_not_go_on_with_another_object(rig):
    rig.memory.put('a', b'0123456789')
    rig.faults.on('iter_bytes').raise_(
        errors.StoreUnavailable).when_applied()
    pieces = rig.store.iter_bytes('a', 4)
    assert next(pieces) == b'0123'
    rig.memory.put('a', b'9876543210')
    with pytest.raises(errors.ObjectMismatch, match='replaced'):
        list(pieces)


def test_a_stream_that_went_on_is_verified_as_a_whole(rig):
    rig.memory.put('a', b'0123456789')
    rig.faults.on('iter_bytes').flip_bit().raise_(
        errors.StoreUnavailable).when_applied()
    with pytest.raises(errors.ObjectMismatch):
        list(rig.store.iter_bytes('a', 4))


def test_a_stream_is_not_resumed_when_it_cannot_help(rig):
    rig.memory.put('a', b'0123456789')
    rig.faults.on('iter_bytes').raise_(errors.GrantExpired)
    with pytest.raises(errors.GrantExpired):
        list(rig.store.iter_bytes('a'))


def test_what_is_retried_is_logged(rig, caplog):
    rig.faults.on('put').raise_(errors.StoreUnavailable)
    rig.store.put('a', b'')
    assert caplog.messages == [
        'Cannot put a: injected by a test. Trying again in 0.5 s (try 2 of '
        '6).']
