# SPDX-License-Identifier: Apache-2.0
"""Any disks, any family of snapshots: each reads as what was captured."""

import pathlib
import tempfile
import threading
from concurrent import futures

import hypothesis
import pytest
from hypothesis import stateful
from hypothesis import strategies

from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core import units
from ironic_snapshot_core.store import memory
from tests import disks
from tests.contract import capture_requests as requests
from tests.contract import generations

KiB, MiB = units.KiB, units.MiB
PIECE = 32 * KiB
LETTERS = '--aAbBcCdDeEfF'

LINEAGES = [
    requests.LINEAGE,
    layout.Lineage(requests.NODE, '44444444-4444-4444-8444-444444444444'),
]

#: What a disk is made of: letters, each a piece of half a small cluster,
#: and sectors at its end that fill no cluster.
pictures = strategies.lists(
    strategies.sampled_from(LETTERS), min_size=1, max_size=40
)
tails = strategies.integers(0, 127)


def draw(picture, tail):
    return disks.draw(''.join(picture), PIECE) + disks.random_bytes(
        512 * tail, seed=tail
    )


def judge(store, taken, content):
    """Have qemu-img judge the image of a snapshot."""
    with tempfile.TemporaryDirectory() as path:
        folder = pathlib.Path(path)
        source = folder / 'disk'
        source.write_bytes(content)
        generations.judge(store, taken, source, folder)


