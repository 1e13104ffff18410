# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot restore`` onto real files and disks."""

import contextlib
import os
import pathlib
import pty
import re
import shutil
import signal
import subprocess

import pytest

from ironic_snapshot_core import manifest
from ironic_snapshot_core.store import directory
from ironic_snapshot_core.units import KiB, MiB
from tests import disks
from tests.contract import cli

FIELDS = {
    'snapshot': str,
    'name': str,
    'target': str,
    'serial': type(None),
    'target_bytes': int,
    'virtual_bytes': int,
    'compared_bytes': int,
    'differing_clusters': int,
    'differing_bytes': int,
    'written_bytes': int,
    'zeroed_bytes': int,
    'fetched_bytes': int,
    'grown_bytes': int,
    'shrunk_bytes': int,
    'identity': list,
    'degraded': bool,
    'repaired': list,
    'seconds': float,
}
MARKER = b'ironic-snapshot: restore of '


@pytest.fixture(scope='module')
def example(tmp_path_factory):
    """A disk with a GPT, and a repository with a snapshot of it."""
    folder = tmp_path_factory.mktemp('restore')
    path = folder / 'disk.raw'
    path.write_bytes(disks.draw('-Ab-Cd--E-f-----', MiB))
    subprocess.run(
        ['sfdisk', '--quiet', '--wipe=never', path],
        input='label: gpt\nsize=6MiB\nsize=8MiB\n', text=True, check=True,
    )  # fmt: skip
    cli.succeed('capture', path, folder / 'repo', '--name', 'golden')
    return path, folder / 'repo'


@pytest.fixture
def target(example, tmp_path):
    """A disk that was the snapshot; its start and three clusters changed."""
    path = tmp_path / 'target.raw'
    shutil.copyfile(example[0], path)
    with open(path, 'r+b') as f:
        for offset in (512 * 5, 3 * MiB, 4 * MiB, 10 * MiB):
            f.seek(offset)
            f.write(disks.random_bytes(512))
    return path


def only(repo, pattern):
    (found,) = repo.glob(f'v1/*/*/{pattern}')
    return found


class TestFile:
    def test_one_that_is_not_there(self, example, tmp_path):
        image, repo = example
        result = cli.read('restore', repo, 'golden', tmp_path / 'new.raw')
        assert {name: type(value) for name, value in result.items()} == FIELDS
        cli.qemu_img('compare', '-f', 'raw', '-F', 'raw', image,
                     tmp_path / 'new.raw')
        assert result['target'] == str(tmp_path / 'new.raw')
        assert result['virtual_bytes'] == image.stat().st_size
        assert 0 < result['fetched_bytes'] <= result['written_bytes']
        # Nothing is read of what is known to be zero, nor is it written.
        assert result['written_bytes'] < result['virtual_bytes']
        blocks = (tmp_path / 'new.raw').stat().st_blocks
        assert blocks * 512 < result['virtual_bytes']

    def test_a_blank_one(self, example, tmp_path):
        """Neither a file that is one hole nor written zeroes are asked for."""
        image, repo = example
        size = image.stat().st_size
        with open(tmp_path / 'hole.raw', 'wb') as f:
            f.truncate(size)
        (tmp_path / 'zeroes.raw').write_bytes(bytes(size))
        compared = []
        for name in ('hole.raw', 'zeroes.raw'):
            result = cli.read('restore', repo, 'golden', tmp_path / name)
            compared.append(result['compared_bytes'])
            assert (tmp_path / name).read_bytes() == image.read_bytes()
        assert compared[0] < compared[1] == size

    def test_only_what_differs(self, example, target):
        image, repo = example
        done = cli.succeed('restore', repo, 'golden', target, '--yes')
        assert target.read_bytes() == image.read_bytes()
        assert re.search(r'Differed: +\S+ \w+ in 3 clusters', done)
        assert re.search(r'Written: +.*, and read back', done)
        again = cli.succeed('restore', repo, 'golden', target, '--yes')
        assert 'Written:       nothing: it was the snapshot already' in again
        result = cli.read('restore', repo, 'golden', target, '--yes')
        assert (result['written_bytes'], result['differing_bytes']) == (0, 0)

    def test_a_larger_one(self, example, tmp_path):
        image, repo = example
        path = tmp_path / 'larger.raw'
        with open(path, 'wb') as f:
            f.truncate(image.stat().st_size + 16 * MiB)
        result = cli.read('restore', repo, 'golden', path)
        assert result['grown_bytes'] == 16 * MiB
        done = subprocess.run(
            ['sfdisk', '--verify', path], capture_output=True, text=True
        )
        assert 'No errors detected' in done.stdout, done.stderr

    def test_a_snapshot_of_a_conductor(self, example, tmp_path):
        image, repo = example[0], shutil.copytree(example[1], tmp_path / 'r')
        store = directory.DirectoryStore(repo)
        name = str(only(repo, 'snapshots/*/manifest').relative_to(repo))
        found = manifest.Manifest.from_bytes(store.get(name, MiB), None)
        store.put(name, found.to_bytes(b'key'))
        (tmp_path / 'key').write_bytes(b'key\n')
        id, out = found.id, tmp_path / 'out'
        cli.fail('corrupted', 'restore', repo, id, out)
        cli.succeed('restore', repo, id, out, '--manifest-key',
                    tmp_path / 'key')
        assert out.read_bytes() == image.read_bytes()

    def test_the_options(self, example, tmp_path):
        image, repo = example
        cli.read(
            'restore', repo, 'golden', tmp_path / 'out',
            *'--workers 1 --memory-limit 200M --bandwidth-limit 1G '
            '--io-priority idle'.split()
        )  # fmt: skip
        assert (tmp_path / 'out').read_bytes() == image.read_bytes()
        cli.fail('invalid-value', 'restore', repo, 'golden',
                 tmp_path / 'another', '--memory-limit', '1M')
        assert not (tmp_path / 'another').exists()


