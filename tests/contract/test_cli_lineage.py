# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot`` from snapshot to snapshot of the same disk."""

import dataclasses
import os
import pathlib
import pty
import re
import subprocess
import time

import pytest

from ironic_snapshot_core import layout
from ironic_snapshot_core import lease
from ironic_snapshot_core import pack as packs
from ironic_snapshot_core import units
from ironic_snapshot_core.store import directory
from tests import disks
from tests.contract import cli
from tests.contract import node_disk

CLUSTER = 256 * units.KiB
# What a pack has at least.
PACK = packs.MIN_SIZE
# One that was never made.
ATTEMPT = 'aaaaaaaa-0000-4000-8000-000000000000'
FIRST = 'it is the first of its lineage'


def fill(path):
    """A disk that has more data than a change comes to."""
    node_disk.fill(path, 7)
    with open(path, 'r+b') as f:
        f.seek(0, os.SEEK_END)
        f.write(disks.random_bytes(6 * units.MiB))


def change(disk, offset, size=CLUSTER):
    """Write something new."""
    with open(disk, 'r+b') as f:
        f.seek(offset)
        f.write(os.urandom(size))


@pytest.fixture
def disk(tmp_path):
    path = tmp_path / 'disk.raw'
    fill(path)
    return path


@pytest.fixture
def repo(tmp_path):
    return tmp_path / 'repo'


@dataclasses.dataclass
class Lineage:
    """Three snapshots, each with a change.

    :ivar disk: as it is.
    :ivar states: what it was, by name.
    :ivar ids: likewise.
    """

    disk: pathlib.Path
    repo: pathlib.Path
    states: dict
    ids: dict


@pytest.fixture(scope='module')
def example(tmp_path_factory):
    folder = tmp_path_factory.mktemp('lineage')
    found = Lineage(folder / 'disk.raw', folder / 'repo', {}, {})
    fill(found.disk)
    for number, name in enumerate(('one', 'two', 'three')):
        change(found.disk, number * 2 * CLUSTER)
        result = cli.read('capture', found.disk, found.repo, f'--name={name}')
        found.states[name] = found.disk.read_bytes()
        found.ids[name] = result['snapshot']
    cli.succeed('prune', found.repo)
    return found


@pytest.fixture
def lineage(example, repo):
    """With a repository of its own."""
    subprocess.run(['cp', '-a', example.repo, repo], check=True)
    return dataclasses.replace(example, repo=repo)


def by_name(repo):
    return {each['name']: each for each in cli.snapshots(repo)}


def lineage_of(repo):
    (found,) = {layout.Lineage(**e['lineage']) for e in cli.snapshots(repo)}
    return found


def soon():
    return int(time.time()) + 1000


def leases(repo):
    return [*repo.glob('v1/*/*/leases/*')]


def files(repo):
    """What is in a repository, with the sizes."""
    return {
        path.relative_to(repo): path.stat().st_size
        for path in repo.rglob('*')
        if path.is_file()
    }


