# SPDX-License-Identifier: Apache-2.0
"""A node that lives for long: every snapshot always reads as its disk."""

import dataclasses
import statistics
import time
import zlib

import pytest

from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import units
from ironic_snapshot_core.store import directory
from tests import disks
from tests.contract import generations

KiB, MiB = units.KiB, units.MiB
CLUSTER = 64 * KiB

pytestmark = disks.needs_qemu_img

#: So many snapshots are kept of all that are taken; which of them go is left
#: to chance.
KEPT = 8

#: The disk: 160 packs of the size wanted here, as 10 GiB are 160 of the usual
#: 64 MiB. What is small on such a disk is not on this one: the padding of
#: packs to 1 MiB and to clusters, and the heads, are 9 % of what is stored.
DISK = 160 * MiB
#: It grows and shrinks between these.
LEAST, MOST = 144 * MiB, 192 * MiB
#: Written from one snapshot to the next: 5 % of the disk, in runs that begin
#: anywhere and have up to a third of it, 1.3 packs on average. Shorter ones
#: leave more behind that is dead; the design says how much.
CHANGE = 8 * MiB

#: All that is stored, documents included, to what is alive: the distinct
#: clusters of all snapshots that are left, each once, as compressed as in
#: packs. Whenever a prune has run.
STORED = 1.5

#: Processor time of the last captures to that of the first incremental ones,
#: for each byte of the disk.
TIME = 1.5


@dataclasses.dataclass
class Life:
    """A disk, its snapshots, and what each of them must read as."""

    model: generations.Model
    store: directory.DirectoryStore
    repository: generations.Repository
    proof: generations.Proof
    alive: dict = dataclasses.field(default_factory=dict)
    states: dict = dataclasses.field(default_factory=dict)
    seconds: list = dataclasses.field(default_factory=list)
    wall: list = dataclasses.field(default_factory=list)

    @classmethod
    def begin(cls, folder, size, seed, **options):
        (folder / 'store').mkdir()
        store = directory.DirectoryStore(folder / 'store')
        model = generations.Model(size, CLUSTER, seed)
        return cls(
            model,
            store,
            generations.Repository(store, cluster_size=CLUSTER, **options),
            generations.Proof(store, model, folder),
        )

    @property
    def newest(self):
        return list(self.alive.values())[-1]

    def take(self):
        """Take a snapshot of what the disk is now."""
        before = self.newest if self.alive else None
        state = self.model.state()
        disk = self.model.disk(state)
        wall, processor = time.perf_counter(), time.process_time()
        found = self.repository.take(disk)
        # Of a disk that has grown it takes longer, and so does everything
        # when others are at work on this machine.
        unit = state.size * pace()
        self.seconds.append((time.process_time() - processor) / unit)
        self.wall.append((time.perf_counter() - wall) / unit)
        self.alive[found.id], self.states[found.id] = found, state
        if before:
            assert (found.parent, found.full_reason) == (before.id, None)
            self.check_upload(found, state, self.states[before.id])
        return found

    def check_upload(self, found, state, before):
        """What is new, padding, and what is stored again, a little."""
        new = self.model.new_bytes(state, before)
        image = sum(pack.length for pack in found.packs)
        pack = self.repository.options['pack_size'] + CLUSTER
        assert found.totals.stored_bytes <= new + pack + image / 8 + pack

    def delete(self, snapshot):
        self.repository.delete(snapshot)
        del self.alive[snapshot], self.states[snapshot]
        self.proof.forget(snapshot)

    def prove(self, everything=False, alternate=0):
        """Prove that everything reads as it should.

        :param everything: prove the others once more beside the newest, by
            qemu-img and our own reader; not only look whether anything of
            theirs was touched.
        :param alternate: if not, by which of the two the newest is proved.
        """
        newest = self.newest
        for found in self.alive.values() if everything else [newest]:
            state = self.states[found.id]
            if everything or not alternate:
                self.proof.judge(found, state)
            if everything or alternate:
                self.proof.read(found, state)
        self.prove_untouched()

    def prove_untouched(self):
        """Prove that nothing was touched that was read before."""
        listed = self.repository.entries()
        assert {entry.id for entry in listed} == self.alive.keys()
        assert all(entry.manifest for entry in listed)
        for found in self.alive.values():
            assert self.proof.untouched(found), found.id

    def stored_ratio(self):
        live = self.model.live_bytes(self.states.values())
        return generations.stored_bytes(self.store) / live


def pace():
    """Take the processor time of some work that is always the same."""
    data = memoryview(bytes(8 * MiB))
    began = time.process_time()
    for start in range(0, len(data), CLUSTER):
        part = data[start : start + CLUSTER]
        zlib.crc32(part)
        digests.DEFAULT_DIGEST.digest(part)
    return time.process_time() - began


def growth(values):
    """Compare the last ten with those behind the first."""
    return statistics.median(values[-10:]) / statistics.median(values[1:11])