@disks.needs_loop
class TestDevice:
    @pytest.fixture
    def device(self, example, tmp_path):
        path = tmp_path / 'disk'
        with open(path, 'wb') as f:
            f.truncate(example[0].stat().st_size)
        with disks.loop_device(path) as device:
            yield device

    def test_a_disk(self, example, device):
        image, repo = example
        cli.succeed('restore', repo, 'golden', device)
        assert pathlib.Path(device).read_bytes() == image.read_bytes()
        # The kernel knows the partitions.
        name = os.path.basename(device)
        found = list(pathlib.Path(f'/sys/block/{name}').glob('*/partition'))
        assert len(found) == 2
        # And what was there is told.
        line = cli.fail('target-not-blank', 'restore', repo, 'golden', device)
        assert 'there is GPT with 2 partitions on it' in line

    def test_one_in_use(self, example, device, tmp_path):
        with disks.mounted(device, tmp_path / 'mounted'):
            line = cli.fail(
                'disk-busy', 'restore', example[1], 'golden', device, '--yes'
            )
        assert 'is mounted at' in line

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path):
        (tmp_path / 'mounted').mkdir()

    def test_the_disk_of_the_repository(self, example, device, tmp_path):
        with disks.mounted(device, tmp_path / 'mounted') as folder:
            shutil.copytree(example[1], folder / 'repo')
            cli.fail('disk-busy', 'restore', folder / 'repo', 'golden',
                     device, '--yes')
            cli.fail('disk-busy', 'restore', folder / 'repo', 'golden',
                     tmp_path / 'disk', '--yes')

    def test_a_bare_file_system(self, example, device):
        subprocess.run(['mkfs.ext4', '-q', device], check=True)
        line = cli.fail(
            'target-not-blank', 'restore', example[1], 'golden', device
        )
        assert 'there is ext4 on it' in line

    def test_a_clone(self, device, tmp_path):
        tree = tmp_path / 'tree'
        for name, content in (
            ('etc/os-release', 'ID=debian\n'),
            ('etc/passwd', 'root:x:0:0::/root:/bin/sh\n'),
            ('etc/machine-id', '0123456789abcdef0123456789abcdef\n'),
        ):
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            (tree / name).write_text(content)
        subprocess.run(
            ['mkfs.ext4', '-q', '-d', tree, tmp_path / 'system.raw', '12M'],
            check=True,
        )
        repo = tmp_path / 'repo'
        cli.succeed('capture', tmp_path / 'system.raw', repo, '--name=system')
        result = cli.read(
            'restore', repo, 'system', device, '--identity=reset'
        )
        (account,) = result['identity']
        assert account.endswith(' ext4: machine-id')
        found = subprocess.run(
            ['debugfs', '-R', 'cat /etc/machine-id', device],
            capture_output=True, text=True,
        ).stdout  # fmt: skip
        assert '0123' not in found

    def test_an_identity_that_cannot_be_reset(self, example, device):
        """All is on the disk, which has no Linux system."""
        image, repo = example
        line = cli.fail('identity-not-reset', 'restore', repo, 'golden',
                        device, '--identity=reset', '--quiet')
        assert 'All of the snapshot is on the disk' in line
        assert pathlib.Path(device).read_bytes() == image.read_bytes()


