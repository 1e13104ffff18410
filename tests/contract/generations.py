# SPDX-License-Identifier: Apache-2.0
"""A disk that changes from generation to generation, and its snapshots.

The model knows what each snapshot must read as; the repository takes them as
a conductor and an agent do; the proof compares the two.
"""

import contextlib
import dataclasses
import json
import os
import random
import struct
import subprocess
import uuid

from ipa_snapshot_hardware import arguments as step_arguments
from ipa_snapshot_hardware import budget
from ipa_snapshot_hardware import capture
from ipa_snapshot_hardware import executor
from ipa_snapshot_hardware import request as step_request
from ipa_snapshot_hardware.disk import base as disks
from ipa_snapshot_hardware.disk import memory as memory_disk
from ironic_snapshot_core import catalogue
from ironic_snapshot_core import clock as clocks
from ironic_snapshot_core import codec as codecs
from ironic_snapshot_core import commit
from ironic_snapshot_core import digest as digests
from ironic_snapshot_core import document
from ironic_snapshot_core import grant as grants
from ironic_snapshot_core import index as indexes
from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core import manifest as manifests
from ironic_snapshot_core import parent as parents
from ironic_snapshot_core import prune
from ironic_snapshot_core import snapshot_reader
from ironic_snapshot_core import units
from tests.contract import capture_requests as requests

KiB, MiB = units.KiB, units.MiB
SECTOR = 512


# The model


@dataclasses.dataclass(frozen=True)
class State:
    """A disk at one time: what is in its clusters, zeroes left out.

    :param clusters: number -> digest.
    """

    size: int
    clusters: dict[int, bytes]