class TestCapture:
    def test_each_stores_what_has_changed(self, disk, repo, tmp_path):
        before = disk.read_bytes()
        first = cli.read('capture', disk, repo)
        assert (first['parent'], first['full_reason']) == (None, FIRST)
        # On the border of two clusters.
        change(disk, 5 * units.MiB - 1000, 2000)
        second = cli.read('capture', disk, repo)
        assert second['parent'] == first['snapshot']
        assert second['full_reason'] is None
        assert second['sequence'] == 2
        assert second['new_bytes'] == PACK
        rest = first['new_bytes'] - second['shared_bytes']
        # And what fills a pack up.
        assert 2 * CLUSTER <= rest < 3.2 * CLUSTER
        third = cli.read('capture', disk, repo)
        assert third['parent'] == second['snapshot']
        assert (third['new_bytes'], third['dedupe_ratio']) == (0, None)
        assert third['shared_bytes'] > second['shared_bytes']
        cli.check_export(repo, first['snapshot'], before, tmp_path)
        cli.check_export(repo, third['snapshot'], disk, tmp_path)
        assert leases(repo) == []
        found = cli.read('list', repo)
        assert [each['parent'] for each in found['snapshots']] == [
            None, first['snapshot'], second['snapshot']
        ]  # fmt: skip
        assert found['stored_bytes'] == (
            first['new_bytes'] + second['new_bytes']
        )
        assert found['dedupe_ratio'] > 2

    def test_text(self, disk, repo):
        first = cli.read('capture', disk, repo, '--name=golden')
        change(disk, 0)
        text = cli.succeed('capture', disk, repo, '--name=next')
        found = by_name(repo)['next']
        short = first['snapshot'][:8]
        assert re.fullmatch(
            rf'Captured "next" as {found["snapshot"]}\n'
            rf'  incremental to "golden" \({short}\)\n'
            r'  Virtual size:  15\.0 MiB\n'
            r'  In use:        15\.0 MiB\n'
            r'  New:           1\.0 MiB stored\n'
            r'  Shared:        \d\.\d MiB with earlier snapshots\n'
            r'  Dedupe ratio:  \d\d\.\d\n'
            r'  Time:          \d\.\d s \(\d+\.\d MiB/s\)\n'
            r'(  Read whole:    .*\n)?'
            r'Get it back with: .*\n',
            text,
        ), text
        assert max(map(len, text.splitlines()[:-1])) < 80

    def test_none(self, disk, repo):
        first = cli.read('capture', disk, repo)
        second = cli.read('capture', disk, repo, '--parent=none')
        assert second['parent'] is None
        assert second['full_reason'] == 'asked for'
        assert second['new_bytes'] == first['new_bytes']
        assert second['sequence'] == 2
        text = cli.succeed('capture', disk, repo, '--parent', 'none')
        assert '\n  full: asked for\n' in text

    def test_another_disk_by_name(self, disk, repo, tmp_path):
        first = cli.read('capture', disk, repo, '--name=golden')
        other = tmp_path / 'other.raw'
        other.write_bytes(disk.read_bytes())
        change(other, 0)
        # By itself it is of another lineage.
        alone = cli.read('capture', other, repo)
        assert (alone['parent'], alone['full_reason']) == (None, FIRST)
        for wanted in ('golden', first['snapshot'][:6]):
            found = cli.read('capture', other, repo, f'--parent={wanted}')
            assert found['parent'] == first['snapshot']
            assert found['lineage'] == alone['lineage'] != first['lineage']
            assert found['new_bytes'] == PACK
        # And from there on by itself.
        last = cli.read('capture', other, repo)
        assert last['parent'] == found['snapshot']
        assert last['new_bytes'] == 0
        cli.check_export(repo, last['snapshot'], other, tmp_path)
        text = cli.succeed('list', repo)
        for path in (disk, other):
            assert re.search(rf'^{path} on .*:$', text, re.M)
        assert f'parent {first["snapshot"][:8]} of another lineage' in text

    def test_one_that_is_not_there(self, disk, repo, tmp_path):
        # Nothing is made for nothing.
        cli.fail('repository-unsuitable', 'capture', disk, repo,
                 '--parent=golden')
        assert not repo.exists()
        cli.succeed('capture', disk, repo)
        before = files(repo)
        cli.fail('snapshot-missing', 'capture', disk, repo, '--parent=golden')
        assert files(repo) == before

    @pytest.mark.parametrize(
        'options, reason',
        [
            ('--cluster-size=64K', 'clusters of 262144 bytes'),
            ('--compression=zlib', 'compressed with zstd'),
        ],
    )
    def test_one_that_does_not_do(self, disk, repo, options, reason):
        cli.succeed('capture', disk, repo, '--name=golden')
        line = cli.fail('parent-unsuitable', 'capture', disk, repo, options,
                        '--parent=golden')
        assert reason in line
        assert leases(repo) == []
        assert len(cli.snapshots(repo)) == 1
        found = cli.read('capture', disk, repo, options)
        assert found['parent'] is None
        assert reason in found['full_reason']

    def test_a_disk_that_has_grown_and_shrunk(self, disk, repo, tmp_path):
        states = {}
        sizes = (disk.stat().st_size, 18 * units.MiB, 12 * units.MiB + 512)
        for number, size in enumerate(sizes):
            os.truncate(disk, size)
            change(disk, size - 4096, 4096)
            found = cli.read('capture', disk, repo)
            assert (found['parent'] is None) == (number == 0)
            assert found['virtual_bytes'] == size
            assert number == 0 or found['new_bytes'] == PACK
            states[found['snapshot']] = disk.read_bytes()
        for snapshot, data in states.items():
            cli.check_export(repo, snapshot, data, tmp_path)

    def test_second_copies(self, disk, repo, tmp_path):
        args = ['capture', disk, repo, '--redundancy=2']
        first, _ = [cli.read(*args) for _ in range(2)]
        found = cli.read(*args)
        assert found['new_bytes'] >= 0.9 * first['new_bytes']
        shown = cli.read('show', repo, found['snapshot'])
        assert shown['spare_packs'] >= 1
        assert found['shared_bytes'] <= 0.1 * first['new_bytes']
        cli.check_export(repo, found['snapshot'], disk, tmp_path)

    def test_two_at_a_time(self, disk, repo, tmp_path):
        cli.succeed('capture', disk, repo, '--name=base')
        change(disk, 0)
        other = tmp_path / 'other.raw'
        node_disk.fill(other, 8)
        running = [
            subprocess.Popen(
                [*cli.COMMAND, 'capture', each, repo, f'--name={number}'],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                env=cli.environment(), text=True,
            )
            for number, each in enumerate((disk, disk, other))
        ]  # fmt: skip
        for process in running:
            _, said = process.communicate(timeout=60)
            assert (process.returncode, said) == (0, '')
        found = by_name(repo)
        assert found['2']['parent'] is None
        assert found['0']['parent'] and found['1']['parent']
        assert leases(repo) == []
        cli.succeed('prune', repo)
        for name, each in (('0', disk), ('1', disk), ('2', other)):
            cli.check_export(repo, name, each, tmp_path)


