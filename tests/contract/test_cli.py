# SPDX-License-Identifier: Apache-2.0
"""``ironic-snapshot`` on real images, its results judged by qemu-img."""

import contextlib
import fcntl
import json
import os
import pathlib
import pty
import re
import resource
import shutil
import signal
import struct
import subprocess
import termios
import time
import uuid

import pytest

from ironic_snapshot_cli import arguments
from ironic_snapshot_core import units
from tests import disks
from tests.contract import cli
from tests.contract import node_disk

FIELDS = {
    'snapshot': str,
    'lineage': dict,
    'sequence': int,
    'parent': type(None),
    'full_reason': str,
    'virtual_bytes': int,
    'used_bytes': int,
    'data_bytes': int,
    'new_bytes': int,
    'shared_bytes': int,
    'dedupe_ratio': float,
    'seconds': float,
    'degraded': bool,
    'regions': list,
    'unreadable': list,
}


@pytest.fixture(scope='module')
def example(tmp_path_factory):
    """A disk, a repository with a snapshot of it, and the result."""
    folder = tmp_path_factory.mktemp('cli')
    node_disk.fill(folder / 'disk.raw', 1)
    result = cli.read(
        'capture', folder / 'disk.raw', folder / 'repo', '--name', 'golden'
    )
    return folder / 'disk.raw', folder / 'repo', result


@pytest.fixture
def copy(example, tmp_path):
    """The repository once more, to be damaged."""
    subprocess.run(['cp', '-a', example[1], tmp_path / 'repo'], check=True)
    return tmp_path / 'repo'


def only(folder, pattern):
    (found,) = folder.glob(f'v1/*/*/{pattern}')
    return found


class TestThereAndBack:
    @pytest.mark.parametrize(
        'options',
        [
            '',
            '--compression zlib --level 9 --cluster-size 64K',
            '--compression none --cluster-size 2M --workers 1',
            '--compression auto --io-priority idle --memory-limit 300M',
            '--all-blocks --sector-size 512 --bandwidth-limit 1G',
        ],
    )
    def test_what_went_in_comes_out(self, tmp_path, options):
        disk = tmp_path / 'disk.raw'
        node_disk.fill(disk, 2)
        before = disk.stat()
        result = cli.read(
            'capture', disk, tmp_path / 'repo', *options.split()
        )
        cli.check_export(
            tmp_path / 'repo', result['snapshot'], disk, tmp_path
        )
        assert disk.stat().st_mtime_ns == before.st_mtime_ns

    def test_raw_is_sparse(self, example, tmp_path):
        disk = tmp_path / 'disk.raw'
        with open(disk, 'wb') as f:
            f.truncate(units.GiB)
            f.write(b'start')
        cli.succeed('capture', disk, tmp_path / 'repo', '--name', 'sparse')
        cli.succeed('export', tmp_path / 'repo', 'sparse', tmp_path / 'o.img')
        cli.qemu_img('compare', '-f', 'raw', '-F', 'raw', disk,
                 tmp_path / 'o.img')
        assert (tmp_path / 'o.img').stat().st_blocks * 512 <= units.MiB

    def test_to_standard_output(self, example, tmp_path):
        disk, repo, _ = example
        with open(tmp_path / 'out', 'wb') as f:
            done = subprocess.run(
                [*cli.COMMAND, 'export', repo, 'golden', '-'],
                stdout=f, stderr=subprocess.PIPE, check=True,
            )  # fmt: skip
        assert done.stderr == b''
        cli.succeed('export', repo, 'golden', tmp_path / 'out.qcow2')
        assert (tmp_path / 'out').read_bytes() == (
            tmp_path / 'out.qcow2'
        ).read_bytes()

    @disks.needs_loop
    def test_a_device(self, example, tmp_path):
        disk, _, _ = example
        with open(tmp_path / 'disk', 'wb') as f:
            f.write(disk.read_bytes())
            f.truncate(12 * units.MiB)
        with disks.loop_device(tmp_path / 'disk', sector_size=4096) as device:
            result = cli.read('capture', device, tmp_path / 'repo')
            found = cli.read('show', tmp_path / 'repo', result['snapshot'])
        assert found['disk']['logical_sector_size'] == 4096
        assert found['disk']['name'] == device
        cli.check_export(
            tmp_path / 'repo', result['snapshot'], tmp_path / 'disk', tmp_path
        )

    def test_an_image_of_a_disk_with_large_sectors(self, tmp_path):
        disk = tmp_path / 'disk.raw'
        disk.write_bytes(disks.draw('A-b', 64 * units.KiB))
        cli.succeed(
            'capture', disk, tmp_path / 'repo', '--sector-size=4096',
            '--name=large',
        )  # fmt: skip
        found = cli.read('show', tmp_path / 'repo', 'large')
        assert found['disk']['logical_sector_size'] == 4096


