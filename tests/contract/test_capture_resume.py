# SPDX-License-Identifier: Apache-2.0
"""A capture that is interrupted goes on, or says why not."""

import os
import random
import signal
import subprocess
import sys
import threading

import pytest

from ipa_snapshot_hardware import capture
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import progress
from ipa_snapshot_hardware.disk import memory as memory_disk
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import units
from ironic_snapshot_core.store import directory
from ironic_snapshot_core.store import memory as memory_store
from tests import disks
from tests.contract import capture_requests as requests

MiB = units.MiB
C = requests.SMALL

# Random, repeated, zero and text, and a last cluster that sticks out.
CONTENT = (
    disks.random_bytes(9 * MiB)
    + disks.draw('ab-Ca', MiB)
    + bytes(3 * MiB)
    + disks.random_bytes(2 * MiB)
    + disks.random_bytes(6 * MiB, seed=1)
    + disks.random_bytes(4 * MiB + 512, seed=2)
)


class BusyClock(clocks.ManualClock):
    """Lets a minute pass whenever somebody looks."""

    def monotonic(self):
        self.advance(61)
        return super().monotonic()


class Store(memory_store.MemoryStore):
    """Counts what is put, and fails when told to."""

    def __init__(self):
        super().__init__()
        self.puts = []
        self.fail_at = None

    def put(self, name, data):
        name_in_attempt = name.removeprefix(requests.PREFIX)
        if name_in_attempt == self.fail_at:
            raise errors.StoreFull('put', name, 'it was told to')
        self.puts.append(name_in_attempt)
        return super().put(name, data)


def run(store, content=CONTENT, disk=None, **options):
    # One upload at a time, so that each pack is stored before the next.
    found = requests.run(
        disk or memory_disk.MemoryDisk(content),
        store,
        clock=options.pop('clock', None) or BusyClock(),
        pack_size=MiB,
        memory_limit=41 * MiB,
        **options,
    )
    assert requests.capture_threads() == []
    return found


def interrupted(fail_at, **options):
    store = Store()
    store.fail_at = fail_at
    with pytest.raises(errors.StoreFull):
        run(store, **options)
    store.fail_at = None
    store.before, store.puts = store.puts, []
    return store


def packs(names):
    return [name for name in names if name.startswith('pack-')]


def checkpoints(store):
    return [
        info.name
        for info in store.list(requests.PREFIX)
        if 'checkpoint-' in info.name
    ]


@pytest.fixture(scope='module')
def reference():
    """What a capture without an interruption stores."""
    store = Store()
    run(store, clock=clocks.SystemClock())
    assert checkpoints(store) == []
    return requests.objects(store)


@pytest.mark.parametrize(
    'fail_at',
    [
        *(f'pack-{number:06d}' for number in (1, 2, 3, 9, 17, 20)),
        *('checkpoint-000001', 'checkpoint-000004'),
        *('map', 'head', 'index', 'report'),
    ],
)
def test_it_goes_on_where_it_was(fail_at, reference):
    store = interrupted(fail_at)
    written = len(checkpoints(store))
    counters = progress.CaptureProgress(clocks.ManualClock())
    disk = memory_disk.MemoryDisk(CONTENT)
    found = run(store, disk=disk, counters=counters)
    assert requests.read_back(store, found.report) == CONTENT
    # The same objects as if nothing had happened.
    stored = requests.objects(store)
    names = [name for name in stored if 'checkpoint' in name]
    assert len(names) == found.report.checkpoints >= written
    for name in names:
        del stored[name]
    assert stored == reference
    # Nearly nothing is sent twice: what no checkpoint knew of.
    twice = set(packs(store.before)) & set(packs(store.puts))
    assert len(twice) <= 6
    if fail_at in ('map', 'report', 'pack-000017'):
        assert len(packs(store.puts)) < 10
    state = counters.state()
    assert state.read == state.total == found.report.totals.read_bytes
    assert state.stored == sum(pack.size for pack in found.report.packs)
    totals = found.report.totals
    assert totals.data_bytes + totals.zero_bytes == len(CONTENT)


def test_interrupted_again_and_again(reference):
    store = Store()
    for number in range(2, 25, 3):
        store.fail_at = f'pack-{number:06d}'
        try:
            found = run(store)
        except errors.StoreFull:
            continue
        break
    assert requests.read_back(store, found.report) == CONTENT
    stored = requests.objects(store)
    assert {name: stored[name] for name in reference} == reference


def test_a_capture_that_was_complete_is_not_repeated():
    store = Store()
    first = run(store)
    store.puts.clear()

    class UnreadDisk(memory_disk.MemoryDisk):
        def read_into(self, offset, buffer):
            raise AssertionError('the disk was read')

    again = run(store, disk=UnreadDisk(CONTENT))
    assert store.puts == []
    assert (again.report, again.record) == (first.report, first.record)
    assert capture.summarise(again)['progress']['percent'] == 100


@pytest.mark.parametrize('offset', [0, 2 * MiB, len(CONTENT) - 1])
def test_a_disk_that_changed_meanwhile(offset):
    store = interrupted('pack-000017')
    changed = bytearray(CONTENT)
    # The first cluster, one of the sample of a small disk, the last one.
    changed[offset] ^= 1
    if offset == len(CONTENT) - 1:
        # Not read before: the capture is of the disk as it is now.
        found = run(store, bytes(changed))
        assert requests.read_back(store, found.report) == bytes(changed)
        return
    with pytest.raises(errors.DiskChanged):
        run(store, bytes(changed))
    assert 'report' not in requests.objects(store)


