# SPDX-License-Identifier: Apache-2.0
"""Captures upon a parent: what is shared, and that nothing else differs."""

import dataclasses
import json
import random

import hypothesis
import pytest
from hypothesis import strategies

from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import capture as captures
from ipa_snapshot_hardware import parent as parents
from ipa_snapshot_hardware import reuse
from ipa_snapshot_hardware.disk import memory as memory_disk
from ironic_snapshot_core import cluster_map
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import snapshot_reader
from ironic_snapshot_core import units
from ironic_snapshot_core.store import memory as memory_store
from tests import disks
from tests.contract import capture_requests as requests
from tests.contract.capture_lineage import BusyClock
from tests.contract.capture_lineage import Failing
from tests.contract.capture_lineage import Lineage
from tests.contract.capture_lineage import change
from tests.contract.capture_lineage import checkpoints

MiB = units.MiB
C = requests.SMALL

pytestmark = pytest.mark.usefixtures('no_thread_left')


def judge(store, report, content, folder):
    """Have qemu-img compare what was stored with the disk."""
    source = folder / 'disk'
    source.write_bytes(content)
    requests.judge(store, report, source, folder)


BASE = (
    disks.random_bytes(3 * MiB)
    + disks.draw('ab-Ca', MiB)
    + bytes(MiB)
    + disks.random_bytes(2 * MiB + 512, seed=3)
)


@disks.needs_qemu_img
def test_only_what_changed_is_stored(tmp_path):
    lineage = Lineage()
    first = lineage.capture(BASE)
    new = disks.random_bytes(3 * C, seed=9)
    changed = change(BASE, MiB + C, new)
    second = lineage.capture(changed)
    assert second.report.parent == first.report.snapshot
    assert second.report.full_reason is None
    totals = second.report.totals
    assert totals.new_clusters == 3
    assert totals.stored_bytes == MiB
    assert set(lineage.objects()) == {'map', 'head', 'index', 'pack-000001'}
    *older, own = second.report.packs
    assert {pack.attempt for pack in older} == {first.report.snapshot}
    assert {pack.generations for pack in older} == {2}
    assert (own.attempt, own.start, own.length, own.generations) == (
        second.report.snapshot,
        0,
        own.size,
        1,
    )
    assert [each.id for each in second.report.attempts] == [
        first.report.snapshot,
        second.report.snapshot,
    ]
    judge(lineage.store, second.report, changed, tmp_path)
    judge(lineage.store, first.report, BASE, tmp_path)


@disks.needs_qemu_img
def test_nothing_new_stores_nothing(tmp_path):
    lineage = Lineage()
    first = lineage.capture(BASE)
    second = lineage.capture(BASE)
    assert set(lineage.objects()) == {'map'}
    assert len(lineage.objects()['map']) < 1024
    assert second.report.head == first.report.head
    stored = lineage.store.list(requests.prefix_of(second.report))
    assert sum(info.size for info in stored) < 64 * units.KiB
    assert second.report.totals.stored_bytes == 0
    assert second.report.totals.new_clusters == 0
    assert second.report.attempts == first.report.attempts
    judge(lineage.store, second.report, BASE, tmp_path)
    # And a parent that has stored nothing itself is one like any other.
    third = lineage.capture(BASE + disks.random_bytes(C, seed=5))
    assert third.report.head.name.startswith(
        requests.prefix_of(third.report)
    )
    assert third.report.totals.new_clusters == 2
    assert [each.id for each in third.report.attempts] == [
        first.report.snapshot,
        third.report.snapshot,
    ]


def test_moved_data_are_not_stored_again():
    lineage = Lineage()
    lineage.capture(BASE)
    found = lineage.capture(BASE[3 * MiB : 5 * MiB] + BASE[: 3 * MiB])
    assert found.report.totals.new_clusters == 0
    assert found.report.totals.stored_bytes == 0


@disks.needs_qemu_img
def test_what_is_not_used_at_both_ends_is_not_in_the_image(tmp_path):
    lineage = Lineage(pack_size=4 * MiB)
    content = disks.random_bytes(4 * MiB)
    lineage.capture(content)
    # Raw clusters lie in a pack from the last to the first.
    kept = content[8 * C : 52 * C] + content[10 * C : 11 * C]
    found = lineage.capture(kept)
    (pack,) = found.report.packs
    assert (pack.size, pack.start, pack.length) == (
        4 * MiB, 12 * C, 44 * C
    )
    assert pack.live_bytes == 44 * C
    judge(lineage.store, found.report, kept, tmp_path)