class TestResults:
    def test_json_of_a_capture(self, example):
        disk, _, result = example
        for name, kind in FIELDS.items():
            assert type(result[name]) is kind, name
        assert str(uuid.UUID(result['snapshot'])) == result['snapshot']
        assert result['name'] == 'golden'
        assert result['virtual_bytes'] == disk.stat().st_size
        assert result['data_bytes'] <= result['used_bytes']
        assert 2 * units.MiB < result['new_bytes'] < 5 * units.MiB
        assert result['shared_bytes'] == 0
        assert result['unreadable'] == []
        assert sum(r['length'] for r in result['regions']) >= node_disk.SIZE

    def test_text_of_a_capture(self, example, tmp_path):
        done = cli.run('capture', example[0], tmp_path / 'repo')
        assert done.stderr == ''
        id = cli.snapshots(tmp_path / 'repo')[0]['snapshot']
        assert re.fullmatch(
            rf'Captured "disk\.raw 20\S+Z" as {id}\n'
            r'  full: it is the first of its lineage\n'
            r'  Virtual size:  9\.0 MiB\n'
            r'  In use:        9\.0 MiB\n'
            r'  New:           \d\.\d MiB stored\n'
            r'  Dedupe ratio:  1\.\d\n'
            r'  Time:          \d\.\d s \(\d+\.\d MiB/s\)\n'
            r'(  Read whole:    .*\n)?'
            rf'Get it back with: ironic-snapshot export \S+ {id[:8]} '
            r'OUT\.qcow2\n',
            done.stdout,
        ), done.stdout

    def test_list(self, example):
        _, repo, result = example
        heading, line, _, footer = cli.succeed('list', repo).splitlines()
        assert heading.split() == [
            'ID', 'NAME', 'CREATED', 'VIRTUAL', 'USED', 'NEW', 'SHARED',
            'STATE',
        ]  # fmt: skip
        assert line.startswith(f'{result["snapshot"][:8]}  golden  20')
        assert line.endswith('  0  full')
        assert 'dedupe ratio 1.' in footer
        assert result['snapshot'] in cli.succeed('list', repo, '--long')

    def test_json_of_a_list_has_the_figures_of_the_captures(self, example):
        _, repo, result = example
        (found,) = cli.snapshots(repo)
        assert found['state'] == 'ok'
        shared = found.keys() & result.keys()
        assert len(shared) >= 10
        assert {n: found[n] for n in shared} == {n: result[n] for n in shared}

    def test_show(self, example):
        disk, repo, result = example
        found = cli.succeed('show', repo, 'golden')
        for text in (result['snapshot'], str(disk), 'golden', 'REGION',
                     'blake3-256', 'zstd 1', '9.0 MiB', 'Seconds:  '):
            assert text in found
        assert '/s' not in found

    def test_json_of_show(self, example):
        _, repo, result = example
        found = cli.read('show', repo, result['snapshot'][:4])
        assert found['snapshot'] == result['snapshot']
        assert found['regions'] == result['regions']
        assert found['packs'] == 1
        assert found['sequence'] == 1
        assert found['timings']['total'] <= result['seconds']

    def test_an_empty_repository(self, tmp_path):
        assert cli.snapshots(tmp_path) == []
        done = cli.run('list', tmp_path)
        assert (done.returncode, done.stdout) == (0, '')
        assert done.stderr == 'There are no snapshots.\n'

    def test_captures_of_a_disk_are_counted(self, example, tmp_path):
        disk = example[0]
        repo = tmp_path / 'repo'
        for _ in range(2):
            cli.succeed('capture', disk, repo)
        os.symlink(disk, tmp_path / 'another')
        cli.succeed('capture', tmp_path / 'another', repo)
        found = [
            cli.read('show', repo, each['snapshot'])
            for each in cli.snapshots(repo)
        ]
        assert [each['sequence'] for each in found] == [1, 2, 3]
        assert len({each['lineage']['node'] for each in found}) == 1

    def test_measuring_stores_nothing(self, example, tmp_path):
        result = cli.read('capture', example[0], 'null:', cwd=tmp_path)
        missing = {name for name in FIELDS if name not in result}
        assert missing == {'lineage', 'sequence'}
        assert result['full_reason'] == 'it is the first of its lineage'
        assert result['snapshot'] is None
        assert result['new_bytes'] == example[2]['new_bytes']
        assert os.listdir(tmp_path) == []
        assert 'there is no snapshot' in cli.succeed(
            'capture', example[0], 'null:'
        )