@pytest.mark.timeout(900)
def test_two_hundred_generations(tmp_path, capsys):
    life = Life.begin(tmp_path, DISK, seed=4, workers=2)
    source = life.model.random
    life.model.fill(0.8)
    ratios, packs = [], []
    for number in range(200):
        if number:
            life.model.maybe_resize(LEAST, MOST)
            life.model.change(CHANGE)
        found = life.take()
        packs.append(len(found.packs))
        life.prove(everything=number % 50 == 49, alternate=number % 2)
        old = list(life.alive)[:-1]
        if len(old) > 3 and source.random() < 0.5:
            surplus = max(1, len(old) - KEPT)
            for snapshot in source.sample(
                old, source.randint(surplus, surplus + 1)
            ):
                life.delete(snapshot)
            life.repository.prune()
            ratios.append(life.stored_ratio())
            life.prove_untouched()
            life.model.forget(life.states.values())
    time_ratio = growth(life.seconds)
    wall_ratio = growth(life.wall)
    for snapshot in list(life.alive)[:-1]:
        life.delete(snapshot)
    life.repository.prune()
    life.prove()
    alone = life.stored_ratio()
    with capsys.disabled():
        print(
            f'\n200 generations: stored/live {max(ratios):.2f} at most, '
            f'{statistics.median(ratios):.2f} as a rule, '
            f'{alone:.2f} of the last one '
            'alone; processor time of the last 10 to the first '
            f'{time_ratio:.2f}, wall {wall_ratio:.2f}; packs of an image '
            f'{packs[0]} at first, {max(packs)} at most'
        )
    assert max(*ratios, alone) <= STORED
    assert time_ratio <= TIME
    # A disk of random bytes could not do with fewer.
    assert max(packs) <= MOST // life.repository.options['pack_size']


@pytest.mark.timeout(300)
def test_a_lost_pack_costs_nothing_that_has_a_second_copy(tmp_path, capsys):
    life = Life.begin(tmp_path, 16 * MiB, seed=5, workers=2, redundancy=3)
    life.model.fill(0.7)
    for _ in range(40):
        found = life.take()
        life.prove()
        life.model.change(512 * KiB)
        old = list(life.alive)[:-1]
        if len(old) > 5:
            life.delete(life.model.random.choice(old))
            life.repository.prune()
    assert any(pack.spare for pack in found.packs)
    state = life.states[found.id]
    damages = Damages(life, found)
    whole = [
        damages.judge(pack, state, harm)
        for pack in found.packs
        for harm in (damages.lose, damages.flip)
    ]
    with capsys.disabled():
        print(
            f'\n{sum(whole)} of {len(whole)} damages did no harm; '
            f'{len(found.packs)} packs, '
            f'{sum(pack.spare for pack in found.packs)} of them spares'
        )
    assert any(whole)


class Damages:
    """Does something to one pack at a time, and reads the snapshot."""

    def __init__(self, life, manifest):
        self._life = life
        self._manifest = manifest
        self._lineages = {each.id: each.lineage for each in manifest.attempts}
        self._copies = {}
        self._where = {}
        for pack in manifest.packs:
            for digest in self._digests(pack):
                self._copies.setdefault(digest, []).append(pack)
        self._undo = None

    def lose(self, pack):
        path = self._path(pack)
        aside = path.with_name(f'~{path.name}')
        path.rename(aside)
        self._undo = lambda: aside.rename(path)

    def flip(self, pack):
        """Flip one bit of a cluster, as a bad disk does."""
        path = self._path(pack)
        data = path.read_bytes()
        index = self._index(pack)
        position = self._life.model.random.randrange(len(index))
        offset = self._life.model.random.randrange(
            index.offsets[position], index.offsets[position + 1]
        )
        with open(path, 'r+b') as f:
            f.seek(offset)
            f.write(bytes([data[offset] ^ 0x10]))

        def undo():
            with open(path, 'r+b') as f:
                f.seek(offset)
                f.write(data[offset : offset + 1])

        self._undo = undo

    def judge(self, pack, state, harm):
        """Do the harm; tell whether the snapshot reads whole.

        It must, if each cluster of the pack has a second copy; and it must
        never read as anything else.
        """
        doubled = all(
            len(self._copies[digest]) > 1
            for digest in self._digests(pack)
            if digest in state.clusters.values()
        )
        harm(pack)
        try:
            found = generations.read_all(
                self._life.repository.reader(self._manifest)
            )
        except (errors.Corrupted, errors.StoreError):
            assert not doubled, f'{pack} is in the way'
            return False
        finally:
            self._undo()
        assert found == self._life.model.render(state)
        return True

    # Private

    def _path(self, pack):
        prefix = layout.attempt_prefix(
            self._lineages[pack.attempt], pack.attempt
        )
        return self._life.store.path / (prefix + pack.name)

    def _index(self, pack):
        return generations.index_pack(
            self._life.store, self._lineages[pack.attempt], pack
        )

    def _digests(self, pack):
        return [entry.digest for entry in self._index(pack).entries]
