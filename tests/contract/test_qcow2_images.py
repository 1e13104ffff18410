# SPDX-License-Identifier: Apache-2.0
"""Images made of a head and packs, judged by qemu-img."""

import dataclasses
import itertools
import json
import os
import random
import subprocess

import hypothesis
import pytest
from hypothesis import strategies as st

from ironic_snapshot_core import codec
from ironic_snapshot_core import digest
from ironic_snapshot_core import pack
from ironic_snapshot_core import qcow2
from ironic_snapshot_core.store import base
from ironic_snapshot_core.store import memory
from ironic_snapshot_core.units import KiB, MiB
from tests import disks
from tests import handmade

CLUSTER_SIZES = (64 * KiB, 256 * KiB, 1 * MiB, 2 * MiB)

pytestmark = disks.needs_qemu_img


@dataclasses.dataclass
class Image:
    """A disk, and the same as head and packs."""

    disk: bytes
    cluster_size: int
    head: bytes
    packs: list[bytes]
    placements: list[qcow2.Placement]

    def write(self, path):
        with open(path, 'wb') as f:
            for part in (self.head, *self.packs):
                f.write(part)


def make_image(disk, cluster_size, codec_id, pack_size=4 * MiB):
    """Do what a capture does, on one thread."""
    chosen = codec.get_codec(codec_id)
    places = {}
    packs = []
    waiting = []

    def start():
        return pack.PackBuilder(cluster_size, max(pack_size, cluster_size))

    builder = start()

    def finish():
        nonlocal builder
        built = builder.build()
        at = pack.offsets(built.entries, cluster_size)
        for position, number in enumerate(built.order):
            entry = built.entries[position]
            places[waiting[number]] = (
                len(packs), at[position], entry.length, entry.compressed)
        packs.append(bytes(built.data))
        builder = start()
        waiting.clear()

    wanted = {}
    for guest in range(-(-len(disk) // cluster_size)):
        data = disk[guest * cluster_size:(guest + 1) * cluster_size].ljust(
            cluster_size, b'\0')
        if not any(data):
            continue
        key = digest.DEFAULT_DIGEST.digest(data)
        wanted[guest] = key
        if key in places or key in waiting:
            continue
        blob = chosen.compress(data)
        waiting.append(key)
        builder.add(blob or data, key, blob is not None)
        if builder.full:
            finish()
    if len(builder):
        finish()
    placements = [qcow2.Placement(guest, *places[key])
                  for guest, key in wanted.items()]
    head = qcow2.build_head(len(disk), cluster_size, chosen,
                            [len(each) for each in packs], placements)
    qcow2.check_header(head, len(disk), cluster_size, chosen)
    return Image(disk, cluster_size, head, packs, placements)


def qemu_img(*args):
    done = subprocess.run(['qemu-img', *map(str, args)],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def judge(image, tmp_path, changes=True):
    """Have qemu-img check, compare and convert."""
    path, raw = tmp_path / 'disk.qcow2', tmp_path / 'disk.raw'
    image.write(path)
    raw.write_bytes(image.disk)
    found = json.loads(qemu_img(
        'check', '-f', 'qcow2', '--output', 'json', path))
    assert found['check-errors'] == 0
    assert not found.keys() & {'corruptions', 'leaks'}, found
    qemu_img('compare', '-f', 'raw', '-F', 'qcow2', raw, path)
    qemu_img('convert', '-f', 'qcow2', '-O', 'raw', path,
             tmp_path / 'converted')
    assert (tmp_path / 'converted').read_bytes() == image.disk
    info = json.loads(qemu_img('info', '--output', 'json', path))
    assert info['virtual-size'] == len(image.disk)
    assert info['cluster-size'] == image.cluster_size
    assert info['format-specific']['data']['corrupt'] is False
    if changes:
        judge_writing(path)
    return info


def judge_writing(path):
    """Whoever writes into the image must find its refcounts right."""
    qemu_img('resize', '-f', 'qcow2', path, '+1M')
    qemu_img('snapshot', '-c', 'inner', path)
    found = json.loads(qemu_img(
        'check', '-f', 'qcow2', '--output', 'json', path))
    assert not found.keys() & {'corruptions', 'leaks'}, found


def mixed_disk(size, seed=1):
    """Zero, random, compressible and repeated pieces, not aligned."""
    source = random.Random(seed)
    repeated = source.randbytes(300_000)
    parts, length = [], 0
    while length < size:
        n = source.randrange(1, 700_000)
        kind = source.randrange(5)
        piece = (bytes(n) if kind < 2
                 else source.randbytes(n) if kind == 2
                 else b'compress me %d ' % n * (n // 10) if kind == 3
                 else repeated)
        parts.append(piece)
        length += len(piece)
    return b''.join(parts)[:size]


@pytest.mark.parametrize('codec_id', ['zstd', 'zlib', 'none'])
@pytest.mark.parametrize('cluster_size', CLUSTER_SIZES)
def test_mixed_disks(tmp_path, cluster_size, codec_id):
    # The last cluster is a part of one.
    disk = mixed_disk(24 * MiB + 13 * 512)
    info = judge(make_image(disk, cluster_size, codec_id), tmp_path)
    wanted = 'zstd' if codec_id == 'zstd' else 'zlib'
    assert info['format-specific']['data']['compression-type'] == wanted


@pytest.mark.parametrize('codec_id', ['zstd', 'zlib', 'none'])
@pytest.mark.parametrize('cluster_size', CLUSTER_SIZES)
def test_an_empty_disk_has_no_packs(tmp_path, cluster_size, codec_id):
    image = make_image(bytes(5 * MiB + 512), cluster_size, codec_id)
    assert image.packs == []
    judge(image, tmp_path)


@pytest.mark.parametrize('cluster_size', CLUSTER_SIZES)
def test_random_disks(tmp_path, cluster_size):
    image = make_image(os.urandom(12 * MiB), cluster_size, 'zstd')
    assert not any(each.compressed for each in image.placements)
    judge(image, tmp_path)


@pytest.mark.parametrize('size', [512, 64 * KiB - 512, 64 * KiB,
                                  64 * KiB + 512])
def test_tiny_disks(tmp_path, size):
    judge(make_image(os.urandom(size), 64 * KiB, 'zstd'), tmp_path)


@pytest.mark.parametrize('pattern', [
    '10000000000000001', '00000000000000001', '11111111111111110',
    '1010101010101010', '2222', '12121212', '0222201111'])
def test_pictures_of_disks(tmp_path, pattern):
    # 0 zero, 1 random, 2 compressible
    cluster = 64 * KiB
    disk = b''.join(
        bytes(cluster) if each == '0'
        else os.urandom(cluster) if each == '1'
        else (b'%04d' % number * cluster)[:cluster]
        for number, each in enumerate(pattern))
    judge(make_image(disk, cluster, 'zstd'), tmp_path)


def test_guest_clusters_that_share_a_raw_cluster(tmp_path):
    cluster = os.urandom(64 * KiB)
    image = make_image(
        cluster * 3 + os.urandom(64 * KiB) + cluster, 64 * KiB, 'zstd')
    assert len(image.packs[0]) == MiB
    assert len({each.offset for each in image.placements}) == 2
    judge(image, tmp_path)


@pytest.mark.parametrize('offsets, bits', [
    # Each guest cluster has its own, back to back.
    (lambda guest, length: guest * length, 16),
    # All have the same one, as on a disk filled with a pattern.
    (lambda guest, length: 0, 32)], ids=['own', 'shared'])
def test_tens_of_thousands_of_references_to_one_cluster(
        tmp_path, offsets, bits):
    cluster_size, count = 2 * MiB, 80_000
    assert count > qcow2.MAX_REFCOUNT
    chosen = codec.get_codec('zstd')
    cluster = b'pattern!' * (cluster_size // 8)
    blob = chosen.compress(cluster)
    data = blob * count
    data += bytes(-len(data) % cluster_size)
    head = qcow2.build_head(
        count * cluster_size, cluster_size, chosen, [len(data)],
        ((guest, 0, offsets(guest, len(blob)), len(blob), True)
         for guest in range(count)))
    path = tmp_path / 'disk.qcow2'
    path.write_bytes(head + data)
    found = json.loads(qemu_img(
        'check', '-f', 'qcow2', '--output', 'json', path))
    assert not found.keys() & {'corruptions', 'leaks'}, found
    assert found['compressed-clusters'] == count
    assert json.loads(qemu_img('info', '--output', 'json', path))[
        'format-specific']['data']['refcount-bits'] == bits
    # 160 GB are too much to compare.
    for guest in (0, 1, 40_000, count - 1):
        # It counts from the beginning, what is skipped included.
        qemu_img('dd', '-f', 'qcow2', '-O', 'raw', 'bs=2M',
                 f'count={guest + 1}', f'skip={guest}', f'if={path}',
                 f'of={tmp_path}/one')
        assert (tmp_path / 'one').read_bytes() == cluster


def test_dead_bytes_in_older_packs_do_no_harm(tmp_path):
    # An incremental snapshot refers to some of an older pack only.
    image = make_image(mixed_disk(20 * MiB), 64 * KiB, 'zstd')
    chosen = codec.get_codec('zstd')
    kept = [each for each in image.placements if each.guest_cluster % 3]
    disk = bytearray(image.disk)
    for each in image.placements:
        if each not in kept:
            start = each.guest_cluster * 64 * KiB
            disk[start:start + 64 * KiB] = bytes(
                len(disk[start:start + 64 * KiB]))
    image.head = qcow2.build_head(
        len(disk), 64 * KiB, chosen, [len(each) for each in image.packs],
        kept)
    image.disk = bytes(disk)
    judge(image, tmp_path)


def test_many_disks(tmp_path):
    for seed in range(12):
        source = random.Random(seed)
        size = source.randrange(1, 12_000) * 512
        cluster_size = source.choice(CLUSTER_SIZES)
        codec_id = source.choice(['zstd', 'zlib', 'none'])
        image = make_image(mixed_disk(size, seed), cluster_size, codec_id,
                           source.choice([MiB, 2 * MiB, 64 * MiB]))
        judge(image, tmp_path, changes=False)


def test_an_image_of_more_than_a_thousand_packs_in_swift(
        container, tmp_path):
    cluster = 64 * KiB
    chosen = codec.get_codec('zstd')
    bodies = [os.urandom(cluster) for _ in range(5)]
    order = [n % 5 for n in range(1100)]
    placements = [qcow2.Placement(guest, guest, 0, cluster, False)
                  for guest in range(1100)]
    disk = b''.join(bodies[n] for n in order)
    head = qcow2.build_head(len(disk), cluster, chosen,
                            [cluster] * 1100, placements)
    store = container.store()
    infos = [store.put('head', head)] + [
        store.put(f'pack-{n}', body) for n, body in enumerate(bodies)]
    segments = [base.Segment(info.name, info.size, info.etag)
                for info in [infos[0], *(infos[1 + n] for n in order)]]
    joined = store.join('disk.qcow2', segments)
    path = tmp_path / 'disk.qcow2'
    with open(path, 'wb') as f:
        for chunk in store.iter_bytes('disk.qcow2'):
            f.write(chunk)
    assert path.stat().st_size == joined.size == len(head) + len(disk)
    qemu_img('check', '-f', 'qcow2', path)
    (tmp_path / 'raw').write_bytes(disk)
    qemu_img('compare', '-f', 'raw', '-F', 'qcow2',
             tmp_path / 'raw', path)


def compose(store, seed, generations, cluster_size):
    """Take snapshots of a disk that changes, grows and shrinks.

    :returns: the last one, and the disk then.
    """
    source = random.Random(seed)
    history = handmade.History(
        store, cluster_size, source.choice(['zstd', 'zlib', 'none']),
        clusters=source.randrange(1, 9))
    contents = [bytes(cluster_size)]
    for n in range(1, 30):
        contents.append(
            source.randbytes(cluster_size) if n % 3 == 0
            else (source.randbytes(source.randrange(1, 900))
                  * cluster_size)[:cluster_size] if n % 3 == 1
            else source.randbytes(cluster_size - source.randrange(1, 5000)
                                  ).ljust(cluster_size, b'\0'))
    disk = [source.choice(contents) for _ in range(30)]
    made = None
    for _ in range(generations):
        for _ in range(source.randrange(8)):
            disk[source.randrange(len(disk))] = source.choice(contents)
        if source.random() < 0.3:
            disk = disk[:source.randrange(1, len(disk) + 1)]
        if source.random() < 0.3:
            disk += source.choices(contents, k=source.randrange(9))
        again = [(each.attempt, each.name) for each in made.packs
                 if source.random() < 0.1] if made else []
        size = len(disk) * cluster_size - source.choice([0, 512, 7 * 512])
        made = history.capture(b''.join(disk)[:size], made, again)
    return made, b''.join(disk)[:size]


def judge_composed(store, made, disk, tmp_path):
    """Have qemu-img look at the image as the store gives it."""
    path, raw = tmp_path / 'disk.qcow2', tmp_path / 'disk.raw'
    path.write_bytes(store.get(made.image.name, 256 * MiB))
    raw.write_bytes(disk)
    assert path.stat().st_size == made.image.size
    found = json.loads(qemu_img(
        'check', '-f', 'qcow2', '--output', 'json', path))
    assert found['check-errors'] == 0
    assert not found.keys() & {'corruptions', 'leaks'}, found
    qemu_img('convert', '-f', 'qcow2', '-O', 'raw', path, tmp_path / 'back')
    assert (tmp_path / 'back').read_bytes() == disk
    qemu_img('compare', '-f', 'raw', '-F', 'qcow2', raw, path)
    judge_writing(path)


def compose_three(store):
    """Take three snapshots, the last one of packs of each.

    These are trimmed at either end, and guest clusters share some of what
    is in them.

    :returns: (manifest, disk) of each.
    """
    c = 64 * KiB
    history = handmade.History(store, clusters=6)
    source = random.Random(3)
    raw = [source.randbytes(c) for _ in range(12)]
    compressed = [(b'%d lines\n' % n * c)[:c] for n in range(12)]
    disks = [b''.join(parts) for parts in (
        raw[:6] + compressed[:6],
        [*raw[1:4], *raw[6:9], bytes(c), *compressed[2:9]],
        [raw[2], raw[2], raw[7], compressed[3], compressed[3], raw[9],
         raw[7], bytes(c), compressed[10], compressed[7], compressed[3]])]
    found = []
    for disk in disks:
        found.append((history.capture(
            disk, found[-1][0] if found else None), disk))
    third = found[-1][0]
    assert len(third.attempts) == 3
    assert any(each.start for each in third.packs)
    assert any(each.start + each.length < each.size for each in third.packs)
    return found


def test_packs_of_three_attempts(tmp_path):
    store = memory.MemoryStore()
    for made, disk in compose_three(store):
        judge_composed(store, made, disk, tmp_path)


def test_packs_of_three_attempts_in_swift(container, tmp_path):
    store = container.store()
    for made, disk in compose_three(store):
        judge_composed(store, made, disk, tmp_path)


@hypothesis.settings(
    max_examples=8,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
@hypothesis.given(
    seed=st.integers(0, 2**32), generations=st.integers(2, 6),
    cluster_size=st.sampled_from([64 * KiB, 64 * KiB, 128 * KiB, 256 * KiB]))
def test_images_composed_of_several_attempts(
        tmp_path, seed, generations, cluster_size):
    store = memory.MemoryStore()
    made, disk = compose(store, seed, generations, cluster_size)
    judge_composed(store, made, disk, tmp_path)


def test_a_placement_on_every_offset_of_a_sector(tmp_path):
    # The number of sectors of a compressed cluster depends on where in its
    # sector it begins and on its length: all of them, back to back.
    cluster = 64 * KiB
    source = random.Random(5)
    disk = b''.join(
        source.randbytes(100 + 7 * n).ljust(cluster, b'\0')
        for n in range(600))
    image = make_image(disk, cluster, 'zstd')
    starts = {each.offset % 512 for each in image.placements}
    assert len(starts) > 300
    assert all(each.compressed for each in image.placements)
    host = [each.offset // cluster for each in image.placements]
    assert any(each.offset // cluster
               != (each.offset + each.length - 1) // cluster
               for each in image.placements)
    assert max(len(list(group)) for _, group in itertools.groupby(host)) > 20
    judge(image, tmp_path)