class TestErrors:
    def test_no_source(self, tmp_path):
        cli.fail('disk-not-found', 'capture', tmp_path / 'x', tmp_path / 'r')
        assert os.listdir(tmp_path) == []

    def test_an_odd_source(self, tmp_path):
        (tmp_path / 'short').write_bytes(b'x' * 100)
        for each in (tmp_path / 'short', tmp_path, '/dev/null'):
            cli.fail('disk-unsuitable', 'capture', each, tmp_path / 'r')

    @disks.needs_loop
    def test_a_source_in_use(self, tmp_path):
        with open(tmp_path / 'disk', 'wb') as f:
            f.truncate(16 * units.MiB)
        (tmp_path / 'm').mkdir()
        with disks.loop_device(tmp_path / 'disk') as device:
            with disks.mounted(device, tmp_path / 'm'):
                line = cli.fail('disk-busy', 'capture', device,
                                tmp_path / 'r')
        assert f'is mounted at {tmp_path}/m' in line
        assert not (tmp_path / 'r').exists()

    def test_a_directory_that_is_no_repository(self, example, tmp_path):
        (tmp_path / 'letters').touch()
        for args in (['capture', example[0], tmp_path], ['list', tmp_path],
                     ['show', tmp_path, 'x'],
                     ['export', tmp_path, 'x', tmp_path / 'o.raw']):
            cli.fail('repository-unsuitable', *args)
        assert os.listdir(tmp_path) == ['letters']

    def test_no_repository(self, tmp_path):
        cli.fail('repository-unsuitable', 'list', tmp_path / 'repo')

    def test_too_little_memory(self, example, tmp_path):
        cli.fail('invalid-value', 'capture', example[0], tmp_path / 'r',
                 '--memory-limit=1M')

    def test_a_snapshot_that_is_not_there(self, example, tmp_path):
        for command in ('show', 'export'):
            out = [tmp_path / 'o.raw'] if command == 'export' else []
            cli.fail('snapshot-missing', command, example[1], 'silver', *out)
        assert os.listdir(tmp_path) == []

    def test_a_name_of_two_snapshots(self, example, copy):
        cli.succeed('capture', example[0], copy, '--name=golden')
        line = cli.fail('snapshot-ambiguous', 'show', copy, 'golden')
        for each in cli.snapshots(copy):
            assert each['snapshot'] in line

    def test_an_image_that_exists(self, example, tmp_path):
        _, repo, _ = example
        out = tmp_path / 'o.qcow2'
        out.write_bytes(b'precious')
        cli.fail('output-failed', 'export', repo, 'golden', out)
        assert out.read_bytes() == b'precious'
        cli.succeed('export', repo, 'golden', out, '--force')
        cli.qemu_img('check', out)

    @disks.needs_loop
    def test_a_device_is_never_overwritten(self, example, tmp_path):
        with open(tmp_path / 'disk', 'wb') as f:
            f.truncate(16 * units.MiB)
        with disks.loop_device(tmp_path / 'disk') as device:
            cli.fail('output-failed', 'export', example[1], 'golden', device,
                     '--format=raw', '--force')
        assert not (tmp_path / 'disk').read_bytes().strip(b'\0')

    @pytest.mark.parametrize('suffix', ['raw', 'qcow2'])
    @pytest.mark.parametrize('damage', ['flip', 'cut', 'delete', 'flip again'])
    def test_a_damaged_pack(self, copy, tmp_path, suffix, damage):
        pack = only(copy, 'attempts/*/pack-000001')
        if damage == 'delete':
            pack.unlink()
        elif damage == 'cut':
            os.truncate(pack, 1000)
        else:
            with open(pack, 'r+b') as f:
                f.seek(100)
                f.write(b'!')
            if damage == 'flip again':
                # Whoever damaged it made its checksum good again.
                os.removexattr(pack, 'user.ironic_snapshot.etag')
        out = tmp_path / 'out'
        out.mkdir()
        done = cli.run('export', copy, 'golden', out / f'o.{suffix}')
        assert done.returncode == 1
        assert re.match(
            r'ironic-snapshot: error: \[(corrupted|object-mi[a-z]+)\] .*'
            'pack-000001.*\n', done.stderr,
        )  # fmt: skip
        assert done.stderr.count('\n') == 1
        assert os.listdir(out) == []

    def test_a_damaged_manifest_is_listed(self, example, copy):
        cli.succeed('capture', example[0], copy, '--name=second')
        manifest = only(copy, f'snapshots/{example[2]["snapshot"]}/manifest')
        data = manifest.read_bytes().replace(b'golden', b'gilded')
        manifest.write_bytes(data)
        lines = cli.succeed('list', copy).splitlines()
        assert lines[1].endswith('  damaged')
        # Taken before the damage.
        assert lines[2].endswith('  incremental')
        assert lines[3] == '' and len(lines) == 5
        by_state = {each['state']: each for each in cli.snapshots(copy)}
        assert by_state['damaged']['snapshot'] == example[2]['snapshot']
        assert 'manifest' in by_state['damaged']['reason']
        assert f'damaged: {by_state["damaged"]["reason"]}' in cli.succeed(
            'list', copy, '--long'
        )
        cli.fail('corrupted', 'show', copy, example[2]['snapshot'])

    @pytest.mark.parametrize('suffix', ['raw', 'qcow2'])
    def test_no_room_for_the_image(self, example, tmp_path, suffix):
        line = cli.fail(
            'output-failed', 'export', example[1], 'golden',
            tmp_path / f'o.{suffix}', preexec_fn=limit_files,
        )  # fmt: skip
        assert 'File too large' in line
        assert os.listdir(tmp_path) == []

    def test_no_room_for_the_snapshot(self, example, tmp_path):
        cli.fail('store-full', 'capture', example[0], tmp_path / 'repo',
                 preexec_fn=limit_files)
        assert cli.snapshots(tmp_path / 'repo') == []

    def test_no_room_for_the_result(self, example):
        with open('/dev/full', 'w') as full:
            done = subprocess.run(
                [*cli.COMMAND, 'list', example[1]],
                stdout=full, stderr=subprocess.PIPE, text=True,
            )  # fmt: skip
        assert done.returncode == 1
        assert done.stderr.startswith('ironic-snapshot: error: [system-error]')
        assert done.stderr.count('\n') == 1

    def test_a_reader_that_has_seen_enough(self, example):
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(
            [*cli.COMMAND, 'list', example[1]],
            stdout=writing, stderr=subprocess.PIPE,
        )  # fmt: skip
        os.close(writing)
        assert (done.returncode, done.stderr) == (1, b'')

    def test_debug_shows_where(self, tmp_path):
        done = cli.run('list', tmp_path / 'x', '--debug')
        assert done.returncode == 1
        assert 'Traceback' in done.stderr
        assert 'RepositoryUnsuitable' in done.stderr

    def test_a_container_instead_of_a_disk(self, tmp_path):
        cli.qemu_img('create', '-q', '-f', 'qcow2', tmp_path / 'disk', '1M')
        os.truncate(tmp_path / 'disk', units.MiB)
        done = cli.run('capture', tmp_path / 'disk', tmp_path / 'repo')
        assert done.returncode == 0
        assert done.stderr == (
            f'ironic-snapshot: warning: {tmp_path}/disk is a qcow2 file; its '
            'container is captured, not the disk in it\n'
        )


