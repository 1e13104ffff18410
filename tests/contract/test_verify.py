# SPDX-License-Identifier: Apache-2.0
"""Verifying snapshots: in real stores, and with the command."""

import os
import pathlib
import random
import uuid

import pytest

from ironic_snapshot_core import errors
from ironic_snapshot_core import layout
from ironic_snapshot_core import snapshot_reader
from ironic_snapshot_core import verify
from ironic_snapshot_core.store import directory
from ironic_snapshot_core.units import KiB, MiB
from tests import disks
from tests import handmade
from tests.contract import cli

CLUSTER = 256 * KiB

def rot(path, offset):
    """Change a byte of a file behind the store's back."""
    with open(path, 'r+b') as f:
        f.seek(offset)
        byte = f.read(1)[0]
        f.seek(offset)
        f.write(bytes([byte ^ 0x10]))


# In stores


@pytest.fixture
def in_directory(tmp_path):
    return (directory.DirectoryStore(tmp_path),
            lambda name: tmp_path / name)


@pytest.fixture
def in_swift(swift, make_container):
    container = make_container()

    def find(name):
        """Find the file in which the object server has an object."""
        path = f'{container.path.removeprefix("/v1")}/{name}'.encode()
        (found,) = (
            each for each in pathlib.Path(swift.directory).rglob('*.data')
            if path in metadata(each))
        return found

    return container.store(), find


def metadata(path):
    return b''.join(os.getxattr(path, each) for each in os.listxattr(path))


@pytest.mark.parametrize('place', ['in_directory', 'in_swift'])
def test_a_store(request, place):
    store, find = request.getfixturevalue(place)
    # More than is read at once, for what is read as a whole Swift checks.
    history = handmade.History(store, clusters=80)
    noise = random.Random(1)
    disk = noise.randbytes(240 * handmade.C)
    first = history.capture(disk)
    second = history.capture(
        noise.randbytes(handmade.C) + disk[handmade.C:], first,
        again={(first.packs[1].attempt, first.packs[1].name)})
    for each in (first, second):
        for data in (False, True):
            assert verify.Verifier(store, data=data).verify(each).sound
    # In the third pack, and in one that is there twice.
    prefix = layout.attempt_prefix(first.lineage, first.id)
    wrong, doubled = (prefix + first.packs[n].name for n in (2, 1))
    rot(find(wrong), 5 * handmade.C + 77)
    rot(find(doubled), 0)
    assert verify.Verifier(store, data=False).verify(second).sound
    found = verify.Verifier(store, data=True).verify(second)
    assert not found.restorable
    assert {each.object: (each.reason, each.clusters, each.lost)
            for each in found.findings} == {
        wrong: (f'cluster at byte {5 * handmade.C}: its digest does not '
                'match', ((165, 1),), ((165, 1),)),
        doubled: ('cluster at byte 0: its digest does not match', (), ())}
    # A restore finds the same.
    with pytest.raises(errors.Corrupted, match='cluster 165 of the disk'):
        snapshot_reader.SnapshotReader(store, second).read_cluster(165)
    store.delete(doubled)
    store.delete(wrong)
    for data in (False, True):
        found = verify.Verifier(store, data=data).verify(second)
        assert {each.object: each.lost for each in found.findings} == {
            wrong: ((160, 80),), doubled: ()}
        assert {each.reason for each in found.findings} == {'it is missing'}


# The command


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / 'disk.raw'
    path.write_bytes(disks.random_bytes(4 * MiB))
    return path


@pytest.fixture
def repo(disk, tmp_path):
    """Two snapshots; of all of the first there are second copies."""
    repo = tmp_path / 'repo'
    for name in ('one', 'two'):
        cli.succeed('capture', disk, repo, f'--name={name}',
                    '--redundancy=1', '--quiet')
    return repo


def pack_of(repo, name):
    """Give the path of the pack that a snapshot has stored."""
    id = cli.read('show', repo, name)['snapshot']
    (found,) = repo.glob(f'v1/*/*/attempts/{id}/pack-*')
    return found