@disks.needs_qemu_img
@pytest.mark.parametrize(
    'kept, start', [(0, 48 * C), (63, 0), (30, 33 * C), (55, 8 * C)]
)
def test_no_part_of_a_pack_is_smaller_than_swift_likes(
    kept, start, tmp_path
):
    lineage = Lineage(pack_size=4 * MiB)
    content = disks.random_bytes(4 * MiB)
    lineage.capture(content)
    left = content[kept * C : (kept + 1) * C]
    found = lineage.capture(left)
    (pack,) = found.report.packs
    assert (pack.start, pack.length, pack.live_bytes) == (start, MiB, C)
    judge(lineage.store, found.report, left, tmp_path)


@pytest.mark.parametrize('size', [512, C, 2 * MiB - 512, 9 * MiB + 512])
def test_a_disk_of_another_size(size):
    lineage = Lineage()
    lineage.capture(BASE)
    content = (BASE + disks.random_bytes(4 * MiB, seed=8))[:size]
    found = lineage.capture(content)
    assert found.report.parent
    whole = min(size, len(BASE)) // C
    assert found.report.totals.new_clusters <= size // C - whole + 1
    # And back.
    assert lineage.capture(BASE).report.parent


def test_the_result_tells_of_the_parent():
    lineage = Lineage()
    first = captures.summarise(lineage.capture(BASE))
    assert (first['parent'], first['full_reason']) == (None, 'asked for')
    assert first['totals']['shared_bytes'] == 0
    second = captures.summarise(
        lineage.capture(change(BASE, 0, disks.random_bytes(C, seed=4)))
    )
    assert second['parent'] == first['snapshot']
    assert second['full_reason'] is None
    totals = second['totals']
    assert (totals['new_clusters'], totals['packs']) == (1, 1)
    assert 5 * MiB < totals['shared_bytes'] < first['totals']['stored_bytes']
    assert len(json.dumps(second)) < 1024


def test_a_long_reason_is_cut():
    found = captures.summarise(
        Lineage().capture(BASE, fields={'full_reason': 'why ' * 250})
    )
    assert len(found['full_reason']) == 200


# A parent of no use


def damage_of(store, name):
    data = store.get(name, 64 * MiB)
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


@pytest.mark.parametrize('how', ['flip', 'cut', 'longer', 'gone', 'denied'])
@pytest.mark.parametrize('what', ['manifest', 'map', 'index'])
def test_a_damaged_parent_is_passed_over(what, how, caplog):
    lineage = Lineage()
    lineage.capture(BASE)
    lineage.capture(change(BASE, 0, disks.random_bytes(C, seed=31)))
    prefix = requests.prefix_of(lineage.report)
    name = {
        'manifest': layout.manifest_name(
            requests.LINEAGE, lineage.report.snapshot
        ),
        'map': prefix + 'map',
        'index': prefix + 'index',
    }[what]
    store = lineage.store
    if how == 'flip':
        store.put(name, damage_of(store, name))
    elif how == 'cut':
        store.put(name, store.get(name, MiB)[:-1])
    elif how == 'longer':
        store.put(name, store.get(name, MiB) + b'x')
    elif how == 'gone':
        store.delete(name)
    else:

        class Denying(memory_store.MemoryStore):
            def get(self, asked, limit):
                if asked == name:
                    raise errors.AccessDenied('get', name, 'told to')
                return super().get(asked, limit)

        lineage.store = Denying()
        lineage.store._objects = store._objects
    parent = lineage.parent.snapshot
    found = lineage.capture(BASE)
    assert found.report.parent is None
    assert what in found.report.full_reason
    assert f'{parent} cannot be its parent' in caplog.text
    assert found.report.totals.new_clusters == sum(
        pack.clusters for pack in found.report.packs
    )
    assert [each.id for each in found.report.attempts] == [
        found.report.snapshot
    ]


