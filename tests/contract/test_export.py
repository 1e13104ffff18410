# SPDX-License-Identifier: Apache-2.0
"""Exporting snapshots that are made of several attempts."""

import dataclasses
import json
import random
import subprocess

import pytest

from ironic_snapshot_core import layout
from ironic_snapshot_core import manifest
from ironic_snapshot_core.store import directory
from ironic_snapshot_core.units import KiB, MiB
from tests import handmade
from tests.contract import cli

C = 64 * KiB


def noise(seed):
    return random.Random(seed).randbytes(C)


def text(seed):
    return (b'line %d of a log\n' % seed * C)[:C]


#: Each is what the one before was, and something else; the last is shorter.
#: 0 is zero, odd numbers do not compress.
DISKS = (
    (1, 2, 3, 4, 0, 0, 5, 6, 7, 8, 9, 10, 11, 12),
    (1, 2, 3, 4, 21, 0, 5, 6, 7, 22, 9, 10, 24, 26, 23, 0, 5),
    (31, 2, 3, 0, 21, 6, 0, 6, 32, 22, 9, 0, 24),
)


def to_disk(numbers):
    return b''.join(
        bytes(C) if not n else noise(n) if n % 2 else text(n)
        for n in numbers)


@pytest.fixture
def repo(tmp_path):
    (tmp_path / 'repo').mkdir()
    return tmp_path / 'repo'


@pytest.fixture
def store(repo):
    return directory.DirectoryStore(repo)


@pytest.fixture
def history(store):
    return handmade.History(store, clusters=4)


@pytest.fixture
def line(history):
    """Three snapshots, each building upon the one before."""
    found = []
    for numbers in DISKS:
        found.append(history.capture(
            to_disk(numbers), found[-1] if found else None))
    return found


def damage(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def pack_path(repo, snapshot, record):
    prefixes = {each.id: layout.attempt_prefix(each.lineage, each.id)
                for each in snapshot.attempts}
    return repo / prefixes[record.attempt] / record.name


def check(repo, wanted, disk, tmp_path):
    """Get it in both formats; each must be this disk."""
    raw, qcow2 = tmp_path / 'out.raw', tmp_path / 'out.qcow2'
    cli.succeed('export', repo, wanted.id, raw)
    assert raw.read_bytes() == disk
    cli.succeed('export', repo, wanted.id, qcow2)
    cli.qemu_img('check', '-f', 'qcow2', qcow2)
    cli.qemu_img('convert', '-f', 'qcow2', '-O', 'raw', qcow2, raw)
    assert raw.read_bytes() == disk
    return qcow2.read_bytes()


@pytest.mark.parametrize('number', range(3))
def test_each_snapshot_is_complete(repo, store, line, tmp_path, number):
    found = line[number]
    data = check(repo, found, to_disk(DISKS[number]), tmp_path)
    # It is what the store would serve.
    assert data == store.get(found.image.name, 64 * MiB)
    assert len(data) == found.image.size


def test_to_standard_output(repo, store, line):
    assert any(each.length < each.size for each in line[2].packs)
    assert len(line[2].attempts) == 3
    done = subprocess.run(
        [*cli.COMMAND, 'export', repo, line[2].id, '-'],
        capture_output=True, check=True)
    assert done.stdout == store.get(line[2].image.name, 64 * MiB)


def test_packs_of_another_lineage(repo, history, line, tmp_path):
    elsewhere = layout.Lineage(line[0].id, line[1].id)
    found = history.capture(to_disk((1, 2, 41, 42)), line[1],
                            lineage=elsewhere)
    check(repo, found, to_disk((1, 2, 41, 42)), tmp_path)
    assert {each.lineage for each in found.attempts} == {
        elsewhere, handmade.LINEAGE}


@pytest.mark.parametrize('suffix', ['qcow2', 'raw'])
def test_no_damage_of_a_pack_that_is_used_in_part_gets_through(
        repo, line, tmp_path, suffix):
    record = next(each for each in line[2].packs
                  if 0 < each.length < each.size)
    damage(pack_path(repo, line[2], record), record.start)
    cli.fail('object-mismatch' if suffix == 'qcow2' else 'corrupted',
             'export', repo, line[2].id, tmp_path / f'o.{suffix}')
    assert not (tmp_path / f'o.{suffix}').exists()


@pytest.mark.parametrize('etag', ['kept', 'adapted'])
def test_the_head_is_what_the_manifest_says(
        repo, store, line, tmp_path, etag):
    name = (layout.attempt_prefix(line[2].lineage, line[2].id)
            + layout.HEAD)
    # In the L2 table, where another good image would be made of it.
    damage(repo / name, 2 * C + 7)
    if etag == 'adapted':
        store.put(name, (repo / name).read_bytes())
    for out in (tmp_path / 'o.qcow2', '-'):
        done = cli.run('export', repo, line[2].id, out)
        assert done.returncode == 1
        assert name in done.stderr
        assert done.stdout == ''
    assert not (tmp_path / 'o.qcow2').exists()


class TestSecondCopies:
    @pytest.fixture
    def doubled(self, history, line):
        """All of the oldest packs is there twice."""
        return history.capture(to_disk(DISKS[2]), line[2], [
            (each.attempt, each.name) for each in line[2].packs])

    def test_spares_are_no_part_of_the_image(
            self, repo, doubled, tmp_path):
        assert any(each.spare for each in doubled.packs)
        for each in doubled.packs:
            if each.spare:
                pack_path(repo, doubled, each).unlink()
        check(repo, doubled, to_disk(DISKS[2]), tmp_path)

    def test_nothing_is_said_of_what_is_well(self, repo, doubled, tmp_path):
        done = cli.run('export', repo, doubled.id, tmp_path / 'o.raw',
                       '--json')
        assert done.stderr == ''
        assert json.loads(done.stdout)['repaired'] == []

    @pytest.mark.parametrize('gone', [False, True])
    def test_what_was_repaired_is_said(
            self, repo, doubled, tmp_path, gone):
        record = next(each for each in doubled.packs if not each.spare)
        path = pack_path(repo, doubled, record)
        if gone:
            path.unlink()
        else:
            damage(path, 5)
        out = tmp_path / 'o.raw'
        done = cli.run('export', repo, doubled.id, out)
        assert done.returncode == 0, done.stderr
        assert out.read_bytes() == to_disk(DISKS[2])
        count = record.clusters if gone else 1
        assert f'warning: {count} cluster' in done.stderr
        assert 'second cop' in done.stderr
        assert record.name in done.stderr
        found = cli.read('export', repo, doubled.id, out, '--force')
        assert len(found['repaired']) == count
        # As an image it is what it is.
        cli.fail('object-missing' if gone else 'object-mismatch',
                 'export', repo, doubled.id, tmp_path / 'o.qcow2')

    def test_what_is_damaged_twice_is_not_exported(
            self, repo, doubled, tmp_path):
        for each in doubled.packs:
            damage(pack_path(repo, doubled, each), 5)
        cli.fail('corrupted', 'export', repo, doubled.id,
                 tmp_path / 'o.raw')
        assert not (tmp_path / 'o.raw').exists()


def test_a_degraded_snapshot_says_so(repo, store, history, tmp_path):
    found = history.capture(to_disk(DISKS[0]))
    degraded = dataclasses.replace(
        found, unreadable=(manifest.Unreadable(0, 512),))
    store.put(layout.manifest_name(found.lineage, found.id),
              degraded.to_bytes(None))
    done = cli.run('export', repo, found.id, tmp_path / 'o.raw', '--json')
    assert 'degraded' in done.stderr
    assert json.loads(done.stdout)['degraded'] is True