class TestRefused:
    """One clear error before the first write."""

    @pytest.fixture(autouse=True)
    def same(self, target):
        before = target.read_bytes()
        yield
        assert target.read_bytes() == before

    def test_what_is_not_blank(self, example, target):
        line = cli.fail(
            'target-not-blank', 'restore', example[1], 'golden', target
        )
        assert '--yes' in line

    def test_a_small_one(self, example, target):
        before = target.read_bytes()
        os.truncate(target, 8 * MiB)
        line = cli.fail(
            'disk-unsuitable', 'restore', example[1], 'golden', target,
            '--yes',
        )
        assert 'too small' in line
        assert target.read_bytes() == before[: 8 * MiB]
        target.write_bytes(before)

    @pytest.mark.parametrize('damage', ['pack', 'map'])
    def test_a_damaged_snapshot(self, example, target, tmp_path, damage):
        repo = shutil.copytree(example[1], tmp_path / 'repo')
        only(repo, f'attempts/*/{damage}*').unlink()
        new = tmp_path / 'new.raw'
        for path in (target, new):
            line = cli.fail('snapshot-unsuitable', 'restore', repo, 'golden',
                            path, '--yes')
            assert f'/{damage}' in line
            assert 'it is missing' in line
        assert not new.exists()

    def test_part_of_the_repository(self, example, tmp_path):
        repo = shutil.copytree(example[1], tmp_path / 'repo')
        pack = only(repo, 'attempts/*/pack*')
        before = pack.read_bytes()
        for path in (pack, repo / 'new.raw'):
            cli.fail(
                'disk-unsuitable', 'restore', repo, 'golden', path, '--yes'
            )
        assert pack.read_bytes() == before
        assert not (repo / 'new.raw').exists()

    def test_another_format(self, example, tmp_path):
        path = tmp_path / 'disk.qcow2'
        cli.qemu_img('create', '-q', '-f', 'qcow2', path, '64M')
        before = path.read_bytes()
        line = cli.fail(
            'disk-unsuitable', 'restore', example[1], 'golden', path, '--yes'
        )
        assert 'qcow2' in line
        assert path.read_bytes() == before

    @pytest.mark.parametrize(
        ('path', 'code'),
        [
            ('/dev/there-is-no-such-disk', 'disk-not-found'),
            ('/nowhere/disk.raw', 'output-failed'),
            ('/', 'disk-unsuitable'),
        ],
    )
    def test_no_place_for_it(self, example, path, code):
        cli.fail(code, 'restore', example[1], 'golden', path, '--yes')
        assert not os.path.isfile(path)

    def test_an_identity_in_a_file(self, example, target, tmp_path):
        for path in (target, tmp_path / 'new.raw'):
            line = cli.fail(
                'disk-unsuitable', 'restore', example[1], 'golden', path,
                '--yes', '--identity=reset',
            )
            assert 'losetup' in line
        assert not (tmp_path / 'new.raw').exists()