class Family(stateful.RuleBasedStateMachine):
    """Snapshots of a disk that changes, in whatever order things happen."""

    def __init__(self):
        super().__init__()
        self.store = memory.MemoryStore()
        self.repositories = [
            generations.Repository(self.store, lineage)
            for lineage in LINEAGES
        ]
        self.disk = list('aA-')
        self.tail = 0
        # id -> (repository, manifest, content), in the order of their birth
        self.alive = {}
        # (repository, attempt, content)
        self.waiting = []
        self.given_up = []
        self.expired = set()

    def teardown(self):
        for _, found, content in list(self.alive.values())[-2:]:
            judge(self.store, found, content)

    @stateful.rule(picture=pictures, tail=tails)
    def replace(self, picture, tail):
        self.disk, self.tail = picture, tail

    @stateful.rule(
        changes=strategies.lists(
            strategies.tuples(
                strategies.integers(0, 39), strategies.sampled_from(LETTERS)
            ),
            min_size=1,
            max_size=4,
        )
    )
    def write(self, changes):
        for position, letter in changes:
            self.disk[position % len(self.disk)] = letter

    @stateful.rule(
        pieces=strategies.integers(-10, 10),
        tail=tails,
        letter=strategies.sampled_from('-bQ'),
    )
    def resize(self, pieces, tail, letter):
        if pieces < 0:
            self.disk = self.disk[:pieces] or ['A']
        else:
            self.disk += [letter] * pieces
        self.tail = tail

    @stateful.rule(
        number=strategies.integers(0, 1),
        power=strategies.sampled_from([16, 16, 16, 16, 17, 18]),
        workers=strategies.integers(1, 3),
        redundancy=strategies.sampled_from([0, 0, 1, 2]),
        later=strategies.sampled_from([False, False, False, True]),
    )
    def auto(self, number, power, **options):
        repository = self.repositories[number]
        known = [
            found
            for mine, found, _ in self.alive.values()
            if mine is repository and found.cluster_size == 1 << power
        ]
        attempt = self._capture(repository, 'auto', power, **options)
        if known:
            assert attempt.captured.report.parent == known[-1].id
        else:
            assert attempt.captured.report.full_reason

    @stateful.rule(number=strategies.integers(0, 1))
    def full(self, number):
        attempt = self._capture(self.repositories[number], 'none', 16)
        report = attempt.captured.report
        assert report.parent is None
        assert report.full_reason
        assert len(report.attempts) <= 1

    @stateful.precondition(lambda self: self.alive)
    @stateful.rule(
        number=strategies.integers(0, 1),
        which=strategies.integers(0, 20),
        workers=strategies.integers(1, 3),
    )
    def named(self, number, which, workers):
        """Any snapshot of any lineage can be a parent, if it is asked for."""
        _, parent, _ = list(self.alive.values())[which % len(self.alive)]
        repository = self.repositories[number]
        power = parent.cluster_size.bit_length() - 1
        attempt = self._capture(
            repository, parent.id, power, workers=workers
        )
        assert attempt.captured.report.parent == parent.id
        other = 17 if power == 16 else 16
        with pytest.raises(errors.ParentUnsuitable):
            self._capture(repository, parent.id, other)

    @stateful.precondition(lambda self: self.waiting)
    @stateful.rule()
    def commit(self):
        """Commit what was captured some time ago."""
        repository, attempt, content = self.waiting.pop(0)
        try:
            self._commit(repository, attempt, content)
        except errors.Error:
            # Whatever it needs may be gone by now.
            assert attempt.snapshot in self.expired
            self.given_up.append(attempt)

    @stateful.precondition(lambda self: self.waiting)
    @stateful.rule()
    def give_up(self):
        """An attempt fails, and what it has stored stays behind."""
        self.given_up.append(self.waiting.pop(0)[1])

    @stateful.rule()
    def let_leases_expire(self):
        """So much time goes by that nobody waits for them any more."""
        for attempt in [each for _, each, _ in self.waiting] + self.given_up:
            self.expired.add(attempt.snapshot)
            parent = attempt.choice.manifest
            lease.put(
                self.store,
                attempt.lineage,
                lease.Lease(attempt.snapshot, parent and parent.id, 1),
            )

    @stateful.precondition(lambda self: self.alive)
    @stateful.rule(which=strategies.integers(0, 20))
    def delete(self, which):
        repository, found, _ = list(self.alive.values())[
            which % len(self.alive)
        ]
        relied_upon = {
            attempt.choice.manifest.id
            for attempt in (
                *(each for _, each, _ in self.waiting),
                *self.given_up,
            )
            if attempt.choice.manifest
            and attempt.snapshot not in self.expired
        }
        if found.id in relied_upon:
            with pytest.raises(errors.SnapshotInUse):
                repository.delete(found.id)
        else:
            repository.delete(found.id)
            del self.alive[found.id]

    @stateful.rule()
    def prune(self):
        self.repositories[0].prune()

    @stateful.invariant()
    def everything_reads_as_it_was(self):
        for repository in self.repositories:
            mine = [
                found
                for each, found, _ in self.alive.values()
                if each is repository
            ]
            assert [each.manifest for each in repository.entries()] == mine
        for repository, found, content in self.alive.values():
            reader = repository.reader(found)
            assert generations.read_all(reader) == content
            assert not reader.repaired
            image = self.store.get(found.image.name, units.GiB)
            assert len(image) == found.image.size
            assert image.startswith(b'QFI\xfb')

    def _capture(self, repository, parent, power, later=False, **options):
        content = draw(self.disk, self.tail)
        attempt = repository.capture(
            content, parent, cluster_size=1 << power, **options
        )
        if later:
            self.waiting.append((repository, attempt, content))
        else:
            self._commit(repository, attempt, content)
        return attempt

    def _commit(self, repository, attempt, content):
        found = repository.commit(attempt)
        self.alive[found.id] = repository, found, content


Family.TestCase.settings = hypothesis.settings(
    deadline=None, max_examples=25, stateful_step_count=15
)
TestFamily = disks.needs_qemu_img(Family.TestCase)


def objects_by_workers(repository, content, numbers):
    """Capture one disk with each number of workers; give what is stored."""
    made = []
    for workers in numbers:
        plan = repository.plan(snapshot=requests.SNAPSHOT, workers=workers)
        assert plan.choice.manifest
        repository.capture(content, plan=plan)
        made.append(requests.objects(repository.store))
        for info in list(repository.store.list(requests.PREFIX)):
            repository.store.delete(info.name)
    return made