class Model:
    """A disk of which only a little changes at a time."""

    def __init__(self, size, cluster_size, seed):
        self.size = size
        self.cluster_size = cluster_size
        self.random = random.Random(seed)
        self._now = {}
        # digest -> (content, bytes that it takes in a pack)
        self._contents = {}
        self._codec = codecs.get_codec('zstd', 1)

    @property
    def count(self):
        return -(-self.size // self.cluster_size)

    def state(self):
        return State(self.size, dict(self._now))

    def render(self, state):
        """Give the bytes of the disk."""
        zeroes = bytes(self.cluster_size)
        found = b''.join(
            self._contents[state.clusters[number]][0]
            if number in state.clusters
            else zeroes
            for number in range(-(-state.size // self.cluster_size))
        )
        return found[: state.size]

    def disk(self, state):
        """Give a disk that reads as it, without the copy."""
        return StateDisk(state, self.cluster_size, {
            number: self._contents[key][0]
            for number, key in state.clusters.items()
        })

    def write_changes(self, path, before, state):
        """Make a file that has what one state was into another."""
        zeroes = bytes(self.cluster_size)
        with open(path, 'r+b') as f:
            f.truncate(state.size)
            for number in before.clusters.keys() | state.clusters.keys():
                key = state.clusters.get(number)
                offset = number * self.cluster_size
                if key != before.clusters.get(number) and offset < state.size:
                    content = self._contents[key][0] if key else zeroes
                    f.seek(offset)
                    f.write(content[: state.size - offset])

    def live_bytes(self, states):
        """Tell what the distinct clusters of all states take in packs."""
        live = {key for each in states for key in each.clusters.values()}
        return sum(self._contents[key][1] for key in live)

    def new_bytes(self, state, before):
        """Tell what a state has that another one has not, in packs."""
        new = set(state.clusters.values()) - set(before.clusters.values())
        return sum(self._contents[key][1] for key in new)

    def forget(self, states):
        """Drop the contents that no state has."""
        live = set(self._now.values()).union(
            *(each.clusters.values() for each in states)
        )
        for key in self._contents.keys() - live:
            del self._contents[key]

    # How it changes

    def put(self, number, content):
        content = content.ljust(self.cluster_size, b'\0')
        if not content.strip(b'\0'):
            self._now.pop(number, None)
            return
        key = digests.DEFAULT_DIGEST.digest(content)
        if key not in self._contents:
            blob = self._codec.compress(content)
            self._contents[key] = content, len(blob or content)
        self._now[number] = key

    def get(self, number):
        key = self._now.get(number)
        if key is None:
            return bytes(self.cluster_size)
        return self._contents[key][0]

    def write(self, offset, data):
        """Write as a running system does, at any sector."""
        data = data[: self.size - offset]
        while data:
            number, start = divmod(offset, self.cluster_size)
            piece = data[: self.cluster_size - start]
            old = self.get(number)
            self.put(number, old[:start] + piece + old[start + len(piece) :])
            offset += len(piece)
            data = data[len(piece) :]

    def resize(self, size):
        self.size = size
        for number in [each for each in self._now if each >= self.count]:
            del self._now[number]
        inside = size % self.cluster_size
        if inside and self.count - 1 in self._now:
            self.put(self.count - 1, self.get(self.count - 1)[:inside])

    def noise(self, size):
        """Give bytes of which about a half can be compressed."""
        if self.random.random() < 0.5:
            return self.random.randbytes(size)
        line = f'{self.random.random()} of a file that is a text\n'.encode()
        text = bytearray((line * (size // len(line) + 1))[:size])
        for offset in range(0, size, 256):
            text[offset : offset + 16] = self.random.randbytes(16)
        return bytes(text)

    def fill(self, part):
        """Write into a part of the clusters, in runs."""
        while len(self._now) < part * self.count:
            self.write(self._sector(), self.noise(self._length(MiB)))

    def change(self, budget):
        """Let a day pass.

        :param budget: bytes to be written, about.
        """
        source = self.random
        target = sum(
            self._write_some(budget) for _ in range(source.randrange(3, 7))
        )
        while target < budget:
            target += self._write_some(budget)
        if source.random() < 0.5:
            self._move()
        if source.random() < 0.3:
            self._duplicate()
        if source.random() < 0.3:
            self.write(self._sector(), bytes(self._length(512 * KiB)))

    def maybe_resize(self, least, most):
        """Grow or shrink now and then."""
        source = self.random
        if source.random() > 0.15:
            return
        step = source.choice([SECTOR, self.cluster_size])
        largest = (most - least) // 12
        size = self.size + step * source.randint(
            -largest // step // 2, largest // step
        )
        old = self.size
        self.resize(min(max(size, least), most))
        if self.size > old and source.random() < 0.5:
            self.write(old, self.noise(self.size - old))

    # Private

    def _sector(self):
        return self.random.randrange(self.size // SECTOR) * SECTOR

    def _length(self, most):
        return self.random.randint(1, most // SECTOR) * SECTOR

    def _write_some(self, budget):
        size = self._length(budget // 3)
        self.write(self._sector(), self.noise(size))
        return size

    def _some_clusters(self):
        start = self.random.randrange(self.count)
        return range(
            start, min(start + self.random.randint(1, 12), self.count - 1)
        )

    def _move(self):
        """Move some clusters elsewhere; zeroes stay behind."""
        run = self._some_clusters()
        found = [self.get(number) for number in run]
        for number in run:
            self._now.pop(number, None)
        self._lay(found)

    def _duplicate(self):
        self._lay([self.get(number) for number in self._some_clusters()])

    def _lay(self, contents):
        start = self.random.randrange(max(1, self.count - len(contents) - 1))
        for number, content in enumerate(contents, start):
            self.put(number, content)


class StateDisk(disks.Disk):
    """A disk that is in some state, as a capture reads it."""

    name = '/dev/model'
    path = None
    logical_sector_size = SECTOR
    physical_sector_size = SECTOR
    serial = wwn = model = partition_table = None

    def __init__(self, state, cluster_size, contents):
        self.size = state.size
        self._cluster_size = cluster_size
        self._contents = contents
        self._zeroes = bytes(cluster_size)

    def read_into(self, offset, buffer):
        at = 0
        while at < len(buffer):
            number, start = divmod(offset + at, self._cluster_size)
            content = self._contents.get(number, self._zeroes)
            piece = content[start : start + len(buffer) - at]
            buffer[at : at + len(piece)] = piece
            at += len(piece)

    def check_unchanged(self):
        pass

    def close(self):
        pass


# The repository


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a conductor has decided before the capture."""

    snapshot: str
    choice: parents.Choice
    wanted: step_request.CaptureRequest


@dataclasses.dataclass(frozen=True)
class Attempt:
    """A capture that waits for its commit."""

    lineage: layout.Lineage
    snapshot: str
    choice: parents.Choice
    captured: capture.Captured


class Repository:
    """Takes snapshots as a conductor and an agent do.

    :param options: arguments of the agent's step.
    """

    def __init__(self, store, lineage=requests.LINEAGE, **options):
        self.store = store
        self.lineage = lineage
        self.options = {
            'cluster_size': 64 * KiB,
            'pack_size': MiB,
            'codec': 'zstd',
            'codec_level': 1,
            **options,
        }
        self.clock = clocks.SystemClock()

    def take(self, content, parent='auto', **changes):
        """Take a snapshot; give its manifest."""
        return self.commit(self.capture(content, parent, **changes))

    def plan(self, parent='auto', snapshot=None, **changes):
        """Choose a parent, and tell everybody that it is needed."""
        options = {**self.options, **changes}
        snapshot = snapshot or str(uuid.uuid4())
        choice = parents.choose(
            self.store,
            self.lineage,
            parent,
            parents.Wanted(
                cluster_size=options['cluster_size'],
                codec=options['codec'],
                digest=digests.DEFAULT_DIGEST.id,
                project=None,
                allow_degraded=False,
            ),
            None,
        )
        lease.put(
            self.store,
            self.lineage,
            lease.Lease(
                snapshot,
                choice.manifest.id if choice.manifest else None,
                int(self.clock.time()) + 600,
            ),
        )
        return Plan(
            snapshot, choice, self._request(snapshot, choice, options)
        )

    def capture(self, content, parent='auto', plan=None, **changes):
        """Upload what has changed; there is no snapshot yet.

        :param content: bytes, or a disk.
        :param plan: made before, for this capture.
        """
        plan = plan or self.plan(parent, **changes)
        disk = (
            content
            if isinstance(content, disks.Disk)
            else memory_disk.MemoryDisk(content)
        )
        captured = capture.capture(
            disk,
            self.store,
            plan.wanted,
            allowed=budget.plan(
                disk_size=disk.size,
                cluster_size=plan.wanted.cluster_size,
                pack_size=plan.wanted.pack_size,
                codec=plan.wanted.codec,
                workers=plan.wanted.workers,
                memory_limit=0,
            ),
            clock=self.clock,
            stop=executor.Stop(),
            software={'test': '1'},
        )
        return Attempt(self.lineage, plan.snapshot, plan.choice, captured)

    def _request(self, snapshot, choice, options):
        """Make the arguments of the step, and parse them as the agent."""
        own = layout.attempt_prefix(self.lineage, snapshot)
        permissions = [('PUT', own), ('GET', own)]
        parent = choice.manifest
        given = None
        if parent:
            name = layout.manifest_name(parent.lineage, parent.id)
            data = self.store.get(name, document.MAX_SIZE)
            prefixes = {
                name.rpartition('/')[0] + '/',
                # Its map; it may have stored nothing else.
                layout.attempt_prefix(parent.lineage, parent.id),
                *(
                    layout.attempt_prefix(each.lineage, each.id)
                    for each in parent.attempts
                ),
            }
            permissions += [('GET', prefix) for prefix in sorted(prefixes)]
            given = {
                'snapshot': parent.id,
                'lineage': dataclasses.asdict(parent.lineage),
                'manifest': {
                    'size': len(data),
                    'digest': requests.blake3(data),
                },
            }
        args = requests.arguments(
            snapshot=snapshot,
            lineage=dataclasses.asdict(self.lineage),
            parent=given,
            full_reason=choice.reason,
            grant=grants.mint(
                'http://127.0.0.1:9/v1/AUTH_test/snapshots',
                requests.KEY,
                int(self.clock.time()) + 600,
                permissions,
            ).to_dict(),
            **options,
        )
        return step_request.parse(args, step_arguments.take_grant(args))

    def intent(self, attempt):
        """Say what shall be committed."""
        now = manifests.format_time(self.clock.time())
        latest = attempt.choice.latest
        if latest is None:
            latest = catalogue.latest_sequence(self.entries())
        return commit.Intent(
            lineage=attempt.lineage,
            snapshot=attempt.snapshot,
            report=attempt.captured.record,
            facts={
                'sequence': latest + 1,
                'name': 'a name',
                'description': '',
                'node': manifests.NodeRecord(
                    attempt.lineage.node, None, None
                ),
                'project': None,
                'consistency': 'clean',
                'started_at': now,
                'created_at': now,
            },
            parent=attempt.choice.manifest,
            full_reason=attempt.choice.reason,
        )

    def commit(self, attempt):
        """Make it a snapshot; the lease ends."""
        found = commit.commit(self.store, self.intent(attempt), None)
        lease.delete(self.store, attempt.lineage, attempt.snapshot)
        return found

    def entries(self):
        return list(
            catalogue.entries(
                self.store, None, layout.snapshots_prefix(self.lineage)
            )
        )

    def delete(self, snapshot):
        prune.delete(
            self.store, self.lineage, snapshot, None, self.clock.time()
        )

    def prune(self, grace_s=0):
        return prune.prune(self.store, None, self.clock.time(), grace_s)

    def reader(self, manifest):
        return snapshot_reader.SnapshotReader(self.store, manifest)


# The proof


def read_all(reader):
    """Read a whole disk, every cluster verified by the reader."""
    content = bytearray(reader.disk_size)
    size = reader.cluster_size
    for run in reader.runs():
        for cluster, data in reader.read(run):
            start = cluster * size
            content[start : start + size] = data[: reader.disk_size - start]
    return bytes(content)


def index_pack(store, lineage, pack):
    """Give what an attempt's index tells of a pack."""
    index = indexes.decode(
        store.get(
            layout.attempt_prefix(lineage, pack.attempt) + layout.INDEX,
            document.MAX_SIZE,
        )
    )
    (found,) = [each for each in index.packs if each.name == pack.name]
    return found


def qemu_img(*args):
    done = subprocess.run(
        ['qemu-img', *map(str, args)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def judge(store, manifest, source, folder):
    """Have qemu-img check a snapshot's image and compare it with a disk."""
    image = folder / f'{manifest.id}.qcow2'
    with open(image, 'wb') as f:
        for chunk in store.iter_bytes(manifest.image.name):
            f.write(chunk)
    try:
        assert image.stat().st_size == manifest.image.size
        found = json.loads(
            qemu_img('check', '-f', 'qcow2', '--output', 'json', image)
        )
        assert found['check-errors'] == 0
        assert not found.keys() & {'corruptions', 'leaks'}, found
        # To the comparison a longer one is equal if the rest is zero.
        with open(image, 'rb') as f:
            (size,) = struct.unpack('>24xQ', f.read(32))
        assert size == source.stat().st_size
        qemu_img('compare', '-f', 'raw', '-F', 'qcow2', source, image)
    finally:
        image.unlink()


class Proof:
    """Proves that snapshots in a directory read as their models.

    A snapshot that was read whole and compared, either way, is good for as
    long as no file that it needs has changed, which the kernel tells.
    """

    def __init__(self, store, model, folder):
        self._store = store
        self._model = model
        self._folder = folder
        self._proved = {}
        # What qemu-img compares with, and the state that it is in.
        self._source = folder / 'source.raw'
        self._source.touch()
        self._state = State(0, {})

    def read(self, manifest, state):
        """Read it through our own reader."""
        files = self._files(manifest)
        reader = snapshot_reader.SnapshotReader(self._store, manifest)
        found = {}
        digest = digests.DEFAULT_DIGEST.digest
        assert reader.disk_size == state.size
        for run in reader.runs():
            for cluster, data in reader.read(run):
                found[cluster] = digest(data)
        assert found == state.clusters, f'{manifest.id} reads otherwise'
        assert not reader.repaired
        self._proved[manifest.id] = files

    def judge(self, manifest, state):
        """Have qemu-img judge its image."""
        files = self._files(manifest)
        self._model.write_changes(self._source, self._state, state)
        self._state = state
        judge(self._store, manifest, self._source, self._folder)
        self._proved[manifest.id] = files

    def untouched(self, manifest):
        """Tell whether all is as it was when it was read."""
        return self._proved.get(manifest.id) == self._files(manifest)

    def forget(self, snapshot):
        del self._proved[snapshot]

    # Private

    def _files(self, manifest):
        own = layout.attempt_prefix(manifest.lineage, manifest.id)
        lineages = {each.id: each.lineage for each in manifest.attempts}
        names = [
            layout.manifest_name(manifest.lineage, manifest.id),
            f'{manifest.image.name}~segments',
            own + layout.MAP,
            manifest.head.name,
            *(
                layout.attempt_prefix(each.lineage, each.id) + layout.INDEX
                for each in manifest.attempts
            ),
            *(
                layout.attempt_prefix(lineages[each.attempt], each.attempt)
                + each.name
                for each in manifest.packs
            ),
        ]
        return {name: self._identity(name) for name in names}

    def _identity(self, name):
        # Every write changes the time of the inode.
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(self._store.path / name)
            return found.st_ino, found.st_size, found.st_ctime_ns
        return None


def stored_bytes(store):
    """Tell what all files of a directory have, in bytes."""
    return sum(
        os.path.getsize(os.path.join(root, file))
        for root, _, files in os.walk(store.path)
        for file in files
    )