@pytest.mark.parametrize(
    'damage', ['flip', 'cut', 'number', 'pack gone', 'pack changed']
)
def test_a_damaged_checkpoint_is_a_fresh_start(damage, reference, caplog):
    store = interrupted('pack-000012')
    names = checkpoints(store)
    assert len(names) >= 3
    name = names[1]
    data = store.get(name, MiB)
    if damage == 'flip':
        store.put(name, data[:100] + bytes([data[100] ^ 1]) + data[101:])
    elif damage == 'cut':
        store.put(name, data[:-1])
    elif damage == 'number':
        store.put(names[0], data)
    elif damage == 'pack gone':
        store.delete(requests.PREFIX + 'pack-000005')
    else:
        store.put(requests.PREFIX + 'pack-000005', bytes(MiB))
    store.puts.clear()
    found = run(store)
    assert 'afresh' in caplog.text
    assert 'pack-000001' in store.puts
    assert requests.read_back(store, found.report) == CONTENT
    stored = requests.objects(store)
    assert {name: stored[name] for name in reference} == reference


def test_another_request_is_a_fresh_start(caplog):
    store = interrupted('pack-000012')
    found = run(store, codec='none', codec_level=None)
    assert 'asked for something else' in caplog.text
    assert requests.read_back(store, found.report) == CONTENT


def test_another_disk_is_a_fresh_start(caplog):
    store = interrupted('pack-000012')
    other = CONTENT + bytes(MiB)
    found = run(store, other)
    assert 'afresh' in caplog.text
    assert requests.read_back(store, found.report) == other


def test_checkpoints_of_an_older_run_are_not_mixed_in():
    store = interrupted('pack-000015')
    old = {name: store.get(name, MiB) for name in checkpoints(store)}
    # A run with other data got less far, and left the later ones behind.
    store.puts.clear()
    changed = disks.random_bytes(4 * MiB, seed=7) + CONTENT[4 * MiB :]
    for name in old:
        store.delete(name)
    store.fail_at = 'pack-000009'
    with pytest.raises(errors.StoreFull):
        run(store, changed)
    store.fail_at = None
    newer = set(checkpoints(store))
    left = [name for name in old if name not in newer]
    assert left
    for name in left:
        store.put(name, old[name])
    found = run(store, changed)
    assert requests.read_back(store, found.report) == changed


def test_a_grant_for_storing_alone_captures_all(reference):
    store = interrupted('pack-000012')

    class Blind(Store):
        def get(self, name, limit):
            raise errors.NotSupported('get', name, 'not granted')

    blind = Blind()
    blind._objects = store._objects
    run(blind)
    assert 'pack-000001' in blind.puts


def test_bad_sectors_are_remembered():
    bad = [(2 * MiB, 512), (MiB * 20, 1024)]
    options = {'allow_bad_sectors': True}
    store = Store()
    store.fail_at = 'pack-000012'
    with pytest.raises(errors.StoreFull):
        run(
            store,
            disk=memory_disk.MemoryDisk(CONTENT, bad=bad),
            fields=options,
        )
    store.fail_at = None
    found = run(
        store, disk=memory_disk.MemoryDisk(CONTENT, bad=bad), fields=options
    )
    assert [
        (run.start, run.length) for run in found.report.unreadable
    ] == bad


@pytest.mark.parametrize('seed', range(3))
def test_killed_at_any_moment(tmp_path, seed):
    """A real process, a real SIGKILL, a real directory."""
    source = tmp_path / 'disk'
    source.write_bytes(CONTENT)
    folder = tmp_path / 'store'
    folder.mkdir()
    moment = random.Random(seed)
    command = [
        *(sys.executable, '-m', 'tests.contract.capture_resumed'),
        *(str(source), str(folder)),
    ]
    for delay in (moment.uniform(0.02, 0.5), moment.uniform(0.02, 0.5)):
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            # It says when the capture begins.
            process.stdout.readline()
            threading.Event().wait(delay)
            os.kill(process.pid, signal.SIGKILL)
    before = {
        info.name: info
        for info in directory.DirectoryStore(folder).list(requests.PREFIX)
    }
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    store = directory.DirectoryStore(folder)
    report = capture.manifest.CaptureReport.from_bytes(
        store.get(requests.PREFIX + layout.REPORT, MiB)
    )
    assert requests.read_back(store, report) == CONTENT
    # Checkpoints are of use: with some, not everything was sent again.
    if any('checkpoint-' in name for name in before):
        first = folder / (requests.PREFIX + 'pack-000001')
        report_file = folder / (requests.PREFIX + layout.REPORT)
        assert first.stat().st_mtime_ns < report_file.stat().st_mtime_ns


def test_stopping_leaves_checkpoints_to_go_on_from():
    stop = executor.Stop()

    class Stopping(Store):
        def put(self, name, data):
            if name.endswith('pack-000010'):
                stop.set()
            return super().put(name, data)

    store = Stopping()
    with pytest.raises(errors.Cancelled):
        run(store, stop=stop)
    assert len(checkpoints(store)) >= 2
    store.puts.clear()
    found = run(store)
    assert 'pack-000001' not in store.puts
    assert requests.read_back(store, found.report) == CONTENT
