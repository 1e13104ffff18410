# SPDX-License-Identifier: Apache-2.0
"""Damage to what a snapshot shares with its parent is always noticed."""

import copy
import dataclasses
import functools
import random

import pytest

from ironic_snapshot_core import catalogue
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import units
from ironic_snapshot_core.store import directory
from ironic_snapshot_core.store import memory
from tests import disks
from tests.contract import capture_requests as requests
from tests.contract import cli
from tests.contract import generations

KiB, MiB = units.KiB, units.MiB
# Few of them, and yet several packs.
CLUSTER = 256 * KiB

#: How a reader says that it does not take something for a snapshot.
REFUSED = (
    errors.Corrupted,
    errors.UnsupportedVersion,
    errors.UnsupportedFeature,
    errors.ObjectMismatch,
    errors.ObjectTooLarge,
)

# Each changes three or four clusters of the one before.
OLD = 'ABCDEFGHIJKLMNOPQRSTUVWXYZab-c'
MIDDLE = 'ABCDEFGHIJ\u0391MNOPQRSTU\u0392\u0393XYZab-cd'
NEW = 'ABCDEF\u0394HIJ\u0391MN\u0395PQRSTU\u0392\u0393XYZae-c\u0396d'
NEXT = 'BCDEF\u0394HIJ\u0391MN\u0395\u0397QRSTU\u0398\u0393XYZae-c\u0396dA'


class Family:
    """A snapshot, its child and its grandchild, in memory.

    Nothing there knows what an object was before, so it is for the readers
    to notice.
    """

    def __init__(self, store=None):
        self.store = store or memory.MemoryStore()
        self.repository = generations.Repository(
            self.store, cluster_size=CLUSTER
        )
        self.first = self.take(OLD)
        self.parent = self.take(MIDDLE)
        self.child = self.take(NEW)
        assert self.child.parent == self.parent.id
        assert [each.id for each in self.child.attempts] == [
            self.first.id,
            self.parent.id,
            self.child.id,
        ]

    def take(self, picture, parent='auto'):
        return self.repository.take(draw(picture), parent)

    def name(self, whose, what):
        """Name an object: manifest, map, head, index or a pack."""
        snapshot = getattr(self, whose).id
        if what == 'manifest':
            return layout.manifest_name(requests.LINEAGE, snapshot)
        return layout.attempt_prefix(requests.LINEAGE, snapshot) + what

    def get(self, name):
        return self.store.get(name, 8 * MiB)

    def read(self, whose='child'):
        """Read a snapshot from its manifest on, as an export does."""
        found = catalogue.read(
            self.store, requests.LINEAGE, getattr(self, whose).id, None
        )
        return generations.read_all(self.repository.reader(found))

    def listed(self):
        return [each.id for each in self.repository.entries()]


@functools.cache
def undamaged():
    return Family()


@pytest.fixture
def family():
    """The same one for each test, in a store of its own."""
    found = copy.copy(undamaged())
    found.store = memory.MemoryStore()
    found.store._objects = dict(undamaged().store._objects)
    found.repository = generations.Repository(
        found.store, cluster_size=CLUSTER
    )
    return found


@functools.cache
def draw(picture):
    return disks.draw(picture, CLUSTER)


def flip(data, bit):
    damaged = bytearray(data)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def unchecked(record, **changes):
    """Change a record as nobody could who must make a valid one."""
    changed = copy.copy(record)
    for name, value in changes.items():
        object.__setattr__(changed, name, value)
    return changed


def dense(data, seed=1, edge=64):
    """Choose bits: one of each byte, all of those at the edges."""
    source = random.Random(seed)
    size = len(data)
    for byte in range(size):
        if byte < edge or byte >= size - edge:
            yield from range(8 * byte, 8 * byte + 8)
        else:
            yield 8 * byte + source.randrange(8)


def sparse(data, count, seed=2):
    return random.Random(seed).sample(range(8 * len(data)), count)


