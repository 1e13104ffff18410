# SPDX-License-Identifier: Apache-2.0
"""Captures that hints shorten: nothing differs but what is read."""

import dataclasses

import hypothesis
import pytest
from hypothesis import strategies

from ipa_snapshot_hardware.disk import memory as memory_disk
from ipa_snapshot_hardware.hints import sources
from ironic_snapshot_core import errors
from ironic_snapshot_core import extent
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import units
from ironic_snapshot_core.store import memory as memory_store
from tests import disks
from tests.contract import capture_requests as requests
from tests.contract.capture_lineage import BusyClock
from tests.contract.capture_lineage import Failing
from tests.contract.capture_lineage import Lineage
from tests.contract.capture_lineage import change
from tests.contract.capture_lineage import checkpoints

pytestmark = pytest.mark.usefixtures('no_thread_left')

MiB = units.MiB
C = requests.SMALL


class Hint:
    """Says what it is told to say."""

    kind = 'test'

    def __init__(self, *ranges):
        self.ranges = ranges
        self.asked = []

    def unchanged(self, parent_hints):
        self.asked.append(parent_hints)
        if self.ranges == (None,):
            return None
        found = extent.DataExtents()
        for start, end in self.ranges:
            found.add(start, end)
        return found

    def records(self):
        return [manifests.HintRecord('test', 'a key')]