def test_a_store_that_does_not_answer_is_an_error():
    lineage = Lineage()
    lineage.capture(BASE)

    class Away(memory_store.MemoryStore):
        def get(self, name, limit):
            if name.endswith('/manifest'):
                raise errors.StoreUnavailable('get', name, 'told to')
            return super().get(name, limit)

    store = Away()
    store._objects = lineage.store._objects
    lineage.store = store
    with pytest.raises(errors.StoreUnavailable):
        lineage.capture(BASE)


@pytest.mark.parametrize(
    ('changes', 'reason'),
    [
        ({'cluster_size': 2 * C}, '65536 bytes instead of 131072'),
        ({'codec': 'zlib', 'codec_level': 6}, 'by zstd instead of zlib'),
    ],
)
def test_a_parent_of_another_kind(changes, reason):
    lineage = Lineage()
    lineage.capture(BASE)
    found = lineage.capture(BASE, **changes)
    assert found.report.parent is None
    assert reason in found.report.full_reason


def test_an_index_that_is_well_made_but_wrong():
    lineage = Lineage()
    lineage.capture(BASE)
    other = Lineage()
    other.capture(disks.random_bytes(3 * MiB, seed=77))
    index = other.store.get(
        requests.prefix_of(other.report) + 'index', MiB
    )
    prefix = requests.prefix_of(lineage.report)
    lineage.store.put(prefix + 'index', index)
    record = dataclasses.replace(
        lineage.report.attempts[0].index,
        size=len(index),
        digest=requests.blake3(index),
    )
    report = dataclasses.replace(
        lineage.report,
        attempts=(
            dataclasses.replace(lineage.report.attempts[0], index=record),
        ),
    )
    lineage.parent = requests.commit(lineage.store, report)
    found = lineage.capture(BASE)
    assert 'is not that of the manifest' in found.report.full_reason


def test_a_parent_that_the_grant_does_not_cover():
    lineage = Lineage()
    lineage.capture(BASE)
    lineage.capture(change(BASE, 0, disks.random_bytes(C, seed=31)))
    closed = requests.prefix_of(lineage.report, requests.snapshot_id(1))
    asked = dataclasses.replace(
        requests.wanted(pack_size=MiB),
        snapshot=requests.snapshot_id(3),
        parent=lineage.parent,
        full_reason=None,
    )
    with pytest.raises(errors.InvalidValue, match=f'GET below {closed}'):
        parents.find(
            lineage.store, asked, lineage.parent, MiB,
            lambda it: it != closed,
        )


def test_little_memory_makes_small_packs_that_stay():
    """They are not stored again for being small: new ones would be, too."""
    content = disks.random_bytes(40 * MiB, seed=32)
    lineage = Lineage(pack_size=64 * MiB, memory_limit=41 * MiB)
    lineage.capture(content)
    assert len(lineage.report.packs) > reuse.MOST_SMALL_PACKS
    changed = change(content, 5 * MiB, disks.random_bytes(C, seed=33))
    lineage.capture(changed)
    assert lineage.report.totals.stored_bytes <= 2 * MiB
    # Where there is more memory it is worth while, once.
    lineage.capture(content, memory_limit=0)
    assert len(lineage.report.packs) == 1
    lineage.capture(changed, memory_limit=0)
    assert lineage.report.totals.stored_bytes <= 2 * MiB


def test_too_little_memory_for_the_parent():
    lineage = Lineage()
    lineage.capture(BASE)
    disk = memory_disk.MemoryDisk(bytes(BASE))
    options = {
        'cluster_size': C,
        'codec': codecs.get_codec('zstd', 1),
    }
    plain = budget.plan(
        disk_size=disk.size, pack_size=MiB, workers=1, memory_limit=64 * MiB,
        **options,
    )
    least = 16 * MiB
    while True:
        try:
            budget.fit(
                dataclasses.replace(plain, limit=least),
                clusters=len(BASE) // C + 1, ranges=1, **options,
            )
            break
        except errors.InvalidValue:
            least += 1024
    found = lineage.capture(
        BASE, allowed=dataclasses.replace(plain, limit=least)
    )
    assert found.report.parent is None
    assert 'the memory is too small' in found.report.full_reason
    assert lineage.capture(BASE).report.parent


# Any disks


LETTERS = '-aAbBcCdD'
PICTURE = strategies.text(LETTERS, min_size=1, max_size=24)