#: Of a child: what its disk is put together by, (whose, which).
INDEXES_AND_MAP = [
    ('first', 'index'),
    ('parent', 'index'),
    ('child', 'index'),
    ('child', 'map'),
]
DOCUMENTS = [*INDEXES_AND_MAP, ('child', 'manifest')]


class TestExport:
    """Who reads a snapshot relies on no bit that is not as it was."""

    def test_undamaged(self, family):
        assert family.read() == draw(NEW)
        assert family.read('parent') == draw(MIDDLE)

    @pytest.mark.parametrize('whose, what', INDEXES_AND_MAP)
    def test_every_bit_of_index_and_map(self, family, whose, what):
        name = family.name(whose, what)
        data = family.get(name)
        for bit in range(8 * len(data)):
            family.store.put(name, flip(data, bit))
            with pytest.raises(errors.Corrupted):
                family.repository.reader(family.child)
        family.store.put(name, data)
        assert family.read() == draw(NEW)

    def test_the_bits_of_a_manifest(self, family):
        name = family.name('child', 'manifest')
        data = family.get(name)
        for bit in dense(data):
            family.store.put(name, flip(data, bit))
            with pytest.raises(REFUSED):
                family.read()

    def test_a_damaged_manifest_is_listed_as_such(self, family):
        name = family.name('child', 'manifest')
        data = family.get(name)
        for bit in sparse(data, 50):
            family.store.put(name, flip(data, bit))
            found = {each.id: each for each in family.repository.entries()}
            assert found[family.child.id].manifest is None
            assert found[family.child.id].reason
            assert found[family.parent.id].manifest == family.parent

    @pytest.mark.parametrize('whose, what', DOCUMENTS)
    def test_truncation(self, family, whose, what):
        name = family.name(whose, what)
        data = family.get(name)
        for size in range(0, len(data), 1 + len(data) // 300):
            family.store.put(name, data[:size])
            with pytest.raises(REFUSED):
                family.read()
        family.store.put(name, data + b'\0')
        with pytest.raises(REFUSED):
            family.read()

    @pytest.mark.parametrize('what', ['index', 'map', 'manifest'])
    @pytest.mark.parametrize('source', ['first', 'parent'])
    def test_what_belongs_to_another(self, family, source, what):
        """It is whole and has been written by us, but is not this one."""
        family.store.put(
            family.name('child', what), family.get(family.name(source, what))
        )
        with pytest.raises(REFUSED):
            family.read()

    @pytest.mark.parametrize('whose', ['first', 'parent', 'child'])
    def test_bits_of_a_pack(self, family, whose):
        """What nobody reads may change; no other byte is ever given."""
        name = family.name(whose, layout.pack_name(1))
        data = family.get(name)
        noticed = 0
        # The room behind the clusters is zero.
        used = data.rstrip(b'\0')
        for bit in sparse(used, 40):
            family.store.put(name, flip(data, bit))
            try:
                assert family.read() == draw(NEW)
            except errors.Corrupted:
                noticed += 1
        assert noticed

    @pytest.mark.parametrize('whose', ['parent', 'child'])
    def test_the_pack_of_another(self, family, whose):
        family.store.put(
            family.name(whose, layout.pack_name(1)),
            family.get(family.name('first', layout.pack_name(1))),
        )
        with pytest.raises(errors.Corrupted):
            family.read()

    @pytest.mark.parametrize('whose', ['first', 'parent', 'child'])
    @pytest.mark.parametrize('what', ['index', layout.pack_name(1)])
    def test_what_is_missing(self, family, whose, what):
        family.store.delete(family.name(whose, what))
        with pytest.raises((errors.Corrupted, errors.ObjectMissing)):
            family.read()

    def test_bits_of_the_image(self, tmp_path):
        """Of its head, and of the packs of either attempt."""
        store = directory.DirectoryStore(tmp_path)
        family = Family(store)
        image = family.child.image
        assert len(store.get(image.name, image.size)) == image.size
        for whose, what in [
            ('child', 'head'),
            ('child', layout.pack_name(1)),
            ('parent', layout.pack_name(1)),
        ]:
            path = tmp_path / family.name(whose, what)
            data = path.read_bytes()
            for bit in [0, 8 * len(data) - 1, *sparse(data, 20)]:
                # The store's own note of what it was stays as it is.
                path.write_bytes(flip(data, bit))
                with pytest.raises(errors.ObjectMismatch):
                    store.get(image.name, image.size)
            path.write_bytes(data)
        assert len(store.get(image.name, image.size)) == image.size

    @pytest.mark.parametrize(
        'whose, what',
        [
            ('child', 'head'),
            ('first', layout.pack_name(1)),
            ('parent', layout.pack_name(1)),
            ('child', 'manifest'),
        ],
    )
    def test_the_command_exports_nothing_damaged(
        self, tmp_path, whose, what
    ):
        (tmp_path / 'store').mkdir()
        family = Family(directory.DirectoryStore(tmp_path / 'store'))
        path = tmp_path / 'store' / family.name(whose, what)
        path.write_bytes(flip(path.read_bytes(), 8 * 100))
        done = cli.run(
            'export',
            tmp_path / 'store',
            family.child.id,
            tmp_path / 'out.qcow2',
        )
        assert done.returncode
        assert 'Traceback' not in done.stderr
        assert not (tmp_path / 'out.qcow2').exists()


class TestAsParent:
    """A damaged snapshot is never built upon."""

    def judge_next(self, family, plan=None):
        """Take the next one; it must not rely on the damaged child."""
        content = draw(NEXT)
        attempt = family.repository.capture(content, plan=plan)
        report = attempt.captured.report
        assert report.parent != family.child.id
        assert (report.parent is None) == bool(report.full_reason)
        found = family.repository.commit(attempt)
        assert found.parent == report.parent
        assert found.full_reason == report.full_reason
        reader = family.repository.reader(found)
        assert generations.read_all(reader) == content
        own = layout.snapshots_prefix(requests.LINEAGE) + found.id
        for info in list(family.store.list(own)):
            family.store.delete(info.name)
        return report

    @pytest.mark.parametrize('whose, what', DOCUMENTS)
    def test_a_flipped_bit(self, family, whose, what):
        name = family.name(whose, what)
        data = family.get(name)
        for bit in sparse(data, 6):
            family.store.put(name, flip(data, bit))
            self.judge_next(family)
            family.store.put(name, data)
        assert family.take(NEXT).parent == family.child.id

    @pytest.mark.parametrize('what', ['manifest', 'map', 'index'])
    def test_a_bit_that_flips_after_the_choice(self, family, what):
        name = family.name('child', what)
        data = family.get(name)
        for bit in sparse(data, 4):
            plan = family.repository.plan()
            assert plan.choice.manifest == family.child
            family.store.put(name, flip(data, bit))
            report = self.judge_next(family, plan)
            assert report.parent is None
            family.store.put(name, data)

    @pytest.mark.parametrize('what', ['manifest', 'map', 'index'])
    @pytest.mark.parametrize('source', ['first', 'parent'])
    def test_what_belongs_to_another(self, family, source, what):
        family.store.put(
            family.name('child', what), family.get(family.name(source, what))
        )
        self.judge_next(family)

    @pytest.mark.parametrize('what', ['manifest', 'map', 'index'])
    def test_truncation(self, family, what):
        name = family.name('child', what)
        data = family.get(name)
        for size in (0, len(data) - 1):
            family.store.put(name, data[:size])
            self.judge_next(family)

    @pytest.mark.parametrize('what', ['map', 'index'])
    def test_one_that_is_missing(self, family, what):
        family.store.delete(family.name('child', what))
        report = self.judge_next(family)
        assert report.full_reason

    def test_a_damaged_one_is_refused_by_name(self, family):
        name = family.name('child', 'manifest')
        data = family.get(name)
        for bit in sparse(data, 25):
            family.store.put(name, flip(data, bit))
            with pytest.raises(errors.ParentUnsuitable):
                family.take(NEXT, parent=family.child.id)


class TestCommit:
    """What is not all there does not become a snapshot."""

    @pytest.fixture
    def attempt(self, family):
        attempt = family.repository.capture(draw(NEXT))
        assert attempt.captured.report.parent == family.child.id
        return attempt

    def refuse(self, family, attempt, error=errors.Error):
        before = family.listed()
        with pytest.raises(error):
            family.repository.commit(attempt)
        assert family.listed() == before
        name = layout.manifest_name(requests.LINEAGE, attempt.snapshot)
        with pytest.raises(errors.ObjectMissing):
            family.store.stat(name)

    def test_undamaged(self, family, attempt):
        found = family.repository.commit(attempt)
        assert family.listed()[-1] == found.id

    @pytest.mark.parametrize('whose', ['first', 'parent', 'child'])
    @pytest.mark.parametrize('what', [layout.pack_name(1), 'index'])
    def test_what_a_parent_lost(self, family, attempt, whose, what):
        family.store.delete(family.name(whose, what))
        self.refuse(family, attempt)

    @pytest.mark.parametrize('whose', ['first', 'parent', 'child'])
    @pytest.mark.parametrize('what', [layout.pack_name(1), 'index'])
    def test_what_a_parent_has_otherwise(
        self, family, attempt, whose, what
    ):
        name = family.name(whose, what)
        family.store.put(name, flip(family.get(name), 100))
        self.refuse(family, attempt)

    def test_a_parent_that_is_gone(self, family, attempt):
        family.store.delete(family.name('child', 'manifest'))
        self.refuse(family, attempt, errors.ParentGone)

    def test_a_parent_that_is_another(self, family, attempt):
        name = family.name('child', 'manifest')
        changed = dataclasses.replace(family.child, name='another')
        family.store.put(name, changed.to_bytes(None))
        self.refuse(family, attempt, errors.ParentGone)

    # What a ramdisk that lies could report.

    def report(self, family, attempt, **changes):
        """Put another report in place of its own."""
        report = unchecked(attempt.captured.report, **changes)
        data = report.to_bytes()
        name = (
            layout.attempt_prefix(requests.LINEAGE, attempt.snapshot)
            + layout.REPORT
        )
        info = family.store.put(name, data)
        record = manifests.ObjectRecord(
            len(data), info.etag, requests.blake3(data)
        )
        return dataclasses.replace(
            attempt,
            captured=dataclasses.replace(
                attempt.captured, report=report, record=record
            ),
        )

    def test_its_own_report_again(self, family, attempt):
        found = family.repository.commit(self.report(family, attempt))
        assert found.parent == family.child.id

    @pytest.mark.parametrize(
        'changes',
        [
            {'size': 2 * MiB},
            {'etag': '0' * 32},
            {'clusters': 1},
            {'generations': 1},
            {'generations': 9},
            {'name': layout.pack_name(7)},
            {'attempt': requests.SNAPSHOT},
            {'start': CLUSTER // 2},
            {'length': CLUSTER // 2},
        ],
        ids=str,
    )
    def test_packs_that_are_not_the_parents(
        self, family, attempt, changes
    ):
        first, *rest = attempt.captured.report.packs
        assert first.attempt == family.first.id
        wrong = unchecked(first, **changes)
        assert wrong != first
        self.refuse(
            family, self.report(family, attempt, packs=(wrong, *rest))
        )

    def test_attempts_that_are_not_the_parents(self, family, attempt):
        first, *rest = attempt.captured.report.attempts
        for wrong in (
            unchecked(first, id=requests.SNAPSHOT),
            unchecked(
                first,
                lineage=layout.Lineage(requests.SNAPSHOT, requests.NODE),
            ),
            unchecked(first, index=family.child.map),
        ):
            self.refuse(
                family,
                self.report(family, attempt, attempts=(wrong, *rest)),
            )

    def test_a_parent_that_nobody_gave_it(self, family, attempt):
        self.refuse(
            family, self.report(family, attempt, parent=family.first.id)
        )

    def test_a_full_one_with_packs_of_others(self, family, attempt):
        self.refuse(
            family,
            self.report(
                family, attempt, parent=None, full_reason='it says so'
            ),
        )