class TestDamagedParent:
    def damage(self, repo, snapshot, pattern):
        (path,) = repo.glob(f'v1/*/*/*/{snapshot}/{pattern}')
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)

    def test_its_manifest(self, disk, repo, tmp_path):
        first = cli.read('capture', disk, repo)['snapshot']
        self.damage(repo, first, 'manifest')
        found = cli.read('capture', disk, repo, '--name=second')
        assert found['parent'] is None
        assert found['full_reason'].startswith(
            f'the latest snapshot {first} is damaged'
        )
        assert found['new_bytes'] > units.MiB
        cli.check_export(repo, 'second', disk, tmp_path)
        cli.fail('corrupted', 'capture', disk, repo, f'--parent={first}')
        assert 'Full because:  the latest' in cli.succeed(
            'show', repo, 'second'
        )
        assert 'full: the latest snapshot' in cli.succeed(
            'list', repo, '--long'
        )

    def test_its_map(self, disk, repo, tmp_path):
        """That is found out only when the disk is read."""
        first = cli.read('capture', disk, repo)['snapshot']
        self.damage(repo, first, 'map')
        done = cli.run('capture', disk, repo, '--name=second')
        assert done.returncode == 0, done.stderr
        found = by_name(repo)['second']
        assert found['parent'] is None
        assert f'\n  full: {found["full_reason"]}\n' in done.stdout
        assert first in found['full_reason']
        cli.check_export(repo, 'second', disk, tmp_path)

    @disks.needs_failing_disk
    def test_one_that_is_degraded(self, disk, repo, tmp_path):
        with disks.failing_disk(disk, 9001, tmp_path) as device:
            done = cli.run('capture', device, repo, '--allow-bad-sectors',
                           '--name=bad')
            assert done.returncode == 3, done.stderr
            # Unless it is named, nothing builds upon it, ...
            bad = cli.snapshots(repo)[0]['snapshot']
            args = ['capture', disk, repo, '--parent=bad']
            line = cli.fail('parent-unsuitable', *args)
            assert 'it is degraded' in line
            # ... and then only with consent.
            found = cli.read(*args, '--allow-bad-sectors')
            assert found['parent'] == bad
            assert found['degraded'] is False
            # Of the same disk it is the parent, for this takes consent too.
            again = cli.run('capture', device, repo, '--allow-bad-sectors')
            assert again.returncode == 3
            assert 'incremental to "bad"' in again.stdout
        cli.check_export(repo, found['snapshot'], disk, tmp_path)


