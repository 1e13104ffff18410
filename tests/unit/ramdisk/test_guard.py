# SPDX-License-Identifier: Apache-2.0
"""The sectors without which nothing boots."""

import pytest

from ipa_snapshot_hardware import guard
from ipa_snapshot_hardware.disk import memory
from ironic_snapshot_core import errors
from tests.contract import capture_requests as requests
from ironic_snapshot_core.store import memory as memory_store

SNAPSHOT = '33333333-3333-4333-8333-333333333333'


@pytest.mark.parametrize('sector', [512, 4096])
def test_the_sizes(sector):
    first, last = (34, 33) if sector == 512 else (6, 5)
    assert guard.size_at_start(sector) == first * sector
    assert guard.size_at_end(sector) == last * sector


@pytest.mark.parametrize('sector', [512, 4096])
def test_half_a_restore_is_no_snapshot(sector):
    content = guard.marker(SNAPSHOT, sector).ljust(1 << 20, b'\0')
    assert len(guard.marker(SNAPSHOT, sector)) == sector
    disk = memory.MemoryDisk(content, logical_sector_size=sector)
    store = memory_store.MemoryStore()
    with pytest.raises(errors.RestoreUnfinished) as caught:
        requests.run(disk, store)
    assert caught.value.code == 'restore-unfinished'
    assert f'restore of {SNAPSHOT} is not finished;' in str(caught.value)
    assert 'run the restore again' in str(caught.value)
    # Nothing was stored.
    assert list(store.list('')) == []


def test_other_disks_are_finished():
    for content in (bytes(4096), b'ironic'.ljust(4096)):
        guard.check_finished(memory.MemoryDisk(content))
    # What cannot be read is no marker.
    bad = memory.MemoryDisk(guard.marker(SNAPSHOT, 512), bad=[(0, 1)])
    guard.check_finished(bad)
