# SPDX-License-Identifier: Apache-2.0
"""A store that is only read, counted and paced."""

import pytest

from ipa_snapshot_hardware import fetch
from ironic_snapshot_core import errors
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import memory


@pytest.fixture
def inner():
    store = memory.MemoryStore()
    store.put('a', b'0123456789')
    return store


def test_what_comes_is_paced_and_counted(inner):
    asked, came = [], []
    store = fetch.ReadStore(inner, asked.append, came.append)
    assert store.get('a', 100) == b'0123456789'
    assert store.get_range('a', 2, 3) == b'234'
    assert b''.join(store.iter_bytes('a', 4)) == b'0123456789'
    # Before it comes it is not known how much of 100 bytes there are.
    assert asked == [100, 3, 4, 4, 2]
    assert came == [10, 3, 4, 4, 2]
    assert store.stat('a') == inner.stat('a')
    assert list(store.list('')) == list(inner.list(''))


def test_nothing_is_written(inner):
    store = fetch.ReadStore(inner, lambda size: None, lambda size: None)
    info = inner.stat('a')
    for change in (
        lambda: store.put('b', b'x'),
        lambda: store.delete('a'),
        lambda: store.join('c', [base.Segment('a', info.size, info.etag)]),
    ):
        with pytest.raises(errors.NotSupported):
            change()
    assert list(inner.list('')) == [info]