class CountingDisk(memory_disk.MemoryDisk):
    """Counts what is read of it, and remembers where."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.reads = []

    def read_into(self, offset, buffer):
        self.reads.append((offset, offset + len(buffer)))
        super().read_into(offset, buffer)


LARGE = disks.random_bytes(20 * MiB, seed=21) + bytes(4 * MiB) + (
    disks.draw('abc', MiB)
)


@pytest.fixture
def with_hint(monkeypatch):
    def use(hint, *others):
        monkeypatch.setattr(
            sources, 'find', lambda disk, regions, watch: [hint, *others]
        )
        return hint

    return use


def hinted(with_hint, hint, content, before=LARGE, **options):
    """Capture with a hint, upon a parent; compare with none."""
    lineage = Lineage(pack_size=4 * MiB)
    with_hint(Hint())
    lineage.capture(before)
    plain = Lineage(pack_size=4 * MiB)
    with_hint(Hint(None))
    plain.capture(before)
    plain.capture(content)
    with_hint(hint)
    lineage.capture(content, **options)
    assert lineage.objects() == plain.objects()
    assert lineage.report.totals.data_bytes == plain.report.totals.data_bytes
    assert lineage.report.totals.zero_bytes == plain.report.totals.zero_bytes
    return lineage


def test_what_did_not_change_is_not_read(with_hint):
    content = change(LARGE, 7 * MiB + 5, disks.random_bytes(2 * C, seed=1))
    hint = Hint((0, 7 * MiB), (7 * MiB + 2 * C + 5, len(LARGE)))
    lineage = hinted(with_hint, hint, content)
    assert hint.asked == [(manifests.HintRecord('test', 'a key'),)]
    assert lineage.report.hints == (manifests.HintRecord('test', 'a key'),)
    # Three clusters, of which two only in part.
    assert lineage.report.totals.read_bytes == 3 * C
    assert lineage.report.totals.new_clusters == 3


@hypothesis.settings(
    deadline=None,
    max_examples=8,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
@hypothesis.given(
    strategies.lists(
        strategies.tuples(
            strategies.integers(0, 25 * 2048 - 1),
            strategies.integers(1, 1000),
            strategies.booleans(),
        ),
        max_size=6,
    ),
    strategies.integers(1, 3),
)
def test_any_changes(with_hint, changes, workers):
    content = bytearray(LARGE)
    touched = []
    for sector, count, written in sorted(changes):
        start = sector * 512
        end = min(start + count * 512, len(content))
        touched.append((start, end))
        if written:
            content[start:end] = disks.random_bytes(end - start, seed=sector)
    unchanged, at = [], 0
    for start, end in touched:
        if start > at:
            unchanged.append((at, start))
        at = max(at, end)
    unchanged.append((at, len(content)))
    hinted(with_hint, Hint(*unchanged), bytes(content), workers=workers)


@pytest.mark.parametrize('offset', [0, 9 * MiB, 22 * MiB])
def test_a_hint_that_lies_is_not_used(with_hint, caplog, offset):
    # All of it: a sample of a small disk is nearly all there is.
    content = bytearray(LARGE)
    for at in range(offset, offset + 2 * MiB, C):
        content[at] ^= 1
    lineage = hinted(with_hint, Hint((0, len(LARGE))), bytes(content))
    assert 'A hint was wrong' in caplog.text
    assert lineage.report.totals.read_bytes == len(LARGE)


def test_several_hints_add_up(with_hint):
    lineage = Lineage()
    with_hint(Hint())
    lineage.capture(LARGE)
    with_hint(
        Hint((8 * MiB, 12 * MiB)),
        Hint(None),
        Hint((0, 4 * MiB), (11 * MiB, 20 * MiB)),
    )
    lineage.capture(LARGE)
    assert lineage.report.totals.read_bytes == len(LARGE) - 16 * MiB
    assert len(lineage.report.hints) == 3


def test_hints_are_asked_about_the_same_disk_only(with_hint):
    lineage = Lineage(pack_size=4 * MiB)
    with_hint(Hint())

    def capture(content, serial, number, **fields):
        return requests.run_child(
            memory_disk.MemoryDisk(content, serial=serial, wwn='W'),
            lineage.store,
            lineage.parent,
            number,
            fields=fields,
        )

    first = capture(LARGE, 'S1', 1)
    lineage.parent = requests.commit(lineage.store, first.report)
    hint = with_hint(Hint((0, len(LARGE))))
    capture(LARGE, 'S2', 2)
    capture(LARGE + bytes(MiB), 'S1', 3)
    capture(
        LARGE,
        'S1',
        4,
        lineage=dataclasses.replace(
            requests.LINEAGE, generation=requests.NODE
        ),
    )
    assert hint.asked == []
    found = capture(LARGE, 'S1', 5)
    assert len(hint.asked) == 1
    assert found.report.totals.read_bytes == 0
    # Nothing is known of the serial number now.
    assert capture(LARGE, None, 6).report.totals.read_bytes == 0


def test_what_the_parent_could_not_read_is_read(with_hint):
    store = memory_store.MemoryStore()
    with_hint(Hint())
    degraded = requests.run_child(
        memory_disk.MemoryDisk(LARGE, bad=[(19 * MiB + 512, 1024)]),
        store,
        None,
        1,
        fields={'allow_bad_sectors': True},
    )
    assert degraded.report.unreadable
    parent = requests.commit(store, degraded.report)
    with_hint(Hint((0, len(LARGE))))
    found = requests.run_child(
        memory_disk.MemoryDisk(LARGE), store, parent, 2
    )
    assert found.report.totals.read_bytes == len(LARGE)
    assert found.report.unreadable == ()
    assert requests.read_back(store, found.report) == LARGE


def test_a_writer_is_noticed_where_a_hint_was_used(with_hint):
    lineage = Lineage()
    with_hint(Hint())
    lineage.capture(LARGE)
    with_hint(Hint((0, 20 * MiB)))
    disk = memory_disk.MemoryDisk(
        change(LARGE, 24 * MiB, disks.random_bytes(MiB, seed=2))
    )

    class Writer(memory_store.MemoryStore):
        def put(self, name, data):
            disk.content[0] ^= 1
            return super().put(name, data)

    store = Writer()
    store._objects = lineage.store._objects
    with pytest.raises(errors.DiskChanged):
        requests.run_child(
            disk, store, lineage.parent, 2, pack_size=MiB
        )


@pytest.mark.parametrize('fail_at', ['pack-000003', 'map'])
def test_going_on_with_a_hint(with_hint, fail_at):
    changes = [(n * MiB, n * MiB + MiB // 2) for n in range(0, 20, 2)]
    content = LARGE
    for start, end in changes:
        content = change(
            content, start, disks.random_bytes(end - start, seed=start)
        )
    ends = [0, *(end for _, end in changes)]
    starts = [*(start for start, _ in changes), len(content)]
    ranges = [
        (start, end) for start, end in zip(ends, starts, strict=True)
        if start < end
    ]
    found = []
    for hints in (
        [Hint(*ranges)],
        [Hint(*ranges), Hint(*ranges)],
        [Hint(*ranges), Hint(None)],
        [Hint(None), Hint(*ranges)],
    ):
        lineage = Lineage(
            memory_limit=41 * MiB, clock=BusyClock()
        )
        lineage.store = Failing()
        with_hint(Hint())
        lineage.capture(LARGE)
        for last, hint in zip(
            [*[False] * (len(hints) - 1), True], hints, strict=True
        ):
            with_hint(hint)
            if last:
                lineage.store.fail_at = None
                lineage.count = 1
                lineage.capture(content)
                continue
            lineage.store.fail_at = f'{requests.snapshot_id(2)}/{fail_at}'
            with pytest.raises(errors.StoreFull):
                lineage.capture(content)
            written = checkpoints(lineage, 2)
            assert written or fail_at == 'pack-000003'
        found.append(
            {
                name: data
                for name, data in lineage.objects().items()
                if 'checkpoint' not in name
            }
        )
    assert all(each == found[0] for each in found)