def test_all_is_well(repo):
    for options in ((), ('--data',)):
        done = cli.succeed('verify', repo, *options)
        assert done.count(': sound, ') == 2
        assert '2 snapshots verified' in done
    found = cli.read('verify', repo, 'two', 'two', '--data')
    assert [each['name'] for each in found['snapshots']] == ['two']
    assert found['snapshots'][0]['sound']
    # Its own pack, and that of the other, which is its spare.
    assert found['read_bytes'] == 8 * MiB
    assert cli.read('verify', repo)['read_bytes'] == 0


def test_damage_that_second_copies_heal(repo, disk, tmp_path):
    pack = pack_of(repo, 'two')
    rot(pack, 5 * CLUSTER)
    name = str(pack.relative_to(repo))
    assert 'damaged' not in cli.succeed('verify', repo)
    found = cli.succeed('verify', repo, '--data', status=3).splitlines()
    assert found[0].startswith('"one" (')
    assert ': sound, ' in found[0]
    assert found[1].endswith(': damaged, but all of its disk can be restored')
    assert found[2] == f'  {name}'
    assert found[3].startswith(
        f'    cluster at byte {5 * CLUSTER}: its digest does not match; '
        'second copies have 1 cluster of the disk (')
    one, two = cli.read('verify', repo, '--data', status=3)['snapshots']
    assert (one['sound'], two['sound']) == (True, False)
    assert two['restorable']
    (finding,) = two['findings']
    assert (finding['object'], finding['lost']) == (name, [])
    ((_, count),) = finding['clusters']
    assert count == 1
    out = tmp_path / 'out.raw'
    cli.succeed('export', repo, 'two', out)
    assert out.read_bytes() == disk.read_bytes()


def test_what_is_lost(repo):
    for name in ('one', 'two'):
        pack_of(repo, name).unlink()
    found = cli.succeed('verify', repo, status=3)
    assert found.count('and parts of its disk are lost') == 2
    assert found.count(
        'it is missing; lost: 16 clusters of the disk (0-15)') == 2
    for each in cli.read('verify', repo, status=3)['snapshots']:
        assert not each['restorable']
        assert [[0, 16]] in [every['lost'] for every in each['findings']]


def test_a_damaged_manifest(repo):
    (manifest,) = repo.glob('v1/*/*/snapshots/'
                            + cli.read('show', repo, 'one')['snapshot']
                            + '/manifest')
    rot(manifest, 100)
    done = cli.run('verify', repo)
    assert done.returncode == 3
    assert ': damaged: ' in done.stdout
    assert '--manifest-key' in done.stderr
    one, two = cli.read('verify', repo, status=3)['snapshots']
    assert (one['name'], one['restorable'], two['sound']) == (
        None, False, True)
    assert one['reason']
    cli.fail('snapshot-missing', 'verify', repo, 'one')


def test_snapshots_of_a_conductor(tmp_path):
    store = directory.DirectoryStore(tmp_path)
    made = handmade.History(store).capture(disks.random_bytes(MiB))
    store.put(layout.manifest_name(made.lineage, made.id),
              made.to_bytes(b'canary key'))
    key = tmp_path / 'key'
    for content, status in ((b'canary key\n', 0), (b'another', 3)):
        key.write_bytes(content)
        done = cli.run('verify', tmp_path, '--manifest-key', key)
        assert done.returncode == status
        assert 'canary' not in done.stdout + done.stderr
    assert cli.run('verify', tmp_path).returncode == 3


def test_in_swift(swift, disk):
    repo = f'swift:verify-{uuid.uuid4()}'
    env = cli.environment(
        ST_AUTH=swift.auth_url, ST_USER=swift.user, ST_KEY=swift.key)
    cli.succeed('capture', disk, repo, '--quiet', env=env)
    assert cli.read('verify', repo, '--data', env=env)['read_bytes'] == 4 * MiB