class TestWorkers:
    """What is stored depends on the disk and its parent alone."""

    @hypothesis.given(
        before=pictures,
        changes=strategies.lists(
            strategies.tuples(
                strategies.integers(0, 39), strategies.sampled_from(LETTERS)
            ),
            max_size=10,
        ),
        tail=tails,
        power=strategies.integers(16, 18),
        redundancy=strategies.integers(0, 2),
    )
    @hypothesis.settings(deadline=None, max_examples=25)
    def test_any_number_of_them_makes_the_same_objects(
        self, before, changes, tail, power, redundancy
    ):
        options = {'cluster_size': 1 << power, 'redundancy': redundancy}
        store = memory.MemoryStore()
        repository = generations.Repository(store, **options)
        repository.take(draw(before, 0))
        repository.take(draw(before[::-1], tail))
        after = list(before)
        for position, letter in changes:
            after[position % len(after)] = letter
        content = draw(after, tail)
        made = objects_by_workers(repository, content, (1, 2, 3))
        assert made[0] == made[1] == made[2]
        assert made[0]['map']

    def test_a_large_disk(self):
        """So large that threads overtake each other."""
        store = memory.MemoryStore()
        repository = generations.Repository(store)
        model = generations.Model(12 * MiB, 64 * KiB, seed=8)
        model.fill(0.8)
        repository.take(model.render(model.state()))
        model.change(2 * MiB)
        content = model.render(model.state())
        made = objects_by_workers(repository, content, (1, 2, 3, 6))
        assert made[0] == made[1] == made[2] == made[3]
        assert {'map', 'head', 'index', 'pack-000001'} <= made[0].keys()


class TestTogether:
    """Two captures of one disk at the same time."""

    @pytest.mark.parametrize('same_parent', [True, False])
    def test_both_are_snapshots(self, same_parent):
        store = memory.MemoryStore()
        repository = generations.Repository(store, workers=2)
        model = generations.Model(8 * MiB, 64 * KiB, seed=9)
        model.fill(0.8)
        first = repository.take(model.render(model.state()))
        model.change(MiB)
        content = model.render(model.state())
        parents = [first.id, first.id if same_parent else 'none']
        ready = threading.Barrier(len(parents))

        def take(parent):
            ready.wait(30)
            attempt = repository.capture(content, parent)
            ready.wait(30)
            return repository.commit(attempt)

        with futures.ThreadPoolExecutor(len(parents)) as pool:
            taken = list(pool.map(take, parents))
        listed = {entry.id for entry in repository.entries()}
        assert listed == {first.id, *(each.id for each in taken)}
        for found, parent in zip(taken, parents, strict=True):
            assert (found.parent or 'none') == parent
            assert generations.read_all(repository.reader(found)) == content
            judge(store, found, content)
        # Neither needs the other, nor the one that both were made of.
        repository.delete(first.id)
        repository.delete(taken[0].id)
        repository.prune()
        assert generations.read_all(repository.reader(taken[1])) == content
        judge(store, taken[1], content)

    def test_a_prune_at_the_same_time_leaves_them_alone(self):
        store = memory.MemoryStore()
        repository = generations.Repository(store, workers=2)
        model = generations.Model(8 * MiB, 64 * KiB, seed=10)
        model.fill(0.8)
        first = repository.take(model.render(model.state()))
        over = threading.Event()

        def prune():
            while not over.is_set():
                repository.prune()

        contents = {}
        with futures.ThreadPoolExecutor(3) as pool:
            pruning = pool.submit(prune)
            try:
                for _ in range(6):
                    model.change(512 * KiB)
                    content = model.render(model.state())
                    taken = list(
                        pool.map(repository.take, [content, content])
                    )
                    contents.update((each.id, content) for each in taken)
            finally:
                over.set()
            pruning.result(60)
        repository.delete(first.id)
        repository.prune()
        listed = repository.entries()
        assert {entry.id for entry in listed} == contents.keys()
        for entry in listed:
            reader = repository.reader(entry.manifest)
            assert generations.read_all(reader) == contents[entry.id]


def test_small_changes_make_few_packs():
    """They are stored again together, now and then."""
    store = memory.MemoryStore()
    repository = generations.Repository(store, pack_size=8 * MiB)
    model = generations.Model(12 * MiB, 64 * KiB, seed=11)
    model.fill(0.8)
    packs = []
    for number in range(40):
        model.write(number * 256 * KiB, model.random.randbytes(64 * KiB))
        content = model.render(model.state())
        found = repository.take(content)
        packs.append(len(found.packs))
    assert max(packs) <= 24
    assert generations.read_all(repository.reader(found)) == content
    judge(store, found, content)