class Running:
    """A restore that is under way, at a terminal."""

    def __init__(self, *args):
        self._terminal, inner = pty.openpty()
        self.process = subprocess.Popen(
            [*cli.COMMAND, 'restore', *map(str, args)],
            stdin=inner, stdout=subprocess.PIPE, stderr=inner,
            env=cli.environment(),
        )  # fmt: skip
        os.close(inner)
        self.said = ''

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
        os.close(self._terminal)

    def read_until(self, pattern):
        while not re.search(pattern, self.said):
            self.said += os.read(self._terminal, 4096).decode()

    def type(self, text):
        os.write(self._terminal, text.encode())

    def end(self):
        """Wait for its end; give its status and what it printed."""
        with contextlib.suppress(OSError):  # The end of a terminal.
            while data := os.read(self._terminal, 4096):
                self.said += data.decode()
        printed, _ = self.process.communicate(timeout=30)
        return self.process.returncode, printed.decode()


class TestAsked:
    @pytest.mark.parametrize('answer', ['yes\n', 'y\n', '\n'])
    def test_an_answer(self, example, target, answer):
        image, repo = example
        before = target.read_bytes()
        with Running(repo, 'golden', target) as running:
            running.read_until('Type yes: ')
            running.type(answer)
            code, printed = running.end()
        assert re.search(
            rf'Everything on {re.escape(str(target))}, 16\.0 MiB '
            r'\(GPT with 2 partitions\) will be overwritten', running.said
        )
        if answer == 'yes\n':
            assert (code, 'Restored "golden"' in printed) == (0, True)
            assert target.read_bytes() == image.read_bytes()
        else:
            assert (code, printed) == (1, '')
            assert 'Nothing was written.' in running.said
            assert target.read_bytes() == before

    def test_the_snapshot_stays_meanwhile(self, example, target):
        repo = example[1]
        with Running(repo, 'golden', target) as running:
            running.read_until('Type yes: ')
            cli.fail('snapshot-in-use', 'delete', repo, 'golden', '--yes')
            running.type('no\n')
            assert running.end() == (1, '')
        assert list(repo.glob('v1/*/*/leases/*')) == []

    def test_interrupted_meanwhile(self, example, target):
        before = target.read_bytes()
        with Running(example[1], 'golden', target) as running:
            running.read_until('Type yes: ')
            running.process.send_signal(signal.SIGINT)
            assert running.end() == (130, '')
        assert target.read_bytes() == before


class TestInterrupted:
    @pytest.fixture
    def noise(self, tmp_path):
        """A snapshot of 4 MiB that take their time at 1 MiB per second."""
        disk = tmp_path / 'noise.raw'
        disk.write_bytes(disks.random_bytes(24 * 256 * KiB))
        cli.succeed('capture', disk, tmp_path / 'repo', '--name', 'noise')
        return disk, tmp_path / 'repo'

    @pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
    def test_while_it_writes(self, noise, tmp_path, number):
        disk, repo = noise
        path = tmp_path / 'target.raw'
        path.write_bytes(disks.random_bytes(disk.stat().st_size, 'other'))
        with Running(
            repo, 'noise', path, '--yes', '--bandwidth-limit=1M'
        ) as running:
            running.read_until(r'write .* [1-9]\d*%')
            running.process.send_signal(number)
            code, printed = running.end()
        assert (code, printed) == (130, '')
        assert '[restore-interrupted]' in running.said
        assert 'not bootable until the restore is run again' in (
            ' '.join(running.said.split())
        )
        assert path.read_bytes().startswith(MARKER)
        # It goes on without a question, for the disk is lost already.
        result = cli.read('restore', repo, 'noise', path)
        assert result['written_bytes'] < disk.stat().st_size
        assert path.read_bytes() == disk.read_bytes()

    def test_another_snapshot_is_asked_for(self, noise, example, tmp_path):
        path = tmp_path / 'half.raw'
        shutil.copyfile(noise[0], path)
        with open(path, 'r+b') as f:
            id = cli.read('show', example[1], 'golden')['snapshot']
            f.write(MARKER + id.encode() + b' is not finished\n\0')
        cli.fail('target-not-blank', 'restore', noise[1], 'noise', path)