@disks.needs_failing_disk
class TestBadSectors:
    @pytest.fixture
    def device(self, example, tmp_path):
        with disks.failing_disk(example[0], 9001, tmp_path) as device:
            yield device

    def test_by_default(self, device, tmp_path):
        line = cli.fail('disk-read-error', 'capture', device, tmp_path / 'r')
        assert 'cannot read sectors 9' in line
        assert cli.snapshots(tmp_path / 'r') == []

    def test_when_allowed(self, example, device, tmp_path):
        repo = tmp_path / 'repo'
        args = ['capture', device, repo, '--allow-bad-sectors', '--json']
        done = cli.run(*args)
        assert done.returncode == 3, done.stderr
        result = json.loads(done.stdout)
        assert result['degraded']
        (run,) = result['unreadable']
        assert run['start'] <= 9001 * 512 < run['start'] + run['length']
        assert cli.snapshots(repo)[0]['state'] == 'degraded'
        assert 'Could not be read' in cli.succeed(
            'show', repo, result['snapshot']
        )
        done = cli.run(
            'export', repo, result['snapshot'], tmp_path / 'o.raw'
        )
        assert (done.returncode, done.stderr.count('degraded')) == (0, 1)
        expected = bytearray(example[0].read_bytes())
        end = run['start'] + run['length']
        expected[run['start']:end] = bytes(run['length'])
        assert (tmp_path / 'o.raw').read_bytes() == expected