@hypothesis.given(
    states=strategies.lists(
        strategies.tuples(PICTURE, strategies.sampled_from([0, 512, C - 512])),
        min_size=2,
        max_size=5,
    ),
    workers=strategies.integers(1, 3),
    redundancy=strategies.integers(0, 2),
    packs=strategies.sampled_from([2, 4, 16]),
)
@hypothesis.settings(deadline=None, max_examples=20)
def test_any_lineage(states, workers, redundancy, packs):
    contents = [
        disks.draw(picture, C) + disks.random_bytes(tail, seed=tail)
        for picture, tail in states
    ]
    options = {'workers': 1, 'fields': {'redundancy': redundancy}}

    def allowed(count):
        # Packs of a few clusters each.
        found = budget.plan(
            disk_size=64 * MiB,
            cluster_size=C,
            pack_size=MiB,
            codec=codecs.get_codec('zstd', 1),
            workers=count,
        )
        return dataclasses.replace(found, pack_size=packs * C)

    alone, several = Lineage(**options), Lineage(**options)
    for content in contents:
        alone.capture(content, allowed=allowed(1))
        found = several.capture(content, allowed=allowed(workers))
        # Whoever is faster, the objects are the same.
        assert several.objects() == alone.objects()
        full = Lineage(**options)
        full.capture(content, allowed=allowed(1))
        assert found.report.totals.clusters == (
            full.report.totals.clusters
        )
        assert found.report.totals.zero_bytes == (
            full.report.totals.zero_bytes
        )
        if not found.report.totals.new_clusters:
            assert 'index' not in several.objects()
            assert found.report.totals.stored_bytes == 0
        generations = [pack.generations for pack in found.report.packs]
        assert max(generations, default=1) <= several.count
        # Each content is in the image once.
        placed = cluster_map.decode(
            several.store.get(
                requests.prefix_of(found.report) + 'map', MiB
            )
        )
        slots = {(a, slot) for _, a, slot in placed.clusters()}
        distinct = {
            content[n : n + C].ljust(C, b'\0')
            for n in range(0, len(content), C)
        } - {bytes(C)}
        assert len(slots) == len(distinct)
    # What was is as it was.
    for number, content in enumerate(contents, 1):
        name = (
            layout.attempt_prefix(
                requests.LINEAGE, requests.snapshot_id(number)
            )
            + 'report'
        )
        report = manifests.CaptureReport.from_bytes(
            several.store.get(name, MiB)
        )
        assert requests.read_back(several.store, report) == content