class TestList:
    def test_a_tree(self, lineage, repo):
        disk = lineage.disk
        cli.succeed('capture', disk, repo, '--name=four', '--parent=one')
        cli.succeed('capture', disk, repo, '--name=five')
        text = cli.succeed('list', repo)
        found = by_name(repo)
        for name, each in found.items():
            text = text.replace(each['snapshot'][:8], f'<{name:-<6}>')
        text = re.sub(r'20\S+Z', '<time>', text)
        text = re.sub(r'[0-9.]+[KM]?\b(?= )', '#', text)
        text = re.sub(r' +#', ' #', text)
        assert text.splitlines()[1:6] == [
            '<one--->     one    <time> # # # #  full',
            '|- <two--->  two    <time> # # # #  incremental',
            '|  <three->  three  <time> # # # #  incremental',
            '`- <four-->  four   <time> # # # #  incremental',
            '   <five-->  five   <time> # # # #  incremental',
        ]

    def test_a_deleted_parent(self, lineage, repo):
        cli.succeed('delete', repo, 'two', '--yes')
        one, three = cli.succeed('list', repo).splitlines()[1:3]
        short = lineage.ids['two'][:8]
        assert one.endswith('full')
        assert three.endswith(f'incremental, parent {short} deleted')
        assert three.startswith(lineage.ids['three'][:8])
        assert by_name(repo)['three']['parent'] == lineage.ids['two']
        assert f'Parent:        {short}, deleted\n' in cli.succeed(
            'show', repo, 'three'
        )

    def test_show(self, lineage, repo):
        shown = cli.read('show', repo, 'two')
        assert shown['children'] == [lineage.ids['three']]
        assert shown['parent'] == lineage.ids['one']
        assert (shown['own_packs'], shown['spare_packs']) == (1, 0)
        assert shown['shared_packs'] == shown['packs'] - 1
        assert shown['generations'] == 2
        text = cli.succeed('show', repo, 'two')
        for name, label in (('one', 'Parent'), ('three', 'Children')):
            line = f'"{name}" ({lineage.ids[name][:8]})'
            assert re.search(rf'^{label}: +{re.escape(line)}$', text, re.M)
        assert 'Full because' not in text

    def test_a_narrow_terminal(self, disk, repo):
        """Names that are too long are cut there, and nowhere else."""
        name = 'a name of a snapshot that is too long for a line'
        cli.succeed('capture', disk, repo, '--name', name)
        assert name in cli.succeed('list', repo)
        text = on_terminal('list', repo)
        assert name not in text
        assert max(map(len, text.splitlines())) <= 80
        assert name in on_terminal('list', repo, '--long')


def on_terminal(*args, answer=''):
    """Run it on a terminal of 80 columns; give what is to be seen there."""
    near, far = pty.openpty()
    process = subprocess.Popen(
        [*cli.COMMAND, *map(str, args)],
        stdin=far, stdout=far, stderr=far, env=cli.environment(),
    )  # fmt: skip
    os.close(far)
    os.write(near, answer.encode())
    text = b''
    try:
        while data := os.read(near, 4096):
            text += data
    except OSError:
        pass  # Its end.
    os.close(near)
    process.wait(timeout=30)
    return text.decode()


class TestDelete:
    def test_the_middle(self, lineage, repo, tmp_path):
        result = cli.read('delete', repo, 'two', '--yes')
        assert result['deleted'] == [lineage.ids['two']]
        assert {*by_name(repo)} == {'one', 'three'}
        pruned = cli.read('prune', repo)
        assert pruned['deleted_bytes'] >= result['prunable_bytes']
        assert pruned['held'] == []
        for name in ('one', 'three'):
            cli.check_export(repo, name, lineage.states[name], tmp_path)
        assert list(repo.rglob(f'{lineage.ids["two"]}/head')) == []

    def test_the_first_and_what_it_needs(self, lineage, repo, tmp_path):
        """Most of its packs live on in the others."""
        text = cli.succeed('delete', repo, 'one', '--yes')
        assert 'Other snapshots need all packs' in text
        cli.succeed('prune', repo)
        for name in ('two', 'three'):
            cli.check_export(repo, name, lineage.states[name], tmp_path)
        text = cli.succeed('delete', repo, 'three', 'two', '--yes')
        assert text.count('Deleted "') == 2
        assert re.search(r'To free the 1\d\.\d MiB that no other', text), text
        assert cli.read('prune', repo)['deleted_bytes'] > 2 * units.MiB
        assert cli.snapshots(repo) == []
        assert files(repo) == {}

    def test_without_a_terminal_it_must_be_told(self, lineage, repo):
        done = cli.run('delete', repo, 'two')
        assert (done.returncode, done.stdout) == (2, '')
        assert '--yes' in done.stderr
        assert len(by_name(repo)) == 3

    @pytest.mark.parametrize('answer', ['n', '', 'yet', 'y', 'yes'])
    def test_on_a_terminal_it_asks(self, lineage, repo, answer):
        text = on_terminal('delete', repo, 'two', 'three',
                           answer=f'{answer}\n')
        assert 'Delete 2 snapshots? [y/N] ' in text
        assert '"two"' in text and '"three"' in text
        gone = answer in ('y', 'yes')
        assert len(by_name(repo)) == (1 if gone else 3)
        assert ('Nothing was deleted.' in text) != gone

    def test_all_of_them_must_be_there(self, lineage, repo):
        cli.fail('snapshot-missing', 'delete', repo, 'two', 'seven', '--yes')
        assert len(by_name(repo)) == 3

    def test_one_that_a_capture_builds_upon(self, lineage, repo):
        lease.put(
            directory.DirectoryStore(repo), lineage_of(repo),
            lease.Lease(ATTEMPT, lineage.ids['two'], soon()),
        )  # fmt: skip
        line = cli.fail('snapshot-in-use', 'delete', repo, 'one', 'two',
                        '--yes')
        assert ATTEMPT in line
        # Not even the other one.
        assert len(by_name(repo)) == 3

    def test_a_damaged_one(self, lineage, repo):
        two = lineage.ids['two']
        (manifest,) = repo.glob(f'v1/*/*/snapshots/{two}/manifest')
        manifest.write_bytes(b'{}')
        text = cli.run('delete', repo, two, '--yes')
        assert text.returncode == 0
        assert f'Deleted {two[:8]}, which is damaged' in text.stdout
        assert cli.read('prune', repo)['held'] == []