class Slow:
    """A capture that takes a minute, on a terminal or not."""

    def __init__(self, disk, repo, terminal=False):
        self.repo = repo
        reading, writing = pty.openpty() if terminal else os.pipe()
        if terminal:
            self._resize(writing, 90)
        self.process = subprocess.Popen(
            [*cli.COMMAND, 'capture', disk, repo, '--bandwidth-limit=1M'],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=writing,
            env=cli.environment(),
        )  # fmt: skip
        os.close(writing)
        self._reading = reading
        self.said = ''

    @staticmethod
    def _resize(fd, columns):
        size = struct.pack('4H', 24, columns, 0, 0)
        fcntl.ioctl(fd, termios.TIOCSWINSZ, size)

    def read_until(self, pattern):
        """Read what it says, until it says this and has stored a pack."""
        while not re.search(pattern, self.said) or not self.packs():
            assert self.process.poll() is None, self.said
            self.said += os.read(self._reading, 4096).decode()

    def packs(self):
        return [*self.repo.glob('v1/*/*/attempts/*/pack-*')]

    def stop(self, number):
        """Stop it; give the seconds that takes."""
        began = time.monotonic()
        self.process.send_signal(number)
        printed, _ = self.process.communicate(timeout=30)
        seconds = time.monotonic() - began
        assert printed == b''
        assert self.process.returncode == 130
        with contextlib.suppress(OSError):  # The end of a terminal.
            while data := os.read(self._reading, 4096):
                self.said += data.decode()
        return seconds

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        os.close(self._reading)


class TestInterrupted:
    @pytest.fixture
    def slow(self, tmp_path):
        disk = tmp_path / 'disk.raw'
        # More than the packs that are in memory at a time.
        disk.write_bytes(os.urandom(300 * units.MiB))
        with contextlib.ExitStack() as stack:
            # Not to be kept with what failed.
            stack.callback(shutil.rmtree, tmp_path)

            def start(**options):
                found = Slow(disk, tmp_path / 'repo', **options)
                stack.callback(found.close)
                return found
            yield start

    def check(self, slow):
        assert slow.packs()
        assert [*slow.repo.glob('v1/*/*/leases/*')] == []
        last = slow.said.splitlines()[-1]
        assert last.endswith('ironic-snapshot: interrupted')
        assert cli.snapshots(slow.repo) == []

    def test_by_a_signal_without_a_terminal(self, slow):
        """Plain lines, the first after ten seconds."""
        slow = slow()
        slow.read_until('\n')
        (lease,) = slow.repo.glob('v1/*/*/leases/*')
        lease = json.loads(lease.read_text())
        assert lease['parent'] is None
        assert lease['expires'] - time.time() > 6 * 24 * 3600
        assert slow.stop(signal.SIGTERM) < 10
        line, *_, last = slow.said.splitlines()
        assert re.fullmatch(
            r'capture: \d+%, .* MiB of 300\.0 MiB(, .*)?', line
        ), line
        self.check(slow)

    def test_by_ctrl_c_on_a_terminal(self, slow):
        slow = slow(terminal=True)
        slow.read_until(r'\[=*>? *\] +\d+%')
        assert slow.stop(signal.SIGINT) < 10
        bars = [part for part in slow.said.split('\r\x1b[K') if '%' in part]
        assert all('\n' not in bar and len(bar) < 90 for bar in bars)
        assert '\r\x1b[Kironic-snapshot: interrupted' in slow.said
        self.check(slow)


    def test_an_export_that_nobody_reads(self, example):
        reading, writing = os.pipe()
        with subprocess.Popen(
            [*cli.COMMAND, 'export', example[1], 'golden', '-'],
            stdout=writing, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            os.close(writing)
            assert os.read(reading, 4) == b'QFI\xfb'
            # Not SIGINT: who runs the tests in the background ignores it,
            # and what is ignored is left so.
            process.terminate()
            _, said = process.communicate(timeout=30)
        os.close(reading)
        assert process.returncode == 130
        assert said == b'ironic-snapshot: interrupted\n'


def test_help_comes_at_once():
    times = []
    for _ in range(5):
        began = time.perf_counter()
        cli.succeed('--help')
        times.append(time.perf_counter() - began)
    assert min(times) <= 0.3


def limit_files():
    """No file may have more than a MiB."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (units.MiB, units.MiB))


def test_version():
    assert re.match(r'ironic-snapshot \d', cli.succeed('--version'))


def test_the_examples_of_the_manual_are_accepted():
    """Every line that the manual shows can be parsed."""
    manual = pathlib.Path(__file__).parents[2] / 'doc/source/cli.rst'
    lines = re.findall(
        r'^    (?:\$ )?ironic-snapshot (.*)$', manual.read_text(), re.M
    )
    assert len(lines) >= 5
    for line in lines:
        arguments.parse(line.split())