@disks.needs_qemu_img
@pytest.mark.parametrize('seed', range(3))
def test_images_of_a_long_lineage(tmp_path, seed):
    chosen = random.Random(seed)
    lineage = Lineage(fields={'redundancy': 3})
    content = bytearray(disks.random_bytes(5 * MiB, seed=seed))
    for number in range(8):
        for _ in range(12):
            start = chosen.randrange(len(content) // 512) * 512
            data = chosen.choice([chosen.randbytes(20000), bytes(40000),
                                  b'text ' * 20000])
            content[start : start + len(data)] = data
            del content[6 * MiB :]
        content = content[: len(content) // 512 * 512]
        lineage.capture(bytes(content))
        judge(lineage.store, lineage.report, bytes(content), tmp_path)
        assert lineage.report.parent or not number


# Second copies


def read_all(store, manifest):
    reader = snapshot_reader.SnapshotReader(store, manifest)
    content = b''.join(
        reader.read_cluster(n) for n in range(-(-reader.disk_size // C))
    )
    return content[: reader.disk_size], reader.repaired


def test_a_second_copy_is_stored_and_read():
    content = disks.random_bytes(2 * MiB, seed=5)
    lineage = Lineage(fields={'redundancy': 2})
    for _ in range(2):
        lineage.capture(content)
        assert not any(pack.spare for pack in lineage.report.packs)
    for _ in range(2):
        # A pack at a time, for that is the least that is always done.
        lineage.capture(content)
        assert lineage.report.totals.stored_bytes == MiB
    packs = lineage.report.packs
    spares = [pack for pack in packs if pack.spare]
    main = [pack for pack in packs if not pack.spare]
    assert [pack.attempt for pack in spares] == [requests.snapshot_id(1)] * 2
    assert [pack.attempt for pack in main] == [
        requests.snapshot_id(3),
        requests.snapshot_id(4),
    ]
    assert [pack.live_bytes for pack in spares] == [MiB, MiB]
    assert {pack.generations for pack in spares} == {4}
    for pack in packs:
        name = requests.prefix_of(lineage.report, pack.attempt) + pack.name
        before = lineage.store.get(name, 2 * MiB)
        lineage.store.put(name, bytes(len(before)))
        found, repaired = read_all(lineage.store, lineage.manifest)
        assert found == content
        assert bool(repaired) == (not pack.spare)
        lineage.store.delete(name)
        assert read_all(lineage.store, lineage.manifest)[0] == content
        lineage.store.put(name, before)


def test_a_spare_goes_when_little_of_it_is_left():
    content = disks.random_bytes(MiB, seed=5)
    lineage = Lineage(fields={'redundancy': 1})
    lineage.capture(content)
    lineage.capture(content)
    assert [pack.spare for pack in lineage.report.packs] == [True, False]
    other = disks.random_bytes(MiB, seed=6)
    half = content[: MiB // 2] + other[MiB // 2 :]
    lineage.capture(half)
    spares = [pack for pack in lineage.report.packs if pack.spare]
    # Of two that hold the same the newer one.
    assert [pack.attempt for pack in spares] == [requests.snapshot_id(2)]
    assert spares[0].live_bytes == MiB // 2
    lineage.capture(content[:C] + other[C:])
    assert requests.snapshot_id(2) not in {
        pack.attempt for pack in lineage.report.packs
    }


def test_copies_do_not_add_up():
    content = disks.random_bytes(2 * MiB, seed=5)
    lineage = Lineage(fields={'redundancy': 2})
    for _ in range(12):
        lineage.capture(content)
        held = sum(pack.size for pack in lineage.report.packs)
        assert held <= 2 * len(content)
        assert sum(p.length for p in lineage.report.packs) == len(content)


# Going on


CHILD = b''.join(
    disks.random_bytes(MiB // 2, seed=40 + n // MiB) + BASE[n : n + MiB // 2]
    for n in range(0, len(BASE), MiB)
)


def interrupted(fail_at, **options):
    lineage = Lineage(memory_limit=41 * MiB, clock=BusyClock(), **options)
    lineage.store = Failing()
    lineage.capture(BASE)
    lineage.store.fail_at = f'{requests.snapshot_id(2)}/{fail_at}'
    with pytest.raises(errors.StoreFull):
        lineage.capture(CHILD)
    lineage.store.fail_at = None
    lineage.count = 1
    return lineage


@pytest.fixture(scope='module')
def reference():
    lineage = Lineage(memory_limit=41 * MiB)
    lineage.capture(BASE)
    lineage.capture(CHILD)
    return lineage.objects()


@pytest.mark.parametrize(
    'fail_at',
    [
        *('pack-000001', 'pack-000003', 'pack-000005', 'pack-000006'),
        *('checkpoint-000002', 'map', 'head', 'index', 'report'),
    ],
)
def test_going_on_makes_the_same_objects(fail_at, reference):
    lineage = interrupted(fail_at)
    before = len(checkpoints(lineage, 2))
    assert before or fail_at < 'pack-000004'
    counts = []
    put = lineage.store.put

    def counting(name, data):
        counts.append(name)
        return put(name, data)

    lineage.store.put = counting
    lineage.capture(CHILD)
    assert lineage.report.parent == requests.snapshot_id(1)
    found = {
        name: data
        for name, data in lineage.objects().items()
        if 'checkpoint' not in name
    }
    assert found == reference
    if before:
        assert not any(
            name.endswith(f'{requests.snapshot_id(2)}/pack-000001')
            for name in counts
        )


@pytest.mark.parametrize('other', ['parent', 'none', 'redundancy'])
def test_another_parent_is_a_fresh_start(other, caplog):
    lineage = interrupted('map')
    assert checkpoints(lineage, 2)
    changes = {'fields': {'redundancy': 9}}
    if other == 'none':
        changes = {'parent': None}
    elif other == 'parent':
        lineage.count = 6
        lineage.capture(change(BASE, 0, bytes(C)))
        lineage.count = 1
        changes = {}
    lineage.capture(CHILD, **changes)
    assert 'afresh' in caplog.text
    assert bool(lineage.report.parent) == (other != 'none')