class TestPrune:
    def test_a_rehearsal_changes_nothing(self, lineage, repo):
        cli.succeed('delete', repo, 'three', '--yes')
        before = files(repo)
        expected = cli.read('prune', repo, '--dry-run')
        text = cli.succeed('prune', repo, '--dry-run')
        assert text.startswith('Would free 2')
        assert files(repo) == before
        found = cli.read('prune', repo)
        assert (expected.pop('dry_run'), found.pop('dry_run')) == (True, False)
        assert found == expected
        assert found['grace_hours'] == 0 and found['deleted'] >= 3
        gone = before.keys() - files(repo).keys()
        assert found['deleted_bytes'] == sum(before[name] for name in gone)
        text = cli.succeed('prune', repo)
        assert text == 'There is nothing to delete.\n'

    def test_a_grace(self, lineage, repo):
        cli.succeed('delete', repo, 'three', '--yes')
        before = files(repo)
        text = cli.succeed('prune', repo, '--grace=1')
        assert re.fullmatch(
            r'\d objects to be deleted by a prune in 1 hour\.\n', text
        ), text
        assert before.items() <= files(repo).items()
        # As if nobody had found them before.
        assert cli.read('prune', repo, '--grace=0')['deleted'] >= 3

    def test_what_an_interrupted_capture_left(self, lineage, repo):
        where = lineage_of(repo)
        store = directory.DirectoryStore(repo)
        prefix = layout.attempt_prefix(where, ATTEMPT)
        store.put(f'{prefix}pack-000001', bytes(1000))
        lease.put(store, where, lease.Lease(ATTEMPT, None, soon()))
        found = cli.read('prune', repo)
        assert (found['deleted'], found['kept_for_leases']) == (0, 1)
        assert cli.succeed('prune', repo) == (
            'There is nothing to delete.\n'
            '1 object kept for captures under way.\n'
        )
        lease.delete(store, where, ATTEMPT)
        text = cli.succeed('prune', repo)
        assert text == 'Freed 1000 B in 1 object.\n'

    def test_it_never_guesses(self, lineage, repo):
        two = lineage.ids['two']
        (manifest,) = repo.glob(f'v1/*/*/snapshots/{two}/manifest')
        cli.succeed('delete', repo, 'three', '--yes')
        manifest.write_bytes(b'{}')
        before = files(repo)
        done = cli.run('prune', repo)
        assert done.returncode == 1
        assert done.stdout == 'Nothing was deleted.\n'
        assert done.stderr.startswith('ironic-snapshot: warning: ')
        assert two in done.stderr
        assert files(repo) == before

    def test_no_repository(self, tmp_path):
        for command in (['prune', tmp_path / 'x'],
                        ['delete', tmp_path / 'x', 'id', '--yes']):
            cli.fail('repository-unsuitable', *command)
        assert os.listdir(tmp_path) == []
